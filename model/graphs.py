"""CUDA graphs: a loop of many small kernels, recorded once per shape and replayed without Python in between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 2


class Recorded:
    """A function of tensors that runs as it is, except on a GPU outside of autograd: there it is replayed.

    The function must depend on its inputs alone and never wait for the GPU. Weights may change in place, not move.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._records: dict[object, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's value. Replayed or not, the result is the caller's own."""
        if not inputs[0].is_cuda or torch.is_grad_enabled():
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        if key not in self._records:
            self._records[key] = self._record(inputs)
        graph, slots, output = self._records[key]
        for slot, tensor in zip(slots, inputs, strict=True):
            slot.copy_(tensor)
        graph.replay()
        return output.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        slots = tuple(tensor.clone() for tensor in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate their workspaces before anything is recorded
            for _ in range(WARM_UPS):
                self._function(*slots)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may be sending pictures
            output = self._function(*slots)
        return graph, slots, output
