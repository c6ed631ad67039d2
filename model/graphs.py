"""CUDA graphs: many small kernels, recorded once per shape and replayed without Python in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

WARM_UPS = 2

Output = TypeVar("Output", Tensor, tuple[Tensor, ...])


class Recorded(Generic[Output]):
    """A function of tensors that runs as it is, except on a GPU outside of autograd: there it is replayed.

    The function must depend on its inputs alone, not change them, and never wait for the GPU. Weights may change in
    place, not move.
    """

    def __init__(self, function: Callable[..., Output]) -> None:
        self._function: Callable[..., Output] = function
        self._records: dict[object, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Output]] = {}

    def __call__(self, *inputs: Tensor) -> Output:
        """The function's value. Replayed or not, the result is the caller's own."""
        if not inputs[0].is_cuda or torch.is_grad_enabled():
            return self._function(*inputs)
        with torch.inference_mode():
            key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
            if key not in self._records:
                self._records[key] = self._record(inputs)
            graph, slots, output = self._records[key]
            for slot, tensor in zip(slots, inputs, strict=True):
                slot.copy_(tensor)
            graph.replay()
            return tuple(part.clone() for part in output) if isinstance(output, tuple) else output.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Output]:
        slots = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs)
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
