"""Which arithmetic is fast here: bfloat16 where the processor has it, float32 where it would only imitate it."""

from __future__ import annotations

import torch

NATIVE = ("avx512_bf16", "amx_bf16", "arm_bf16", "sve_bf16")
"""Names of `torch.cpu.get_capabilities()` that mean bfloat16 products in hardware."""


def fast_dtype(device: str | None = None) -> torch.dtype:
    """The dtype to compute in on a "cuda" or "cpu" device; None is the one that would be chosen here.

    A CPU without bfloat16 products takes three times as long in it as in float32.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(able.get(name) for name in NATIVE) else torch.float32
