"""How a running page is: its queue, its simulators, its memory. Answered at `/health`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app.pilots import Pilot
from app.sessions import Sessions
from sim.worker import WorkerPool


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
