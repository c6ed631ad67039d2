"""One rollout as a stream of typed events. Knows no web page: the page, the recording and the tests all drive this."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
)
from app.steering import Steering
from model.clock import own_time
from sim.disturb import Disturbance, find
from sim.interface import CONTROL_HZ, Action, Observation, Policy, StepResult
from sim.twins import Scene
from sim.worker import WorkerError

PLAIN_ERRORS = (WorkerError, ValueError)
"""Errors whose text is written for the visitor; anything else is a bug and is logged by the page."""


class Simulator(Protocol):
    """The part of `sim.worker.SimWorker` a rollout needs."""

    @property
    def last_jpeg(self) -> bytes: ...

    @property
    def timings(self) -> dict[str, float]: ...

    def reset(self, spec: Scene) -> Observation: ...

    def step(self, action: Action, render: bool = True) -> StepResult: ...

    def disturb(self, change: Disturbance) -> Observation: ...

    def expert_action(self) -> Action: ...


class ThinkingPolicy(Policy, Protocol):
    """The part of `model.policy.InstructPolicy` a rollout needs; `pilots.Expert` has it too."""

    @property
    def thinking_due(self) -> bool: ...

    @property
    def needs_image(self) -> bool: ...

    @property
    def timings(self) -> dict[str, float]: ...

    @property
    def focus(self) -> dict[str, tuple[float, float]] | None: ...

    @property
    def heat(self) -> dict[str, str] | None: ...

    @property
    def gate(self) -> float | None: ...

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]: ...

    def instruct(self, instruction: str) -> None: ...

    def rethink(self, observation: Observation, thought: str) -> None: ...


def run(command: Command, simulator: Simulator, policy: ThinkingPolicy, steering: Steering) -> Iterator[Event]:
    """Play one rollout and tell what happens, ending with an `Outcome` or a `Failure`.

    `steering.halt()` ends it within one control step: it is looked at between streamed words, after planning and before
    every call of the simulator. Closing the iterator does the same. Other orders are followed between control steps.
    """
    started = time.monotonic()
    spec, stop = command.spec, steering.stop
    steps = 0

    def outcome(success: bool) -> Outcome:
        stopped = stop.is_set() and not success
        return Outcome(success, spec.rule, steps, time.monotonic() - started, stopped)

    try:
        observation = simulator.reset(spec)
        yield SceneReady(simulator.last_jpeg, spec, spec.text, _rounded(observation.proprio))
        policy.reset(spec.text, seed=command.seed)
        while not stop.is_set():
            observation = yield from _obey(steering, policy, simulator, spec, observation)
            if stop.is_set():
                break
            if policy.thinking_due:
                yield from _think(policy, observation, stop.is_set)
                if stop.is_set():
                    break
            plans = policy.needs_image
            before = own_time()
            action = policy.act(observation)
            if plans:
                yield Planned(dict(policy.timings), policy.focus, policy.heat)
            if stop.is_set():
                break
            acted = own_time()
            result = simulator.step(action)
            stepped = own_time()
            steps, observation, parts = steps + 1, result.observation, simulator.timings
            state = _rounded(observation.proprio)
            yield Frame(simulator.last_jpeg, steps, steps / CONTROL_HZ, _rounded(action), state, result.success)
            spent = (1e3 * (acted - before), 1e3 * (stepped - acted), parts.get("render", 0), parts.get("encode", 0))
            yield StepTiming(steps, *(round(part, 2) for part in spent))
            if result.done:
                yield outcome(result.success)
                return
        yield outcome(False)
    except PLAIN_ERRORS as error:
        yield Failure(str(error))


def _obey(
    steering: Steering, policy: ThinkingPolicy, simulator: Simulator, spec: Scene, observation: Observation
) -> Generator[Event, None, Observation]:
    """Follow the visitor's orders until there is none, or one asks for the next control step; what is seen then."""
    while order := steering.take():
        problem, jpeg = "", b""
        try:
            if order.kind == "instruct":
                policy.instruct(order.text)
            elif order.kind == "rethink":
                policy.rethink(observation, order.text)
            elif order.kind == "disturb":
                observation = simulator.disturb(find(spec, order.text))
                jpeg = simulator.last_jpeg
        except ValueError as error:
            problem = str(error)
        yield Steered(order.kind, observation.step, order.text, problem, jpeg)
        if order.kind == "step":
            break
    return observation


def _think(policy: ThinkingPolicy, observation: Observation, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Stream one thought; the words so far are the thought when it is cut short."""
    yield ThoughtStarted(observation.step)
    words = []
    for piece in policy.think(observation, should_stop=should_stop):
        words.append(piece)
        yield ThoughtToken(piece, policy.gate)
        if should_stop():
            break
    yield ThoughtDone("".join(words).strip())


def _rounded(numbers: NDArray[np.float32]) -> tuple[float, ...]:
    """As they go into the record: to a hundredth of a millimetre."""
    return tuple(round(float(number), 5) for number in numbers)
