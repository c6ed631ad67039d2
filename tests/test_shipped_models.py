"""The shipped models, for real: they load, think, drive the simulator and answer. Set-up has fetched their backbone."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from app import controller
from app.events import Command, Frame, Outcome, Planned, SceneReady, ThoughtDone, ThoughtToken
from app.quiz import quizzed
from app.recording import Recorder
from app.steering import Steering
from model import checkpoints
from model.config import CHECKPOINTS, GENERALIST, STAGE1
from model.data.scenes import SceneWriter
from model.data.splits import seed_held_out
from model.drafts import Drafts
from model.engine import Engine
from model.policy import InstructPolicy
from sim.suite import EVALUATION_SEEDS
from sim.tasks import Goal, SceneSpec
from sim.worker import SimWorker

SCENE = SceneSpec(goal=Goal(kind="put_on", source="strawberry", target="white_plate"), seed=EVALUATION_SEEDS.start + 1)


@pytest.fixture(scope="module", params=[GENERALIST, STAGE1])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(request.param).wait()


@pytest.fixture(scope="module", params=[GENERALIST, STAGE1])
def precise(request: pytest.FixtureRequest) -> Engine:
    """In float32 on every processor."""
    with patch.object(checkpoints, "fast_dtype", return_value=torch.float32):
        return Engine(request.param).wait()


@pytest.fixture(scope="module")
def worker() -> Iterator[SimWorker]:
    worker = SimWorker()
    yield worker
    worker.close()


@pytest.mark.parametrize("name", [GENERALIST, STAGE1])
def test_a_checkpoint_fits_its_budget_and_has_a_card(name: str) -> None:
    folder = CHECKPOINTS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 120e6
    assert (folder / "README.md").is_file() and (folder / "evaluation.json").is_file()


def test_a_full_rollout_thinks_approaches_and_is_recorded(engine: Engine, worker: SimWorker, tmp_path: Path) -> None:
    command = Command(SCENE, think=True, seed=0)
    recorder = Recorder(command, engine.describe())
    events = []
    start = end = np.inf
    for event in controller.run(command, worker, engine.policy(think=True), Steering()):
        recorder.add(event)
        events.append(event)
        if isinstance(event, (SceneReady, Frame)):
            distance = float(np.linalg.norm(np.subtract(worker.keypoints()["source"][2:4], tool(worker)[:2])))
            start, end = (distance, distance) if isinstance(event, SceneReady) else (start, min(end, distance))
    assert isinstance(events[-1], Outcome)
    thought = next(event for event in events if isinstance(event, ThoughtDone))
    assert "strawberry" in thought.text and "white plate" in thought.text
    assert thought.text == "".join(e.text for e in events if isinstance(e, ThoughtToken))[: len(thought.text)]
    assert any(isinstance(event, Planned) and event.focus for event in events)
    assert end < min(0.03, 0.5 * start), f"the tool came no closer than {end:.3f} m, from {start:.3f} m"
    recording = recorder.save(tmp_path)
    assert (recording.folder / "rollout.mp4").stat().st_size > 10_000


@pytest.mark.parametrize("text", [SCENE.text, "I am hungry, but leave the plate alone"])
def test_guessing_words_changes_neither_thought_nor_latents(precise: Engine, worker: SimWorker, text: str) -> None:
    """The plain thought is guessed to its end, with the latents behind it; both are as if written word by word."""
    (words, latents, passes), (written, others, each) = guessed_and_written(precise, worker, text)
    assert words == written != ""
    torch.testing.assert_close(latents, others, atol=0.05, rtol=0.02)
    assert passes < each / 2


def test_guessing_words_changes_no_more_than_rounding_does(engine: Engine, worker: SimWorker) -> None:
    """The same in what is fast here, where a sum in another order may be another number: far from another command's."""
    (words, latents, _), (written, others, _) = guessed_and_written(engine, worker, SCENE.text)
    *_, (_, another, _) = guessed_and_written(engine, worker, "pick up the strawberry")
    assert words == written != ""
    assert (latents - others).norm() < 0.2 * (another - others).norm()


def guessed_and_written(engine: Engine, worker: SimWorker, text: str) -> list[tuple[str, torch.Tensor, int]]:
    """With guesses and without: the thought, the latents behind it, and the passes that both took."""
    seen, told = worker.reset(SCENE), []
    forward = engine.model.decoder.forward
    for guesses in (engine._drafts, Drafts(())):
        policy = engine.policy(think=True)
        assert isinstance(policy, InstructPolicy)
        policy._drafts = guesses
        policy.reset(text)
        with patch.object(engine.model.decoder, "forward", side_effect=forward) as counted:
            words = "".join(policy.think(seen))
            policy.act(seen)
            passes = counted.call_count
        assert policy._latents is not None
        told.append((words, policy._latents.float(), passes))
    return told


def tool(worker: SimWorker) -> np.ndarray:
    return worker.observe(render=False).proprio[:3]


def test_stopping_ends_a_rollout_within_one_step(engine: Engine, worker: SimWorker) -> None:
    steering = Steering()
    seen = []
    for event in controller.run(Command(SCENE, think=False, seed=0), worker, engine.policy(think=False), steering):
        seen.append(event)
        if isinstance(event, Frame):
            steering.halt()
    assert sum(isinstance(event, Frame) for event in seen) == 1
    assert isinstance(seen[-1], Outcome) and seen[-1].stopped


def test_it_answers_about_a_picture(engine: Engine, worker: SimWorker) -> None:
    image = worker.reset(SCENE).image
    assert image is not None
    answer = "".join(engine.ask(image, "Is there a strawberry on the table?"))
    assert answer.strip() and answer == "".join(engine.ask(image, "Is there a strawberry on the table?"))


def test_a_quiz_says_what_requests_come_to(tmp_path: Path) -> None:
    writer, seed = SceneWriter(tmp_path), next(seed for seed in range(100) if seed_held_out(seed))
    picture = (CHECKPOINTS.parent / "examples" / "02-put-on" / "poster.jpg").read_bytes()
    writer.add("one", seed, picture, {"carrot": [0.4, 0.6], "white_plate": [0.6, 0.5]}, {})
    scores = quizzed(STAGE1, None, tmp_path, limit=1)
    assert scores["scene questions"] == 8 and 0 <= scores["meant"] <= scores["replies"] <= 1
    assert scores["reply plain"] > 0.4  # what stage 1 learned to say of plain commands
    assert "gate text" not in scores  # one expert has no gates
