"""One rollout as events: order, thoughts, stopping, failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from app import controller
from app.events import (
    Command,
    Event,
    Failure,
    Frame,
    Outcome,
    Planned,
    SceneReady,
    Steered,
    StepTiming,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
    from_json,
    to_json,
)
from app.pilots import Scripted
from app.steering import Steering
from sim.disturb import Disturbance
from sim.interface import Action, Observation, StepResult
from sim.tasks import Goal, SceneSpec
from sim.worker import WorkerError

SPEC = SceneSpec(goal=Goal(kind="open", target="top"), seed=3, instruction="open the <b>top</b> one", step_limit=6)


class FakeSimulator:
    """Succeeds after `solved_at` steps; breaks at `breaks_at`."""

    def __init__(self, solved_at: int = 4, breaks_at: int = -1) -> None:
        self.solved_at, self.breaks_at = solved_at, breaks_at
        self.steps = 0
        self.last_jpeg = b""
        self.timings = {"simulate": 1.0, "render": 0.5, "encode": 0.25}
        self.changed: list[str] = []

    def _look(self) -> Observation:
        self.last_jpeg = b"frame %d" % self.steps
        return Observation(None, np.zeros(8, np.float32), self.steps)

    def reset(self, spec: SceneSpec) -> Observation:
        self.steps, self.limit = 0, spec.limit
        return self._look()

    def step(self, action: Action, render: bool = True) -> StepResult:
        if self.steps == self.breaks_at:
            raise WorkerError("The simulator stopped.")
        self.steps += 1
        success = self.steps == self.solved_at
        return StepResult(self._look(), success, success or self.steps == self.limit)

    def disturb(self, change: Disturbance) -> Observation:
        if self.steps == 0:
            raise ValueError("The robot holds it.")
        self.changed.append(change.text)
        observation = self._look()
        self.last_jpeg = b"changed"
        return observation

    def expert_action(self) -> Action:
        return np.zeros(7, np.float32)


class FakePolicy:
    """Thinks before steps 0 and 3, plans every third step."""

    focus = {"source": (0.2, 0.4), "target": (0.6, 0.4)}
    heat = {"source": "0f/00", "target": "00/f0"}
    gate: float | None = None

    def __init__(self) -> None:
        self.acted = 0
        self.thought_at = -1
        self.timings = {"plan": 12.0}

    def reset(self, instruction: str, seed: int = 0) -> None:
        self.instruction, self.seed = instruction, seed

    @property
    def needs_image(self) -> bool:
        return self.acted % 3 == 0

    @property
    def thinking_due(self) -> bool:
        return self.needs_image and self.thought_at != self.acted

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        self.thought_at = self.acted
        for self.gate, piece in zip((0.1, 0.2, 0.9), ("I will ", "pull ", "the top drawer. "), strict=True):
            yield piece

    def instruct(self, instruction: str) -> None:
        self.instruction = instruction

    def rethink(self, observation: Observation, thought: str) -> None:
        if len(thought) > 20:
            raise ValueError("Too long: shorten it.")
        self.edited = (observation.step, thought)

    def act(self, observation: Observation) -> Action:
        self.acted += 1
        return np.zeros(7, np.float32)


def play(simulator: FakeSimulator, policy: FakePolicy, steering: Steering | None = None) -> Iterator[Event]:
    return controller.run(Command(SPEC, seed=11), simulator, policy, steering or Steering())


def test_every_piece_of_a_thought_comes_with_its_gate() -> None:
    pieces = [event for event in play(FakeSimulator(), FakePolicy()) if isinstance(event, ThoughtToken)]
    assert [piece.gate for piece in pieces[:3]] == [0.1, 0.2, 0.9]


def test_events_come_in_the_order_of_a_rollout() -> None:
    policy = FakePolicy()
    events = list(play(FakeSimulator(), policy))
    step: list[type] = [Frame, StepTiming]
    thought: list[type] = [ThoughtStarted, ThoughtToken, ThoughtToken, ThoughtToken, ThoughtDone, Planned]
    assert [type(event) for event in events] == [SceneReady, *thought, *step * 3, *thought, *step, Outcome]
    assert (policy.instruction, policy.seed) == (SPEC.instruction, 11)
    assert events[0] == SceneReady(b"frame 0", SPEC, "open the <b>top</b> one", (0.0,) * 8)
    assert [e.text for e in events if isinstance(e, ThoughtDone)] == ["I will pull the top drawer."] * 2
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.jpeg for frame in frames] == [b"frame 1", b"frame 2", b"frame 3", b"frame 4"]
    assert frames[-1].sim_time == pytest.approx(0.8)
    end = events[-1]
    assert isinstance(end, Outcome) and end.success and end.steps == 4 and not end.stopped and "drawer" in end.rule


def test_the_step_limit_ends_an_unsolved_rollout() -> None:
    end = list(play(FakeSimulator(solved_at=100), FakePolicy()))[-1]
    assert isinstance(end, Outcome) and not end.success and not end.stopped and end.steps == 6


@pytest.mark.parametrize("kind", [SceneReady, ThoughtStarted, ThoughtToken, ThoughtDone, Planned, Frame, StepTiming])
def test_stop_lets_no_further_control_step_happen(kind: type) -> None:
    """Whatever the moment at which the visitor presses Stop, the simulator is not asked for another step."""
    steering, simulator = Steering(), FakeSimulator()
    taken, events = -1, []
    for event in play(simulator, FakePolicy(), steering):
        events.append(event)
        if isinstance(event, kind) and not steering.stop.is_set():
            steering.halt()
            taken = simulator.steps
    assert simulator.steps == taken
    assert isinstance(events[-1], Outcome) and events[-1].stopped and events[-1].steps == taken


def test_stop_during_a_thought_cuts_it_short() -> None:
    steering, words = Steering(), []
    for event in play(FakeSimulator(), FakePolicy(), steering):
        if isinstance(event, ThoughtToken):
            words.append(event.text)
            steering.halt()
    assert words == ["I will "]


def test_a_broken_simulator_becomes_one_sentence() -> None:
    events = list(play(FakeSimulator(breaks_at=2), FakePolicy()))
    assert events[-1] == Failure("The simulator stopped.")
    assert sum(isinstance(event, Frame) for event in events) == 2


@pytest.mark.parametrize("think", [True, False])
def test_the_expert_says_that_it_is_one(think: bool) -> None:
    simulator = FakeSimulator()
    policy = Scripted().policy(simulator, SPEC, think)
    events = list(controller.run(Command(SPEC, think), simulator, policy, Steering()))
    thoughts = [event.text for event in events if isinstance(event, ThoughtDone)]
    assert len(thoughts) == int(think)
    assert not think or ("Scripted expert" in thoughts[0] and "open the top drawer" in thoughts[0])
    assert isinstance(events[-1], Outcome) and events[-1].success


def test_events_as_json_leave_the_pictures_out() -> None:
    lines = [to_json(event) for event in play(FakeSimulator(), FakePolicy())]
    assert lines[0]["type"] == "SceneReady" and SceneSpec.model_validate(lines[0]["spec"]) == SPEC
    assert not any("jpeg" in line for line in lines)


def test_a_paused_rollout_takes_single_steps_and_goes_on() -> None:
    steering, events, given = Steering(), [], iter(["step", "step", "resume"])
    steering.give("pause")
    for event in play(FakeSimulator(), FakePolicy(), steering):
        events.append(event)
        if isinstance(event, Steered | StepTiming) and (order := next(given, None)):
            assert sum(isinstance(e, Frame) for e in events) <= 2
            steering.give(order)  # type: ignore[arg-type]
    orders = [(event.order, event.step) for event in events if isinstance(event, Steered)]
    assert orders[:2] == [("pause", 0), ("step", 0)] and ("resume", orders[-1][1]) == orders[-1]
    assert isinstance(events[-1], Outcome) and events[-1].success and events[-1].steps == 4


def test_a_paused_rollout_waits_and_can_be_stopped() -> None:
    steering, simulator = Steering(), FakeSimulator()
    steering.give("pause")
    rollout = play(simulator, FakePolicy(), steering)
    assert isinstance(next(rollout), SceneReady) and isinstance(next(rollout), Steered)
    threading.Timer(0.05, steering.halt).start()
    end = next(rollout)  # waits until then
    assert isinstance(end, Outcome) and end.stopped and simulator.steps == 0


def test_new_words_and_an_edited_thought_reach_the_policy_and_the_record() -> None:
    steering, policy, events = Steering(), FakePolicy(), []
    for event in play(FakeSimulator(), policy, steering):
        events.append(event)
        if isinstance(event, Frame) and event.step == 2:
            steering.give("instruct", "shut it")
            steering.give("rethink", "I will shut it.")
            steering.give("rethink", "I will " * 10)
    assert policy.instruction == "shut it" and policy.edited == (2, "I will shut it.")
    told = [event for event in events if isinstance(event, Steered)]
    assert told[0] == Steered("instruct", 2, "shut it") and told[1].problem == ""
    assert told[2].problem == "Too long: shorten it." and isinstance(events[-1], Outcome), "it goes on"


def test_a_changed_scene_is_seen_by_the_policy_and_kept_in_the_record() -> None:
    steering, simulator, events = Steering(), FakeSimulator(), []
    steering.give("disturb", "change the light")
    for event in play(simulator, FakePolicy(), steering):
        events.append(event)
        if isinstance(event, Frame) and event.step == 2:
            steering.give("disturb", "change the light")
            steering.give("disturb", "nudge the moon")
    held, changed, unknown = (event for event in events if isinstance(event, Steered))
    assert held.problem == "The robot holds it." and held.jpeg == b""
    assert (changed.step, changed.jpeg, changed.problem) == (2, b"changed", "") and simulator.changed == [changed.text]
    assert "nudge the moon" in unknown.problem and isinstance(events[-1], Outcome)


def test_a_step_says_where_its_time_went_and_where_the_robot_is() -> None:
    events = list(play(FakeSimulator(), FakePolicy()))
    timing = next(event for event in events if isinstance(event, StepTiming))
    assert (timing.render_ms, timing.encode_ms) == (0.5, 0.25) and timing.policy_ms >= 0
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.success for frame in frames] == [False, False, False, True] and len(frames[0].proprio) == 8
    assert next(event.heat for event in events if isinstance(event, Planned)) == FakePolicy.heat


def test_events_survive_the_log() -> None:
    for event in play(FakeSimulator(), FakePolicy()):
        back = from_json(json.loads(json.dumps(to_json(event))))
        assert back is not None and type(back) is type(event)
        assert json.dumps(to_json(back)) == json.dumps(to_json(event))
        assert not isinstance(event, Frame) or replace(back, jpeg=event.jpeg) == event  # type: ignore[type-var]
    assert from_json({"type": "Recording", "model": "nano"}) is None and from_json({}) is None
