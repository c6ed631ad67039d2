"""Action sampling for several rollouts at once: whoever gets the model next takes along everybody who waits.

There is no timer and nobody waits for company: while one forward pass runs, the next batch gathers by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.instructvla import InstructVLA
from model.streaming import inference


class Sample(NamedTuple):
    """A normalised chunk (1, T, 7), and where the latents point for source and target.

    `points` (1, 2, 2) are u and v in [0, 1], `heat` (1, 2, N) the log-attention over the image's patches.
    """

    chunk: Tensor
    points: Tensor
    heat: Tensor


Sampler = Callable[[Tensor, Tensor, Tensor, Tensor], Sample]
"""Takes trunk (1, 1 + N, Dv), latents (1, Q, D), proprio (1, 8), noise (1, T, 7)."""


@dataclass
class _Waiting:
    inputs: tuple[Tensor, ...]
    result: Sample | None = None
    error: Exception | None = None


class Batcher:
    """A `Sampler` for many threads; at most `size` of them share a pass.

    With `size` 1 every caller is sampled alone. In company, rounding differs in the last digits.
    """

    def __init__(self, model: InstructVLA, lock: threading.Lock, size: int = 1) -> None:
        self._model, self._lock, self._size = model, lock, size
        self._waiting: list[_Waiting] = []
        self._gate = threading.Lock()

    def __call__(self, trunk: Tensor, latents: Tensor, proprio: Tensor, noise: Tensor) -> Sample:
        """Sample for this caller, alone or in a batch."""
        mine = _Waiting((trunk, latents, proprio, noise))
        with self._gate:
            self._waiting.append(mine)
        with inference(self._model, self._lock):
            while mine.result is None and mine.error is None:
                self._serve()
            if mine.error is not None:
                raise mine.error  # in here, where a lack of memory is told in words
        assert mine.result is not None
        return mine.result

    def _serve(self) -> None:
        """One pass for those who have waited longest."""
        with self._gate:
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        try:
            inputs = zip(*(waiting.inputs for waiting in batch), strict=True)
            chunks, context = self._model.act(*(torch.cat(parts) for parts in inputs))
        except Exception as error:
            for waiting in batch:
                waiting.error = error
            return
        for row, waiting in enumerate(batch):
            waiting.result = Sample(*(part[row : row + 1] for part in (chunks, context.points, context.heat)))
