"""Two ways to drive the same scene, from the same flow noise, as one event stream; and what many pairs add up to."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from app import controller
from app.controller import Simulator, ThinkingPolicy
from app.events import Command, Event, Frame, Outcome, SceneReady
from app.pilots import Pilot
from app.steering import Steering
from model.clock import own_time

if TYPE_CHECKING:
    from model.batching import Batcher

MakePolicy = Callable[[Command, Simulator], ThinkingPolicy]

_votes = threading.Lock()


@runtime_checkable
class Joinable(Protocol):
    """A policy whose forward passes are made by a `Batcher`, which can be another one."""

    batcher: Batcher


@dataclass(frozen=True)
class Arm:
    """One way to drive: who, and whether it thinks aloud."""

    pilot: Pilot
    think: bool

    @property
    def name(self) -> str:
        """What the page, the tables and the votes call it."""
        return f"{self.pilot.name}, {'thinking' if self.think else 'not thinking'}"

    def policy(self, command: Command, simulator: Simulator) -> ThinkingPolicy:
        """A fresh policy for one rollout."""
        return self.pilot.policy(simulator, command.spec, command.think)


def arms_of(pilots: Sequence[Pilot]) -> dict[str, Arm]:
    """Every arm there is, by name: each pilot thinking and not. The first two differ in thinking alone."""
    return {arm.name: arm for arm in (Arm(pilot, think) for pilot in pilots for think in (True, False))}


@dataclass(frozen=True)
class Trial:
    """How one arm did. `seconds` is its own time, without the other arm's; `recording` an id, empty if none."""

    success: bool
    steps: int
    seconds: float
    recording: str = ""


@dataclass(frozen=True)
class Pair:
    """One scene driven by two arms, named in the order of their trials."""

    instruction: str
    seed: int
    trials: tuple[Trial, Trial]
    arms: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """What finished pairs of the same two `arms` add up to; two-element tuples are in their order.

    `intervals` are 95 % Wilson intervals of the success rates. `discordant` counts the pairs that only the first, and
    only the second arm solved; `p` is McNemar's exact two-sided test on them (1 where there are none). It holds for a
    number of pairs that was fixed beforehand, not for one that grew until the result pleased.
    """

    arms: tuple[str, str]
    pairs: int
    successes: tuple[int, int]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    discordant: tuple[int, int]
    p: float
    median_steps: tuple[float, float]
    median_seconds: tuple[float, float]


def play_pair(
    commands: Sequence[Command],
    simulators: Sequence[Simulator],
    policies: Sequence[MakePolicy],
    steering: Steering,
) -> Generator[tuple[int, Event], None, None]:
    """Play two commands, each by its own policy, and tell what happens as (0 or 1, event).

    An `Outcome` counts only its own arm's seconds; a forward pass made for both counts for both.

    With two simulators the arms run at the same time and share one frame clock: neither is ever more than a control
    step ahead. Where one loaded model drives both, the passes that they need at the same step are made in one. With
    one simulator they play one after the other. `steering` stops both; so does closing the iterator, which returns
    once neither arm uses its simulator any more, within one control step.
    """
    worlds = simulators if len(simulators) > 1 else [simulators[0]] * len(commands)
    drivers = [make(command, world) for command, world, make in zip(commands, worlds, policies, strict=False)]
    rollouts = [
        _own_seconds(controller.run(command, world, driver, steering))
        for command, world, driver in zip(commands, worlds, drivers, strict=False)
    ]
    if len(simulators) > 1:
        yield from _in_step(rollouts, _company(drivers), steering)
        return
    for side, rollout in enumerate(rollouts):
        if not steering.stop.is_set():
            yield from ((side, event) for event in rollout)


def _in_step(
    rollouts: Sequence[Iterator[Event]], company: Batcher | None, steering: Steering
) -> Generator[tuple[int, Event], None, None]:
    """Every rollout's next control step in a thread of its own, events as they come; then the next step of each."""
    events: queue.Queue[tuple[int, Event] | None] = queue.Queue()

    def step(side: int) -> bool:
        """Whether there is more to come."""
        try:
            for event in rollouts[side]:
                events.put((side, event))
                if isinstance(event, SceneReady | Frame):
                    return True
            return False
        finally:
            if company is not None:
                company.leave()
            events.put(None)

    going = list(range(len(rollouts)))
    with ThreadPoolExecutor(len(rollouts), "arm") as threads:  # leaving it waits for the steps that have begun
        try:
            while going:
                if company is not None:
                    company.expect(len(going))
                steps = {side: threads.submit(step, side) for side in going}
                for _ in steps:
                    yield from iter(events.get, None)
                going = [side for side, more in steps.items() if more.result()]
        finally:
            steering.halt()


def _company(policies: Sequence[ThinkingPolicy]) -> Batcher | None:
    """Have the policies' forward passes made together, if one loaded model makes them all; where that is done."""
    joinable = [policy for policy in policies if isinstance(policy, Joinable)]
    batchers = {policy.batcher for policy in joinable}
    if len(joinable) < len(policies) or len(batchers) > 1:
        return None
    company = batchers.pop().company(len(policies))
    for policy in joinable:
        policy.batcher = company
    return company


def _own_seconds(rollout: Iterator[Event]) -> Iterator[Event]:
    """The same events; the outcome's seconds leave out what passed between them, and the waits for the other arm."""
    seconds = 0.0
    while True:
        started = own_time()
        event = next(rollout, None)
        seconds += own_time() - started
        if event is None:
            return
        yield replace(event, seconds=seconds) if isinstance(event, Outcome) else event


def add_up(pairs: Sequence[Pair]) -> Comparison:
    """The figures of finished pairs of the same arms. Raises `ValueError` when there is none."""
    from scipy.stats import binomtest  # seconds to import, so only when needed

    from sim.evaluate import wilson

    if not pairs:
        raise ValueError("There is no finished pair to add up.")
    first, second = zip(*(pair.trials for pair in pairs), strict=True)
    successes = (sum(trial.success for trial in first), sum(trial.success for trial in second))
    only_first = sum(a.success and not b.success for a, b in zip(first, second, strict=True))
    only_second = sum(b.success and not a.success for a, b in zip(first, second, strict=True))
    disagreeing = only_first + only_second
    return Comparison(
        arms=pairs[0].arms,
        pairs=len(pairs),
        successes=successes,
        intervals=(wilson(successes[0], len(pairs)), wilson(successes[1], len(pairs))),
        discordant=(only_first, only_second),
        p=float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0,
        median_steps=(median(trial.steps for trial in first), median(trial.steps for trial in second)),
        median_seconds=(median(trial.seconds for trial in first), median(trial.seconds for trial in second)),
    )


def record_vote(file: Path, vote: dict[str, Any]) -> None:
    """Append one vote to a JSONL file, whole or not at all. Raises `OSError` where the disk refuses."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **vote}) + "\n"
    with _votes, file.open("ab", buffering=0) as lines:
        before = lines.seek(0, os.SEEK_END)
        written = False
        try:
            written = lines.write(line.encode()) == len(line)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            if not written:
                lines.truncate(before)
