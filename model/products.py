"""Matrix products of few rows: a CPU's library is at its slowest there, and text is written few rows at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = range(2, 65)
"""Rows for which (W xᵀ)ᵀ beats x Wᵀ: up to twice as fast on an AMD EPYC with AVX2, no gain beyond."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., inputs) by weight (outputs, inputs) to (..., outputs), up to rounding.

    For inference in float32 on a CPU, few rows are multiplied from the other side: W is then read once, as it lies,
    where MKL would first repack all of it to meet a handful of rows.
    """
    rows = x.numel() // x.shape[-1]
    if rows not in FEW or x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    y = torch.mm(weight, x.reshape(rows, -1).T).T.reshape(*x.shape[:-1], -1)
    return y if bias is None else y.add_(bias)
