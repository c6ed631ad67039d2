"""A thread's own time: a clock that stands still while the thread waits for company."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_waited = threading.local()


def own_time() -> float:
    """Seconds, from no point in particular, without those that this thread has spent in `standing_still`."""
    return time.perf_counter() - getattr(_waited, "seconds", 0.0)


@contextmanager
def standing_still() -> Iterator[None]:
    """What happens in here takes none of this thread's own time."""
    started = own_time()
    try:
        yield
    finally:
        _waited.seconds = time.perf_counter() - started
