"""Evaluation on a toy world: honest numbers, resumable runs, results that don't depend on the number of workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.evaluate import EpisodeResult, Report, evaluate, summarise, wilson
from sim.interface import Action, Observation
from sim.suite import EVALUATION_SEEDS, Seeds, Suite, TaskSpec
from sim.tasks import Goal
from sim.worker import WorkerStartError
from tests import fake_world

START = EVALUATION_SEEDS.start
SUITE = Suite(
    name="toy",
    success="first",
    tasks=(
        TaskSpec(name="open", kind="open", seeds=Seeds(count=4), step_limit=20),
        TaskSpec(name="close", kind="close", seeds=Seeds(start=START + 50, count=3), step_limit=3),
    ),
)
SIZE = (32, 24)


class NoisyPolicy:
    """Goes to the origin from what it sees, with its own seeded noise, and looks at every other image only."""

    def reset(self, instruction: str, seed: int = 0) -> None:
        assert "drawer" in instruction
        self.rng = np.random.default_rng(seed)
        self.needs_image = True

    def act(self, observation: Observation) -> Action:
        assert observation.image is not None or not self.needs_image
        self.needs_image = not self.needs_image
        move = np.clip(-observation.proprio[:3], -0.05, 0.05) + self.rng.normal(0, 0.01, 3)
        return np.append(move, [0, 0, 0, 1]).astype(np.float32)


def run(workers: int = 1, world: str = fake_world.PATH, **options: object) -> Report:
    settings: dict[str, object] = {"progress": False, "image_size": SIZE} | options
    return evaluate(SUITE, NoisyPolicy, "noisy", workers=workers, world=world, **settings)  # type: ignore[arg-type]


def untimed(report: Report) -> list[EpisodeResult]:
    return [replace(result, seconds=0.0) for result in report.results]


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    one, three = run(1), run(3)
    assert untimed(one) == untimed(three)
    assert one.mean_success == three.mean_success
    assert 0 < sum(result.success for result in one.results) < 7
    assert [result.seed for result in one.results] == [START + i for i in range(4)] + [START + 50 + i for i in range(3)]


def test_wilson_interval_has_the_textbook_values() -> None:
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_mean_gives_each_task_the_same_weight() -> None:
    results = [EpisodeResult("open", START + i, "", True, 10, 2.0) for i in range(4)]
    results += [EpisodeResult("close", START + 50, "", False, 40, 5.0)]
    report = summarise(SUITE, "m", results)
    assert report.mean_success == 0.5  # not 4/5
    assert report.episodes == 5
    assert report.tasks[0].control_hz == 5.0 and report.tasks[1].mean_steps == 40.0
    assert report.control_hz == pytest.approx(80 / 13)


def test_the_json_has_the_promised_fields(tmp_path: Path) -> None:
    path = tmp_path / "out" / "noisy.json"
    run(json_path=path, episodes=2)
    report = json.loads(path.read_text())
    assert (report["model"], report["suite"], report["episodes"]) == ("noisy", "toy", 4)
    assert 0 <= report["mean_success"] <= 1 and report["control_hz"] > 0
    for task, name in zip(report["tasks"], ("open", "close"), strict=True):
        assert task["name"] == name and task["episodes"] == 2
        assert 0 <= task["wilson_low"] <= task["successes"] / 2 <= task["wilson_high"] <= 1
        assert task["mean_steps"] > 0 and task["control_hz"] > 0
    assert {"seed", "success", "steps", "instruction"} <= set(report["results"][0])
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "noisy.json"
    played: list[tuple[str, int]] = []

    def stop_after_three(result: EpisodeResult, frames: list[bytes]) -> None:
        played.append((result.task, result.seed))
        if len(played) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(json_path=path, on_episode=stop_after_three)
    kept = tmp_path / "noisy.episodes.jsonl"
    assert len(kept.read_text().splitlines()) == 1 + 3 and not path.exists()
    with kept.open("a") as file:
        file.write('{"task": "open", "se')  # as a killed process leaves it

    with pytest.raises(ValueError, match="another model or suite"):
        evaluate(SUITE, NoisyPolicy, "other", json_path=path, world=fake_world.PATH, progress=False)

    again: list[tuple[str, int]] = []
    report = run(json_path=path, on_episode=lambda result, frames: again.append((result.task, result.seed)))
    assert len(again) == 4 and not set(again) & set(played)
    assert untimed(report) == untimed(run())
    assert path.exists() and not kept.exists()


def test_the_expert_needs_no_policy_and_no_images() -> None:
    frames: dict[int, int] = {}

    def count(result: EpisodeResult, jpegs: list[bytes]) -> None:
        frames[result.seed] = len(jpegs)

    report = evaluate(
        SUITE, "expert", "expert", world=fake_world.PATH, image_size=SIZE, progress=False, on_episode=count
    )
    assert report.tasks[0].successes == 4
    assert set(frames.values()) == {0}


def test_a_request_of_two_steps_is_one_episode_of_one_instruction() -> None:
    put, pick = Goal(kind="put_on", source="carrot", target="blue_plate"), Goal(kind="pick", source="lemon")
    both = TaskSpec(name="both", goal=put, then=pick, seeds=Seeds(count=2), step_limit=20)
    told: list[str] = []

    class Listener(NoisyPolicy):
        def reset(self, instruction: str, seed: int = 0) -> None:
            told.append(instruction)
            super().reset("drawer", seed)

    suite = Suite(name="steps", success="last", tasks=(both,))
    report = evaluate(suite, Listener, "m", workers=1, world=fake_world.PATH, progress=False, image_size=SIZE)
    assert report.errors == 0 and told == ["put the carrot on the blue plate, then pick up the lemon"] * 2


def test_recording_renders_every_step_for_videos() -> None:
    lengths: list[tuple[int, int]] = []
    run(record=True, episodes=1, on_episode=lambda result, frames: lengths.append((result.steps, len(frames))))
    assert len(lengths) == 2 and all(frames == steps + 1 for steps, frames in lengths)


def test_a_failing_simulator_is_an_error_and_never_a_success(tmp_path: Path) -> None:
    path = tmp_path / "noisy.json"
    report = run(world="tests.fake_world:CrashesOnASeed", json_path=path)
    lost = [result for result in report.results if result.error]
    assert [(result.seed, result.success) for result in lost] == [(START + 1, False)]
    assert lost[0].error is not None and "crashed during step" in lost[0].error
    assert report.errors == report.tasks[0].errors == 1 and report.tasks[0].episodes == 4
    healthy = [result for result in untimed(run()) if result.seed != START + 1]
    assert [result for result in untimed(report) if not result.error] == healthy


def test_a_passing_failure_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_FLAG", str(tmp_path / "flag"))
    report = run(world="tests.fake_world:CrashesOnce")
    assert (tmp_path / "flag").exists() and report.errors == 0
    assert untimed(report) == untimed(run())


def test_no_simulator_at_all_ends_the_run() -> None:
    with pytest.raises(WorkerStartError, match="no Vulkan device"):
        run(world="tests.fake_world:UnbuildableWorld")


def test_a_broken_policy_ends_the_run() -> None:
    class Broken(NoisyPolicy):
        def act(self, observation: Observation) -> Action:
            raise ZeroDivisionError("no such weights")

    with pytest.raises(ZeroDivisionError):
        evaluate(SUITE, Broken, "broken", world=fake_world.PATH, image_size=SIZE, progress=False)
