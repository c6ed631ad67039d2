"""Many visitors at once: is any of them shown a picture or told a thought that belongs to somebody else?

A rollout cannot be judged by a second one of the same scene: passes that several visitors share round otherwise in
bfloat16 than a visitor's own, and a thought that one rounding changes leads the arm elsewhere. So a picture is judged
by the visitor's own record, whose actions are played again in a simulator that nobody else uses; and a thought by what
its scene and words bring to mind when nobody else is there: two who wish the same cannot be told apart by it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from app import scenes
from app.events import Frame, ThoughtDone
from app.recording import Recording
from app.visitor import Seen, Visitor, plainly, watch
from sim.worker import TABLETOP, SimWorker

VISITORS = 8
Look = NDArray[np.int16]
"""A picture, small: (60, 80, 3)."""


def crowd(address: str, recordings: Path, count: int = VISITORS, world: str = TABLETOP) -> dict[str, Any]:
    """`count` visitors press Run at the same moment, each in a scene of their own; later each scene is played alone.

    `recordings` is where the page at `address` keeps its records, `world` what its simulators simulate.
    """
    kinds = list(scenes.FAMILIES.values())
    wishes = [
        {"family": kinds[number % len(kinds)], "seed": scenes.FIRST_SEED + 100 + number,
         "words": f"{scenes.template(kinds[number % len(kinds)], scenes.FIRST_SEED + 100 + number)} please {number}"}
        for number in range(count)
    ]  # fmt: skip
    visitors = [Visitor(address) for _ in wishes]
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as threads:
        together = list(threads.map(lambda pair: watch(pair[0], **pair[1]), zip(visitors, wishes, strict=True)))
    took = time.perf_counter() - began
    first = by_scene(recordings)
    alone = [watch(Visitor(address), **wish) for wish in wishes]
    second = by_scene(recordings, besides=first.values())
    judged = [
        (seen, first[wish["seed"]], second[wish["seed"]])
        for seen, own, wish in zip(together, alone, wishes, strict=True)
        if seen.finished and own.finished and wish["seed"] in first and wish["seed"] in second
    ]
    with SimWorker(world=world) as worker:
        rollouts = [replayed(record, worker) for _, record, _ in judged]
    return {
        "visitors": count,
        "served": sum(seen.finished for seen in together),
        "not served, because": sorted({plainly(seen.status) for seen in together if not seen.finished}),
        "told their place": sum(visitor.place is not None for visitor in visitors),
        "told their wait": sum(visitor.expected is not None for visitor in visitors),
        "judged": len(judged),
        **foreign_pictures([seen for seen, *_ in judged], rollouts),
        **foreign_thoughts(judged),
        "longest wait [s]": round(max(seen.waited_s for seen in together), 1),
        "all done after [s]": round(took, 1),
        "steps/s, all together": round(sum(seen.steps for seen in together) / took, 1),
    }


def by_scene(recordings: Path, besides: Iterable[Recording] = ()) -> dict[int, Recording]:
    """The whole records in a folder by the seeds of their scenes, without some."""
    known = {record.folder for record in besides}
    found = [Recording(folder) for folder in recordings.iterdir() if folder not in known]
    return {record.scene().seed: record for record in found if record.whole}


def foreign_pictures(seen: Sequence[Seen], rollouts: Sequence[Sequence[Look]]) -> dict[str, Any]:
    """How many pictures of all visitors are at least as much like another one's rollout at that step as like their own.

    Also the farthest that any lies from its own and the nearest that any lies to another's (mean absolute difference in
    grey levels of 255): wide apart, so that a foreign picture would be noticed.
    """
    total, foreign, from_own, from_others = 0, 0, [0.0], [255.0]
    for number, visitor in enumerate(seen):
        for step, jpeg in visitor.frames.items():
            shown = look(jpeg)
            apart = [float(np.abs(shown - rollout[min(step, len(rollout) - 1)]).mean()) for rollout in rollouts]
            own = apart.pop(number)
            from_own.append(own)
            from_others.append(min(apart, default=255.0))
            foreign += from_others[-1] <= own
            total += 1
    return {
        "pictures": total,
        "foreign pictures": foreign,
        "grey levels from one's own, at most": round(max(from_own), 1),
        "from another's, at least": round(min(from_others), 1),
    }


def replayed(record: Recording, worker: SimWorker) -> list[Look]:
    """What the recorded actions show when they are played again, before the first step and after each."""
    worker.reset(record.scene())
    shown = [look(worker.last_jpeg)]
    for event in record.events():
        if isinstance(event, Frame):
            worker.step(np.asarray(event.action, np.float32))
            shown.append(look(worker.last_jpeg))
    return shown


def look(jpeg: bytes) -> Look:
    """A picture small enough to be compared in no time."""
    return np.asarray(PIL.Image.open(io.BytesIO(jpeg)).convert("RGB").resize((80, 60)), np.int16)


def foreign_thoughts(judged: Sequence[tuple[Seen, Recording, Recording]]) -> dict[str, Any]:
    """How many thoughts are not their visitor's: in another one's mind alone but not in the own, or not on the page.

    Per visitor: what the page showed, its record, and the record of the same wish alone. "worded as nobody alone" are
    those that rounding changed.
    """
    own = [thoughts(alone) for _, _, alone in judged]
    told = [(seen, thoughts(record)) for seen, record, _ in judged]
    heard = {thought for mine in own for thought in mine}
    foreign = sum(
        thought in heard - set(mine) or letters(thought) not in letters(plainly(seen.thoughts))
        for (seen, said), mine in zip(told, own, strict=True)
        for thought in said
    )
    new = sum(thought not in heard for _, said in told for thought in said)
    total = sum(len(said) for _, said in told)
    return {"thoughts": total, "foreign thoughts": foreign, "worded as nobody alone": new}


def thoughts(record: Recording) -> list[str]:
    """Every thought of a record, in order."""
    return [event.text for event in record.events() if isinstance(event, ThoughtDone) and event.text]


def letters(text: str) -> str:
    """A text without its gaps: on the page every token of a thought is an element of its own."""
    return "".join(text.split())
