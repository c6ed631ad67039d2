"""Forward passes for several rollouts at once: whoever gets the model next takes along everybody who waits.

Strangers never wait for each other: while one pass runs, the next batch gathers by itself. Rollouts that go in step do,
in a `Batcher` of their own (`company`): a pass is made once each of them has come to one or has said that it will not.
There is no timer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.clock import standing_still
from model.instructvla import InstructVLA, View
from model.streaming import inference


class Sample(NamedTuple):
    """A normalised chunk (1, T, 7), and where the latents point for source and target.

    `points` (1, 2, 2) are u and v in [0, 1], `heat` (1, 2, N) the log-attention over the image's patches.
    """

    chunk: Tensor
    points: Tensor
    heat: Tensor


@dataclass(eq=False)
class _Waiting:
    make: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    result: tuple[Tensor, ...] | None = None
    error: Exception | None = None


class Batcher:
    """The passes of a rollout, for many threads; at most `size` of the same kind are made in one.

    With `size` 1 every caller is served alone. In company, rounding differs in the last digits.
    """

    def __init__(self, model: InstructVLA, lock: threading.Lock, size: int = 1) -> None:
        self._model, self._lock, self._size = model, lock, size
        self._waiting: list[_Waiting] = []
        self._coming = 0
        self._change = threading.Condition()

    def company(self, size: int) -> Batcher:
        """One on the same model for `size` threads that go in step: they wait for each other, see `expect`."""
        return Batcher(self._model, self._lock, size)

    def expect(self, count: int) -> None:
        """So many threads are on their way: no pass is made before each of them waits for one or called `leave`."""
        with self._change:
            self._coming = count

    def leave(self) -> None:
        """One of the threads expected needs no more passes: the others wait for it no longer."""
        with self._change:
            self._coming -= 1
            self._change.notify_all()

    def encode(self, pixels: Tensor) -> View:
        """Normalised pixels (1, 3, H, W) to both branches' tokens."""
        return View(*self._share(self._encode, pixels))

    def trunk(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (1, 3, H, W) to the expert's vision tokens (1, 1 + N, Dv) alone."""
        return self._share(self._trunk, pixels)[0]

    def act(self, trunk: Tensor, latents: Tensor, proprio: Tensor, noise: Tensor) -> Sample:
        """Sample from trunk (1, 1 + N, Dv), latents (1, Q, D), proprio (1, 8) and noise (1, T, 7)."""
        return Sample(*self._share(self._act, trunk, latents, proprio, noise))

    def _encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        view = self._model.encode(pixels)
        return view.trunk, view.tokens

    def _trunk(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self._model.vision.trunk(pixels),)

    def _act(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        chunks, context = self._model.act(*inputs)
        return chunks, context.points, context.heat

    def _share(self, make: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Make a pass for this caller, alone or in a batch."""
        mine = _Waiting(make, inputs)
        with self._change:
            self._waiting.append(mine)
            self._change.notify_all()
            with standing_still():
                self._change.wait_for(lambda: len(self._waiting) >= self._coming or mine not in self._waiting)
        with inference(self._model, self._lock):
            while mine.result is None and mine.error is None:
                self._serve()
            if mine.error is not None:
                raise mine.error  # in here, where a lack of memory is told in words
        assert mine.result is not None
        return mine.result

    def _serve(self) -> None:
        """One pass for those who have waited longest for the same."""
        with self._change:
            make = self._waiting[0].make
            batch = [waiting for waiting in self._waiting if waiting.make == make][: self._size]
            self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
        try:
            results = make(*map(torch.cat, zip(*(waiting.inputs for waiting in batch), strict=True)))
        except Exception as error:
            for waiting in batch:
                waiting.error = error
            return
        for row, waiting in enumerate(batch):
            waiting.result = tuple(result[row : row + 1] for result in results)
