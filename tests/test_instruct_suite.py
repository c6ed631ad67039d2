"""tabletop-instruct: 80 tasks in held-out words; success at the last step, two steps, several acceptable goals."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from model.data.splits import pair_split
from model.data.wording import further_needs, lists, needs_of, sentences
from sim import objects
from sim.evaluate import evaluate
from sim.expert import expert_action
from sim.scenes import Tabletop
from sim.suite import Seeds, Suite, TaskSpec, load_suite
from sim.tasks import DRAWERS, Goal, SceneSpec
from tests import fake_world

ROOT = Path(__file__).resolve().parents[1]
PUT = Goal(kind="put_on", source="carrot", target="blue_plate")
PICK = Goal(kind="pick", source="lemon")


@pytest.fixture(scope="module")
def builder() -> Iterator[ModuleType]:
    """The script assets/build_suite.py, imported."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("build_suite", ROOT / "assets" / "build_suite.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_suite"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    del sys.modules["build_suite"]


def test_the_file_is_what_the_script_writes(builder: ModuleType) -> None:
    assert Suite.model_validate(builder.build()) == load_suite("tabletop-instruct")


def test_it_has_the_benchmarks_proportions() -> None:
    suite = load_suite("tabletop-instruct")
    assert Counter(task.group for task in suite.tasks) == {"aggregation": 50, "situated": 30}
    assert suite.success == "last" and 1050 <= sum(task.seeds.count for task in suite.tasks) <= 1200
    seeds = [seed for task in suite.tasks for seed in range(task.seeds.start, task.seeds.start + task.seeds.count)]
    assert len(set(seeds)) == len(seeds) and not set(seeds) & set(range(1_000_000, 1_001_000))
    sorts = Counter(task.name.rsplit(" ", 1)[0].split()[0] for task in suite.tasks)
    assert set(sorts) == {"verbs", "language", "attribute", "other", "unseen", "letters", "steps", "both", "common",
                          "tools", "exceptions"}  # fmt: skip
    assert sorts["both"] == 4 and sum(bool(task.also) for task in suite.tasks) == 2
    texts = [task.instruction for task in suite.tasks]
    assert len(set(texts)) == 80 and None not in texts


def test_its_sentences_are_of_the_test_split_and_its_pairs_too() -> None:
    suite = load_suite("tabletop-instruct")
    held_out = {s for need in needs_of("test") for s in need.says}
    for name, _ in lists():
        place = name.split(" ")
        if place[0] not in ("need", "questions", "photos", "caption"):
            held_out |= set(sentences("test", *place))
    patterns = {sentence: re.compile(_pattern(sentence)) for sentence in held_out}
    trained = {s for name, items in lists() for s in items if not name.startswith("questions")} - held_out
    trained |= {s for need in further_needs() for s in need.says}
    literal = [s for s in trained if "{" not in s and len(s.split()) > 3]
    for task in suite.tasks:
        text = task.instruction or ""
        assert any(pattern.search(text) for pattern in patterns.values()), text
        assert not [sentence for sentence in literal if sentence in text], text
        goal, unseen = task.goal, {info.id for info in objects.catalog().values() if info.unseen}
        assert goal is not None
        if goal.target not in (None, *DRAWERS) and not task.name.startswith("letters") and goal.source not in unseen:
            assert pair_split(goal.model_dump()) == "test", task.name
    shown = {goal.source for task in suite.tasks if (goal := task.goal) is not None}
    assert unseen <= shown


def _pattern(sentence: str) -> str:
    parts = [re.escape(part) for part in re.split(r"\{\w*\}", sentence)]
    return "(?i)" + ".+".join(parts)


def test_scenes_take_two_steps_and_say_what_does_not_go() -> None:
    spec = SceneSpec(goal=PUT, then=PICK, seed=3)
    assert spec.steps == (PUT, PICK) and spec.limit == 110
    assert spec.text == "put the carrot on the blue plate, then pick up the lemon"
    with pytest.raises(ValueError, match="A drawer cannot be"):
        SceneSpec(goal=PUT, then=Goal(kind="open", target="top"), seed=3)
    with pytest.raises(ValueError, match="name it under objects"):
        SceneSpec(goal=PICK, also=(Goal(kind="pick", source="apple"),), seed=3)
    with pytest.raises(ValueError, match="need a fixed goal"):
        TaskSpec(name="a", kind="pick", then=PICK)


def test_the_last_step_decides_where_a_suite_says_so() -> None:
    """The toy expert arrives early; an episode under "last" goes on to the limit."""
    tasks = (TaskSpec(name="open", kind="open", seeds=Seeds(count=2), step_limit=25),)
    played = {}
    for success in ("first", "last"):
        suite = Suite(name="toy", success=success, tasks=tasks)
        assert [scene.ending for _, scene in suite.scenes()] == [success, success]
        report = evaluate(
            suite, "expert", "expert", workers=1, world=fake_world.PATH, image_size=(32, 24), progress=False
        )
        played[success] = [result.steps for result in report.results]
        assert report.success == success and report.mean_success == 1.0
    assert played["last"] == [25, 25] and max(played["first"]) < 25


@pytest.fixture(scope="module")
def table() -> Iterator[Tabletop]:
    tabletop = Tabletop(image_size=(64, 48))
    yield tabletop
    tabletop.close()


def play(table: Tabletop, spec: SceneSpec) -> tuple[list[bool], int]:
    table.reset(spec, render=False)
    successes = []
    while True:
        result = table.step(table.expert_action(), render=False)
        successes.append(result.success)
        if result.done:
            return successes, len(successes)


def test_the_expert_does_both_steps_and_they_count_together(table: Tabletop) -> None:
    spec = SceneSpec(goal=PUT, then=PICK, seed=1_300_000, objects=("red_cube",), ending="last")
    successes, steps = play(table, spec)
    assert steps == spec.limit and successes[-1]
    alone = SceneSpec(goal=PUT, seed=1_300_000, objects=("red_cube", "lemon"))
    assert successes.index(True) > play(table, alone)[1]


def test_another_acceptable_goal_counts(table: Tabletop) -> None:
    apple = Goal(kind="pick", source="apple")
    spec = SceneSpec(goal=PICK, also=(apple,), objects=("apple",), seed=1_300_002)
    swapped = spec.model_copy(update={"goal": apple, "also": (PICK,), "objects": ("lemon",)})
    assert play(table, spec)[0][-1] and play(table, swapped)[0][-1]
    # The same scene, played towards the other goal: it still succeeds, and without `also` it would not.
    for also, solved in (((apple,), True), ((), False)):
        table.reset(spec.model_copy(update={"also": also}), render=False)
        while not (result := table.step(expert_action(apple, table.snapshot()), render=False)).done:
            pass
        assert result.success == solved
