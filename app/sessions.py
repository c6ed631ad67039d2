"""Who holds which simulator, by browser tab (`request.session_hash`): a process handle cannot live in gr.State."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from app.controller import Simulator
from app.steering import OrderKind, Steering


class Busy(RuntimeError):
    """No simulator is free; the text says what to do."""


class Pool(Protocol):
    """The part of `sim.worker.WorkerPool` used here."""

    def lease(self) -> Simulator: ...

    def release(self, worker: Any) -> None: ...


@dataclass(frozen=True)
class Hold:
    """One tab's use of simulators. Once `steering.stop` is set, the user of them lets go within one control step."""

    simulators: tuple[Simulator, ...]
    steering: Steering

    @property
    def simulator(self) -> Simulator:
        """The first one; there always is one."""
        return self.simulators[0]


class Sessions:
    """Lends the pool's `size` simulators to tabs, for at most `lease_s` seconds at a time."""

    def __init__(self, pool: Pool, size: int, lease_s: float = 300.0, wait_s: float = 30.0) -> None:
        self.size = size
        self._pool = pool
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._change = threading.Condition()
        self._steerings: dict[str, Steering] = {}
        self._lent: dict[str, int] = {}

    @property
    def holding(self) -> int:
        """How many simulators are lent right now."""
        with self._change:
            return sum(self._lent.values())

    @contextmanager
    def hold(self, tab: str, wanted: int = 1) -> Iterator[Hold]:
        """Lend simulators to `tab`: `wanted` of them if so many are free, but at least one.

        What the tab held before is stopped first.

        Raises:
            Busy: nothing came free within `wait_s` seconds.
            WorkerError: the simulator did not start.
        """
        steering, count = self._reserve(tab, wanted)
        overdue = threading.Timer(self._lease_s, steering.halt)
        overdue.daemon = True
        overdue.start()
        leased: list[Simulator] = []
        try:
            for _ in range(count):
                leased.append(self._pool.lease())
            yield Hold(tuple(leased), steering)
        finally:
            for simulator in leased:
                self._pool.release(simulator)
            overdue.cancel()
            steering.halt()
            with self._change:
                del self._steerings[tab], self._lent[tab]
                self._change.notify_all()

    def stop(self, tab: str) -> None:
        """Ask whatever the tab runs to stop; the same when its page is closed."""
        with self._change:
            if tab in self._steerings:
                self._steerings[tab].halt()

    def steer(self, tab: str, order: OrderKind, text: str = "") -> bool:
        """Hand an order to whatever the tab runs; False when it runs nothing."""
        with self._change:
            if tab not in self._steerings:
                return False
            self._steerings[tab].give(order, text)
            return True

    def _reserve(self, tab: str, wanted: int) -> tuple[Steering, int]:
        self.stop(tab)
        with self._change:

            def free() -> int:
                return self.size - sum(self._lent.values())

            if not self._change.wait_for(lambda: tab not in self._steerings and free() > 0, self._wait_s):
                count = "The simulator is" if self.size == 1 else f"All {self.size} simulators are"
                raise Busy(f"{count} in use. Try again in a minute.")
            steering = self._steerings[tab] = Steering()
            self._lent[tab] = min(wanted, free())
            return steering, self._lent[tab]
