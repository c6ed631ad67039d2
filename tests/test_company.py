"""Two arms in step: forward passes made for both at once, and an arm that makes none holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from app.compare import play_pair
from app.controller import Simulator, ThinkingPolicy
from app.events import Command, Event, Failure, Frame, Outcome, Planned, ThoughtDone, ThoughtToken
from app.steering import Steering
from model.clock import own_time, standing_still
from sim.interface import Action, Observation
from tests.test_controller import SPEC, FakePolicy, FakeSimulator
from tests.test_remote import TinyEngine
from tests.tiny import observation

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other

LONG = SPEC.model_copy(update={"step_limit": 30})
COMMANDS = [Command(LONG, think, seed=11) for think in (True, False)]
TOLERANCE = 1e-4
"""Of actions (metres, radians) and gripper: float32, in other batches."""


class Seeing(FakeSimulator):
    """Pictures that depend on the step and on the simulator."""

    def __init__(self, first: int, solved_at: int = 99, pause_s: float = 0.0) -> None:
        super().__init__(solved_at)
        self.first, self.pause_s = first, pause_s

    def _look(self) -> Observation:
        super()._look()
        return replace(observation(self.first + self.steps), step=self.steps)

    def step(self, action: Action, render: bool = True) -> Any:
        time.sleep(self.pause_s)
        return super().step(action, render)


def driven(engine: TinyEngine) -> list[Callable[[Command, Simulator], ThinkingPolicy]]:
    return [lambda command, _: engine.policy(command.think)] * 2


def counted(engine: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many rollouts each forward pass was made for, by what was called."""
    widths: dict[str, list[int]] = {}

    def count(owner: Any, name: str, width: Callable[[Any], int]) -> None:
        plain = getattr(owner, name)
        widths[name] = []

        def counting(first: Any, *others: Any) -> Any:
            widths[name].append(width(first))
            return plain(first, *others)

        monkeypatch.setattr(owner, name, counting)

    count(engine.model, "encode", len)
    count(engine.model.vision, "trunk", len)  # which `encode` calls, too
    count(engine.model, "act", len)
    return widths


def played(engine: TinyEngine, simulators: Sequence[FakeSimulator]) -> list[tuple[int, Event]]:
    return list(play_pair(COMMANDS, simulators, driven(engine), Steering()))


def actions(events: Sequence[tuple[int, Event]], side: int) -> list[tuple[float, ...]]:
    return [event.action for at, event in events if at == side and isinstance(event, Frame)]


def test_arms_of_one_model_share_passes_and_do_what_each_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TinyEngine()
    alone = [list(play_pair([c], [Seeing(100 * i)], driven(engine), Steering())) for i, c in enumerate(COMMANDS)]
    widths = counted(engine, monkeypatch)
    pair = played(engine, [Seeing(0), Seeing(100)])
    assert widths == {"encode": [2, 2], "trunk": [2, 2, 2, 2], "act": [2, 2, 2, 2]}
    for side in (0, 1):
        assert len(actions(pair, side)) == 30
        np.testing.assert_allclose(actions(pair, side), actions(alone[side], 0), atol=TOLERANCE)
    assert not np.allclose(actions(pair, 0), actions(pair, 1), atol=0.01), "the arms are told apart"
    again = played(engine, [Seeing(0), Seeing(100)])
    assert all(actions(again, side) == actions(pair, side) for side in (0, 1)), "no matter of luck"
    thoughts = [[event.text for _, event in events if isinstance(event, ThoughtDone)] for events in (pair, alone[0])]
    assert thoughts[0] == thoughts[1] and len(thoughts[0]) == 2


def test_who_is_left_over_goes_on_alone_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TinyEngine()
    alone = list(play_pair(COMMANDS[1:], [Seeing(100)], driven(engine), Steering()))
    widths = counted(engine, monkeypatch)
    pair = played(engine, [Seeing(0, solved_at=1), Seeing(100)])
    assert widths["act"] == [2, 1, 1, 1]
    assert actions(pair, 1)[24:] == actions(alone, 0)[24:], "a new latent action, seen and read by itself"


def test_one_simulator_and_two_models_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = TinyEngine(), TinyEngine()
    widths, others = counted(engine, monkeypatch), counted(other, monkeypatch)
    played(engine, [Seeing(0, solved_at=9)])
    assert widths["act"] == [1] * 4
    list(play_pair(COMMANDS, [Seeing(0), Seeing(1)], [*driven(engine)[:1], *driven(other)[:1]], Steering()))
    assert widths["act"] == [1] * 8 and others["act"] == [1] * 4


def test_nobody_is_waited_for_who_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TinyEngine()
    widths, pixels, seconds = counted(engine, monkeypatch), torch.zeros(1, 3, 28, 56), []
    company = engine.batcher.company(2)
    company.expect(2)

    def look() -> None:
        own, wall = own_time(), time.perf_counter()
        company.trunk(pixels)
        seconds.extend((own_time() - own, time.perf_counter() - wall))

    thread = threading.Thread(target=look)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive() and widths["trunk"] == []
    engine.batcher.trunk(pixels)  # a stranger neither waits nor is taken along
    assert widths["trunk"] == [1]
    company.leave()
    thread.join(60)
    assert widths["trunk"] == [1, 1] and seconds[0] < seconds[1] - 0.4, "waiting takes none of one's own time"


def test_the_clock_stands_still_as_often_as_asked() -> None:
    own, wall = own_time(), time.perf_counter()
    for _ in range(2):
        with standing_still():
            time.sleep(0.1)
    assert time.perf_counter() - wall - (own_time() - own) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("when", [ThoughtToken, Planned, Frame])
def test_a_stop_ends_arms_that_wait_for_each_other(when: type) -> None:
    steering, seen = Steering(), []
    for side, event in play_pair(COMMANDS, [Seeing(0), Seeing(100)], driven(TinyEngine()), steering):
        seen.append((side, event))
        if isinstance(event, when):
            steering.halt()
    ends = {side: event for side, event in seen if isinstance(event, Outcome)}
    assert set(ends) == {0, 1} and all(end.stopped and end.steps <= 2 for end in ends.values())
    assert not running()


@pytest.mark.parametrize("when", [ThoughtToken, Frame])
def test_a_closed_pair_leaves_no_thread_and_no_step_behind(when: type) -> None:
    simulators = [Seeing(0, pause_s=0.1), Seeing(100, pause_s=0.1)]
    pair = play_pair(COMMANDS, simulators, driven(TinyEngine()), Steering())
    assert next(event for _, event in pair if isinstance(event, when))
    pair.close()
    assert not running() and all(simulator.steps <= 1 for simulator in simulators)
    steps = [simulator.steps for simulator in simulators]
    time.sleep(0.3)
    assert [simulator.steps for simulator in simulators] == steps


def test_a_pause_holds_both_and_ends() -> None:
    steering, frames = Steering(), [0, 0]
    steering.give("pause")
    threading.Timer(0.5, lambda: steering.give("resume")).start()
    for side, event in play_pair(COMMANDS, [Seeing(0), Seeing(100)], driven(TinyEngine()), steering):
        frames[side] += isinstance(event, Frame)
    assert frames == [30, 30]


def test_a_simulator_that_breaks_does_not_hold_up_the_other_arm() -> None:
    broken = Seeing(0)
    broken.breaks_at = 3
    pair = played(TinyEngine(), [broken, Seeing(100)])
    assert [type(event) for side, event in pair if side == 0][-1] is Failure
    assert len(actions(pair, 0)) == 3 and len(actions(pair, 1)) == 30


def test_a_bug_in_one_arm_surfaces_and_ends_the_other() -> None:
    class Broken(FakePolicy):
        def act(self, observation: Observation) -> Action:
            raise KeyError("a bug")

    simulators, engine = [Seeing(0), Seeing(100)], TinyEngine()
    makers = [lambda *_: Broken(), *driven(engine)[:1]]
    with pytest.raises(KeyError, match="a bug"):
        list(play_pair(COMMANDS, simulators, makers, Steering()))
    assert not running() and simulators[1].steps <= 1


def test_a_pass_that_fails_ends_both_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TinyEngine()
    monkeypatch.setattr(engine.model, "act", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        played(engine, [Seeing(0), Seeing(100)])
    assert not running()


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("arm")]
