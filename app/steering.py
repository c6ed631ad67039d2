"""A visitor's hand on a running rollout: stop, pause, single step, other words, another thought, a changed scene.

Buttons call it from their own threads; the controller takes the orders, one after the other, between control steps.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

OrderKind = Literal["pause", "step", "resume", "instruct", "rethink", "disturb"]
ORDERS: dict[OrderKind, str] = {
    "pause": "Paused",
    "step": "Single step",
    "resume": "Resumed",
    "instruct": "New instruction",
    "rethink": "Thought edited",
    "disturb": "Scene changed",
}
"""What a record of each order says."""


@dataclass(frozen=True)
class Order:
    """Something to do before the next control step; `text` is the new instruction, the new thought, or the change."""

    kind: OrderKind
    text: str = ""


class Steering:
    """Orders in the sequence in which they were given, and a stop that overtakes them all."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set by `halt`; models look at it between words."""
        self._orders: deque[Order] = deque()
        self._paused = False
        self._change = threading.Condition()

    def halt(self) -> None:
        """End the rollout within one control step, paused or not."""
        with self._change:
            self.stop.set()
            self._change.notify_all()

    def give(self, kind: OrderKind, text: str = "") -> None:
        """Queue an order."""
        with self._change:
            self._orders.append(Order(kind, text))
            self._change.notify_all()

    def take(self) -> Order | None:
        """The next order; None means go on, or stop where `stop` is set. While paused, this waits for either."""
        with self._change:
            self._change.wait_for(lambda: self._orders or not self._paused or self.stop.is_set())
            if self.stop.is_set() or not self._orders:
                return None
            order = self._orders.popleft()
            if order.kind in ("pause", "step", "resume"):
                self._paused = order.kind != "resume"
            return order
