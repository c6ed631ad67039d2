"""One rollout as events: order, thoughts, stopping, failures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

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
    StepTiming,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
    to_json,
)
from app.pilots import Scripted
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

    def expert_action(self) -> Action:
        return np.zeros(7, np.float32)


class FakePolicy:
    """Thinks before steps 0 and 3, plans every third step."""

    focus = {"source": (0.2, 0.4), "target": (0.6, 0.4)}

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
        yield from ("I will ", "pull ", "the top drawer. ")

    def act(self, observation: Observation) -> Action:
        self.acted += 1
        return np.zeros(7, np.float32)


def play(simulator: FakeSimulator, policy: FakePolicy, stop: threading.Event | None = None) -> Iterator[Event]:
    return controller.run(Command(SPEC, seed=11), simulator, policy, stop or threading.Event())


def test_events_come_in_the_order_of_a_rollout() -> None:
    policy = FakePolicy()
    events = list(play(FakeSimulator(), policy))
    step: list[type] = [Frame, StepTiming]
    thought: list[type] = [ThoughtStarted, ThoughtToken, ThoughtToken, ThoughtToken, ThoughtDone, Planned]
    assert [type(event) for event in events] == [SceneReady, *thought, *step * 3, *thought, *step, Outcome]
    assert (policy.instruction, policy.seed) == (SPEC.instruction, 11)
    assert events[0] == SceneReady(b"frame 0", SPEC, "open the <b>top</b> one")
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
    stop, simulator = threading.Event(), FakeSimulator()
    taken, events = -1, []
    for event in play(simulator, FakePolicy(), stop):
        events.append(event)
        if isinstance(event, kind) and not stop.is_set():
            stop.set()
            taken = simulator.steps
    assert simulator.steps == taken
    assert isinstance(events[-1], Outcome) and events[-1].stopped and events[-1].steps == taken


def test_stop_during_a_thought_cuts_it_short() -> None:
    stop, words = threading.Event(), []
    for event in play(FakeSimulator(), FakePolicy(), stop):
        if isinstance(event, ThoughtToken):
            words.append(event.text)
            stop.set()
    assert words == ["I will "]


def test_a_broken_simulator_becomes_one_sentence() -> None:
    events = list(play(FakeSimulator(breaks_at=2), FakePolicy()))
    assert events[-1] == Failure("The simulator stopped.")
    assert sum(isinstance(event, Frame) for event in events) == 2


@pytest.mark.parametrize("think", [True, False])
def test_the_expert_says_that_it_is_one(think: bool) -> None:
    simulator = FakeSimulator()
    policy = Scripted().policy(simulator, SPEC, think)
    events = list(controller.run(Command(SPEC, think), simulator, policy, threading.Event()))
    thoughts = [event.text for event in events if isinstance(event, ThoughtDone)]
    assert len(thoughts) == int(think)
    assert not think or ("Scripted expert" in thoughts[0] and "open the top drawer" in thoughts[0])
    assert isinstance(events[-1], Outcome) and events[-1].success


def test_events_as_json_leave_the_pictures_out() -> None:
    lines = [to_json(event) for event in play(FakeSimulator(), FakePolicy())]
    assert lines[0]["type"] == "SceneReady" and SceneSpec.model_validate(lines[0]["spec"]) == SPEC
    assert not any("jpeg" in line for line in lines)
