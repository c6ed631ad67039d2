"""Reports side by side: pairs, exact test, tables, pictures; and the baselines that stand in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.baselines import PlannedPolicy, Planner, RandomPolicy, told_the_truth
from app.endpoint import ChatEndpoint
from app.evaluating import failure_videos
from sim.compare import group_means, markdown, mcnemar, pairing, plot
from sim.evaluate import EpisodeResult, Report, evaluate, summarise
from sim.interface import Action, Observation
from sim.suite import Seeds, Suite, TaskSpec, load_suite
from tests import fake_world
from tests.chat_server import chat_server
from tests.test_cli import fail, run
from tests.test_evaluate import SIZE, NoisyPolicy

SUITE = Suite(
    name="toy",
    success="first",
    tasks=tuple(
        TaskSpec(name=name, group=group, kind="open", seeds=Seeds(count=4), step_limit=3)
        for name, group in (("a", "plain"), ("b", "plain"), ("c", "odd"))
    ),
)


def report(model: str, solved: dict[str, str], suite: Suite = SUITE) -> Report:
    """`solved`: task -> a digit per seed."""
    results = [
        EpisodeResult(task, 1_000_000 + i, "", mark == "1", 3, 1.0)
        for task, marks in solved.items()
        for i, mark in enumerate(marks)
    ]
    return summarise(suite, model, results)


FIRST = report("off", {"a": "0000", "b": "1100", "c": "1111"})
SECOND = report("on", {"a": "1111", "b": "1110", "c": "0111"})


def test_mcnemar_has_the_textbook_values() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5) and mcnemar(0, 5) == mcnemar(5, 0)
    assert mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


def test_pairs_are_of_the_same_task_and_seed() -> None:
    pair = pairing(FIRST, SECOND)
    assert (pair.episodes, pair.gained, pair.lost) == (12, 5, 1)
    assert pair.p == mcnemar(5, 1)
    short = report("short", {"a": "1", "b": "1", "c": "1"})
    assert pairing(FIRST, short).episodes == 3
    with pytest.raises(ValueError, match="cannot be compared"):
        pairing(FIRST, report("x", {"a": "1", "b": "1", "c": "1"}, SUITE.model_copy(update={"name": "other"})))


def test_groups_and_the_whole_are_unweighted_means_over_tasks() -> None:
    assert group_means(FIRST) == {"plain": 0.25, "odd": 1.0, "all": pytest.approx(0.5)}


def test_tables_name_every_model_and_the_picture_is_one(tmp_path: Path) -> None:
    text = markdown([FIRST, SECOND])
    assert "| on | 87.5% | 75.0% | 83.3% | 10 of 12 |" in text and "+5 / -1 of 12 | 0.22 |" in text
    assert "| b | 2/4 | 3/4 |" in text and "first step" in text
    assert len({line.count("|") for line in text.split("\n\n")[1].splitlines()}) == 1
    plot([FIRST, SECOND], tmp_path / "deep" / "means.png")
    assert Image.open(tmp_path / "deep" / "means.png").size[0] > 400


def test_the_command_compares_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    FIRST.save(tmp_path / "off.json")
    SECOND.save(tmp_path / "on.json")
    assert Report.load(tmp_path / "on.json") == SECOND
    out = run("compare", *(str(tmp_path / f"{n}.json") for n in ("off", "on")), "--markdown", str(tmp_path / "t.md"),
              "--png", str(tmp_path / "t.png"))  # fmt: skip
    assert (tmp_path / "t.md").read_text() in out and (tmp_path / "t.png").exists()
    (tmp_path / "no.json").write_text("{}")
    assert "no report" in fail(monkeypatch, capsys, "compare", str(tmp_path / "no.json"))


def test_thinking_and_planners_arrive_where_they_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple] = []

    class Engine:
        def fingerprint(self) -> str:
            return "abc"

        def policy(self, think: bool) -> NoisyPolicy:
            seen.append(("think", think))
            return NoisyPolicy()

    def play(suite: Suite, make: Any, model: str, **options: Any) -> Report:
        if callable(make):
            make()
        seen.append((model, suite.tasks[0].instruction, options["record"]))
        return report(model, {"a": "1", "b": "1", "c": "1"})

    monkeypatch.setattr("sim.evaluate.evaluate", play)
    monkeypatch.setattr("app.remote.shared_engine", lambda *_: Engine())
    common = ["evaluate", "--suite", "tabletop-instruct"]
    run(*common, "--think", "off")
    own = load_suite("tabletop-instruct").tasks[0].instruction
    assert seen == [("think", False), ("generalist (abc), not thinking", own, False)]
    seen.clear()
    out = run(*common, "--planner-oracle", "--failures", str(tmp_path))
    assert seen == [("think", True), ("generalist (abc), thinking, oracle planner", None, True)]
    assert "mean success, plain" in out
    seen.clear()
    run(*common, "--model", "random")
    assert seen == [("random", own, False)]


def test_planner_options_are_checked(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    common = ["evaluate", "--suite", "tabletop-basic"]
    assert "--planner-model" in fail(monkeypatch, capsys, *common, "--planner-url", "http://127.0.0.1:9")
    assert "reads no instruction" in fail(monkeypatch, capsys, *common, "--model", "expert", "--planner-oracle")


def test_the_oracle_speaks_in_templates() -> None:
    told = told_the_truth(load_suite("tabletop-instruct"))
    texts = {scene.text for _, scene in told.scenes(1)}
    assert any(text.startswith("pick up the") for text in texts) and any(", then " in text for text in texts)


def test_the_planner_sees_the_first_picture_and_replaces_the_instruction() -> None:
    class Follower:
        needs_image = False
        told: list[tuple[str, int]] = []

        def reset(self, instruction: str, seed: int = 0) -> None:
            self.told.append((instruction, seed))

        def act(self, observation: Observation) -> Action:
            return np.zeros(7, np.float32)

    answer = json.dumps({"command": "pick up the sponge"})
    with chat_server(lambda body: (200, answer)) as server:
        policy = PlannedPolicy(Planner(ChatEndpoint(server.url, "m")), Follower())
        policy.reset("there is milk on the table", 7)
        assert policy.needs_image
        seen = Observation(np.zeros((24, 32, 3), np.uint8), np.zeros(8, np.float32), 0)
        policy.act(seen)
        assert not policy.needs_image
        policy.act(seen)
    assert Follower.told == [("pick up the sponge", 7)] and len(server.requests) == 1
    content = server.requests[0][2]["messages"][1]["content"]
    assert content[0]["type"] == "image_url" and content[1]["text"].endswith("there is milk on the table")


def test_random_actions_are_seeded_small_and_blind() -> None:
    policies = [RandomPolicy() for _ in range(3)]
    blind = Observation(None, np.zeros(8, np.float32), 0)
    for policy, seed in zip(policies, (1, 1, 2), strict=True):
        policy.reset("anything", seed)
    first, same, other = (np.stack([policy.act(blind) for _ in range(20)]) for policy in policies)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other) and not policies[0].needs_image
    assert np.abs(first[:, :3]).max() <= 0.03 and set(first[:, 6]) <= {0.0, 1.0}


def test_failed_episodes_leave_videos(tmp_path: Path) -> None:
    keep = failure_videos(tmp_path / "videos")
    result = evaluate(
        SUITE, NoisyPolicy, "noisy", episodes=1, workers=1, record=True, on_episode=keep, world=fake_world.PATH,
        image_size=SIZE, progress=False,
    )  # fmt: skip
    failed = [r for r in result.results if not r.success]
    assert failed and len(list((tmp_path / "videos").glob("*.mp4"))) == len(failed)
    assert "drawer" in (tmp_path / "videos" / f"a-{failed[0].seed}.txt").read_text()
