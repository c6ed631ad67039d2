"""Suites say what is played; a bad file is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.suite import (
    EVALUATION_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    Suite,
    TaskSpec,
    load_suite,
    split_of,
    suite_names,
)
from sim.tasks import KINDS, Goal

GOOD = """
name: mine
success: first
tasks:
  - {name: drawers, kind: open, seeds: {start: 1000000, count: 3}}
  - name: shut it
    goal: {kind: close, target: top}
    instruction: that drawer should not stand open
    vary: [light, camera]
    step_limit: 40
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_basic_suite_plays_every_family_on_evaluation_seeds() -> None:
    suite = load_suite("tabletop-basic")
    assert "tabletop-basic" in suite_names()
    assert [task.kind for task in suite.tasks] == list(KINDS)
    for task in suite.tasks:
        scenes = list(task.scenes())
        assert len(scenes) == 20 and all(scene.seed in EVALUATION_SEEDS for scene in scenes)
        assert {scene.goal.kind for scene in scenes} == {task.kind}
        assert all(scene.distractors == 1 for scene in scenes) or task.kind in ("open", "close")


def test_scenes_follow_the_file(tmp_path: Path) -> None:
    drawers, shut = load_suite(written(tmp_path, GOOD)).tasks
    assert len(list(drawers.scenes())) == 3 and len(list(drawers.scenes(5))) == 5
    assert drawers.scene(1_000_001) == drawers.scene(1_000_001)
    assert len({scene.goal for scene in drawers.scenes(30)}) == 3
    scene = shut.scene(1_000_000)
    assert scene.goal == Goal(kind="close", target="top")
    assert scene.text == "that drawer should not stand open" and scene.limit == 40
    assert scene.vary == {"light", "camera"}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("success: first", "", r"suite\.yaml, success: Field required"),
        ("success: first", "success: best", r"suite\.yaml, success: Input should be"),
        ("kind: open", "kind: juggle", r"tasks\[0\]\.kind: Input should be 'pick'"),
        ("kind: open", "distractors: 0", r"tasks\[0\]: give either kind"),
        ("kind: open", "kind: open, goal: {kind: open, target: top}", r"tasks\[0\]: give either kind"),
        ("start: 1000000", "start: 7", r"tasks\[0\]\.seeds: seeds must lie in 500000\.\.1999999"),
        ("count: 3", "count: 0", r"tasks\[0\]\.seeds\.count: .*greater than or equal to 1"),
        ("target: top", "target: lowest", r"tasks\[1\]\.goal: close needs no source"),
        ("step_limit: 40", "steplimit: 40", r"tasks\[1\]\.steplimit: Extra inputs are not permitted"),
        ("name: shut it", "name: drawers", r"suite\.yaml: two tasks are called 'drawers'"),
        ("[light, camera]", "[light", r"suite\.yaml, line \d+, column \d+: is not valid YAML"),
        (GOOD, "- just\n- a list", r"suite\.yaml: a suite is a mapping"),
        (GOOD, "", r"suite\.yaml: a suite is a mapping"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=complaint) as caught:
        load_suite(written(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_unknown_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no suite 'tabletop-basics'; choose one of .*tabletop-basic"):
        load_suite("tabletop-basics")
    with pytest.raises(ValueError, match=r"missing\.yaml: cannot be read"):
        load_suite(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_suite(tmp_path / "binary.yaml")


def test_the_splits_cover_all_seeds_without_overlap() -> None:
    assert TRAIN_SEEDS.stop == VALIDATION_SEEDS.start and VALIDATION_SEEDS.stop == EVALUATION_SEEDS.start
    assert [split_of(seed) for seed in (0, 499_999, 500_000, 999_999, 1_000_000)] == [
        "train",
        "train",
        "validation",
        "validation",
        "evaluation",
    ]
    with pytest.raises(ValueError, match="-1 does not"):
        split_of(-1)


def test_a_suite_needs_a_task() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        Suite(name="empty", success="first", tasks=())
    assert TaskSpec(name="a", kind="open").seeds.count == 20
