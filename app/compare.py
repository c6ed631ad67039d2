"""Two ways to drive the same scene, from the same flow noise, as one event stream; and what many pairs add up to."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from app import controller
from app.controller import Simulator, ThinkingPolicy
from app.events import Command, Event, Frame, Outcome, SceneReady
from app.pilots import Pilot
from app.steering import Steering

MakePolicy = Callable[[Command, Simulator], ThinkingPolicy]

_votes = threading.Lock()


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
) -> Iterator[tuple[int, Event]]:
    """Play two commands, each by its own policy, and tell what happens as (0 or 1, event).

    An `Outcome` counts only its own arm's seconds.

    With two simulators the arms share one frame clock: neither is ever more than a control step ahead. With one they
    play one after the other. `steering` stops both.
    """
    worlds = simulators if len(simulators) > 1 else [simulators[0]] * len(commands)
    rollouts = [
        _own_time(controller.run(command, world, make_policy(command, world), steering))
        for command, world, make_policy in zip(commands, worlds, policies, strict=False)
    ]
    if len(simulators) == 1:
        for side, rollout in enumerate(rollouts):
            if not steering.stop.is_set():
                yield from ((side, event) for event in rollout)
        return
    going = dict(enumerate(rollouts))
    while going:
        for side, rollout in list(going.items()):
            for event in rollout:
                yield side, event
                if isinstance(event, SceneReady | Frame):
                    break  # the other one's turn
            else:
                del going[side]


def _own_time(rollout: Iterator[Event]) -> Iterator[Event]:
    """The same events; the outcome's seconds leave out what passed between them elsewhere."""
    seconds = 0.0
    while True:
        started = time.perf_counter()
        event = next(rollout, None)
        seconds += time.perf_counter() - started
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
