"""Conditional flow matching from noise (t = 0) to actions (t = 1), as the released InstructVLA trains it.

Path x_t = (1 - (1 - s) t) x_0 + t x_1 with s = sigma_min, target velocity x_1 - (1 - s) x_0 (the paper writes the
opposite sign for its own time convention). Training time is Beta-weighted towards noise; sampling is plain Euler.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BETA_ALPHA = 1.5
TIME_MAX = 0.999


def sample_time(
    shape: tuple[int, ...], generator: torch.Generator | None = None, device: str | torch.device = "cpu"
) -> Tensor:
    """Draw t = 0.999 (1 - z), z ~ Beta(1.5, 1): more weight near noise. Returns float32 in [0, 0.999]."""
    uniform = torch.rand(shape, generator=generator, device=device)
    return TIME_MAX * (1 - uniform.pow(1 / BETA_ALPHA))  # the inverse CDF of Beta(a, 1) is u^(1/a)


def interpolate(noise: Tensor, actions: Tensor, time: Tensor, sigma_min: float) -> Tensor:
    """Point on the path. `noise`, `actions` (..., T, D); `time` (...) broadcast over a chunk."""
    t = time[..., None, None]
    return (1 - (1 - sigma_min) * t) * noise + t * actions


def target_velocity(noise: Tensor, actions: Tensor, sigma_min: float) -> Tensor:
    """The velocity that the network regresses, constant along a path."""
    return actions - (1 - sigma_min) * noise


@torch.no_grad()
def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate dx/dt = velocity(x, t) from t = 0 to 1 in equal steps.

    `noise` (B, T, D); `velocity` maps (B, T, D) and times (B,) to (B, T, D). Returns (B, T, D).
    """
    sample = noise
    for index in range(steps):
        time = torch.full((noise.shape[0],), index / steps, device=noise.device)
        sample = sample + velocity(sample, time) / steps
    return sample
