"""Who holds which simulator, by browser tab (`request.session_hash`): a process handle cannot live in gr.State."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from app.controller import Simulator


class Busy(RuntimeError):
    """No simulator is free; the text says what to do."""


class Pool(Protocol):
    """The part of `sim.worker.WorkerPool` used here."""

    def lease(self) -> Simulator: ...

    def release(self, worker: Any) -> None: ...


@dataclass(frozen=True)
class Hold:
    """One tab's use of one simulator. Once `stop` is set, the user of it lets go within one control step."""

    simulator: Simulator
    stop: threading.Event


class Sessions:
    """Lends the pool's `size` simulators to tabs: one per tab, for at most `lease_s` seconds each."""

    def __init__(self, pool: Pool, size: int, lease_s: float = 300.0, wait_s: float = 30.0) -> None:
        self.size = size
        self._pool = pool
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._change = threading.Condition()
        self._stops: dict[str, threading.Event] = {}

    @property
    def holding(self) -> int:
        """How many simulators are lent right now."""
        with self._change:
            return len(self._stops)

    @contextmanager
    def hold(self, tab: str) -> Iterator[Hold]:
        """Lend a simulator to `tab`; what the tab held before is stopped first.

        Raises:
            Busy: nothing came free within `wait_s` seconds.
            WorkerError: the simulator did not start.
        """
        stop = self._reserve(tab)
        overdue = threading.Timer(self._lease_s, stop.set)
        overdue.daemon = True
        overdue.start()
        try:
            simulator = self._pool.lease()
            try:
                yield Hold(simulator, stop)
            finally:
                self._pool.release(simulator)
        finally:
            overdue.cancel()
            stop.set()
            with self._change:
                del self._stops[tab]
                self._change.notify_all()

    def stop(self, tab: str) -> None:
        """Ask whatever the tab runs to stop; the same when its page is closed."""
        with self._change:
            if tab in self._stops:
                self._stops[tab].set()

    def _reserve(self, tab: str) -> threading.Event:
        self.stop(tab)
        with self._change:
            if not self._change.wait_for(lambda: tab not in self._stops and len(self._stops) < self.size, self._wait_s):
                count = "The simulator is" if self.size == 1 else f"All {self.size} simulators are"
                raise Busy(f"{count} in use. Try again in a minute.")
            stop = self._stops[tab] = threading.Event()
            return stop
