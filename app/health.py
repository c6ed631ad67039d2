"""How a running page is: its queue, its simulators, its memory (answered at `/health`), and how long one will wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import gradio as gr

from app.events import Outcome
from app.pilots import Pilot
from app.recording import Recording, RecordingError
from app.scenes import shipped_examples
from app.sessions import Sessions
from app.views.ask import MODEL_QUEUE
from app.views.widgets import SIMULATOR_QUEUE
from sim.worker import WorkerPool

LATEST = 10
"""Recordings that tell how long a rollout takes."""
ANSWER_S = 4.0
"""What the nano takes to answer on two cores [s]."""


def health_of(page: gr.Blocks, pilot: Pilot, sessions: Sessions, pool: WorkerPool) -> Callable[[], dict[str, Any]]:
    """A function that looks now.

    It gives `status` (of the model: loading, ready, failed), `queue` (requests that wait, and that run), `workers`
    (simulators, those in use, processes replaced so far) and `memory_mb` (resident, of the page and of the simulators).
    """

    def look() -> dict[str, Any]:
        running = sum(len(events) for events in page._queue.active_jobs if events)
        return {
            "status": pilot.state,
            "model": pilot.name,
            "queue": {"waiting": len(page._queue), "running": running},
            "workers": {"total": sessions.size, "busy": sessions.holding, "restarts": pool.restarts},
            "memory_mb": {"page": resident_mb(os.getpid()), "simulators": sum(map(resident_mb, pool.pids))},
        }

    return look


def resident_mb(pid: int) -> int:
    """Resident memory of a process; 0 where it has gone, or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def expect_waits(page: gr.Blocks, recordings: Path, longest_s: float) -> None:
    """Let the page tell the first visitors after a start, too, how long they will wait.

    Gradio expects of an action what it took on average since the start, and tells nothing before. Until then a rollout
    is expected to take as long as the latest recorded ones (those in `recordings`, or else the shipped ones) did, and
    `longest_s` seconds where there are none; so is everything that waits for a simulator. A question is expected to
    take `ANSWER_S`.
    """
    seconds = min(typical_seconds(recordings) or longest_s, longest_s)
    expected = {SIMULATOR_QUEUE: seconds, MODEL_QUEUE: ANSWER_S}
    for action in page.fns.values():
        if action.concurrency_id in expected:  # of no measurements: the first replaces it
            page._queue.process_time_per_fn[action].avg_time = expected[action.concurrency_id]


def typical_seconds(recordings: Path) -> float | None:
    """Mean duration of the latest rollouts that were recorded, here or else where the shipped ones were made."""
    for found in (sorted(map(Recording, recordings.glob("2*")), key=lambda record: record.id), shipped_examples()):
        taken = []
        for record in found[-LATEST:]:
            with contextlib.suppress(RecordingError):
                taken += [event.seconds for event in record.events() if isinstance(event, Outcome)]
        if taken:
            return mean(taken)
    return None
