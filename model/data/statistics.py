"""Per-dimension statistics of a data set, and the (un-)normalisation that the action expert is trained with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = TypeVar("Array", np.ndarray, torch.Tensor)

GRIPPER = 6
"""Index of the gripper in an action. It is 0 or 1 and stays as it is."""


@dataclass(frozen=True)
class Moments:
    """Statistics of one quantity, one float per dimension."""

    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]
    q01: list[float]
    q99: list[float]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Moments:
        """Measure `rows` (N, D)."""
        q01, q99 = np.quantile(rows, [0.01, 0.99], axis=0)
        values = (rows.mean(0), rows.std(0), rows.min(0), rows.max(0), q01, q99)
        return cls(*([float(x) for x in value] for value in values))


@dataclass(frozen=True)
class ActionStatistics:
    """What `dataset_statistics.json` holds: BOUNDS_Q99 normalisation of actions and proprioception.

    Actions map q01..q99 to -1..1 and are clipped, the gripper excepted; proprioception maps likewise. A dimension that
    never moves (q01 == q99) becomes 0, and comes back as q01.
    """

    action: Moments
    proprio: Moments
    num_transitions: int
    num_trajectories: int

    @classmethod
    def measure(cls, actions: list[NDArray[np.float32]], proprio: list[NDArray[np.float32]]) -> ActionStatistics:
        """Measure the episodes' (T, 7) actions and (T, 8) proprioception. Raises ValueError without any episode."""
        if not actions:
            raise ValueError("No episodes to measure: collect some first, or check the split.")
        all_actions = np.concatenate(actions)
        return cls(Moments.of(all_actions), Moments.of(np.concatenate(proprio)), len(all_actions), len(actions))

    def normalise(self, actions: Array) -> Array:
        """(..., 7) metres, radians, gripper 0..1 -> (..., 7) in [-1, 1], gripper unchanged."""
        scaled = _to_unit(actions, self.action)
        scaled[..., GRIPPER] = actions[..., GRIPPER]
        return scaled

    def unnormalise(self, actions: Array) -> Array:
        """(..., 7) model output -> metres, radians and a gripper that is exactly 0 (closed) or 1 (open)."""
        low, high = _like(self.action.q01, actions), _like(self.action.q99, actions)
        scaled = 0.5 * (_clip(actions) + 1) * (high - low) + low
        scaled[..., GRIPPER] = actions[..., GRIPPER] >= 0.5
        return scaled

    def normalise_proprio(self, proprio: Array) -> Array:
        """(..., 8) raw proprioception -> (..., 8) in [-1, 1]."""
        return _to_unit(proprio, self.proprio)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the released checkpoints' key names."""
        values = asdict(self)
        values["action"]["mask"] = [True] * GRIPPER + [False]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ActionStatistics:
        """Rebuild from `to_dict` output or from one data set's entry of a released `dataset_statistics.json`."""
        fields = Moments.__dataclass_fields__
        action, proprio = (Moments(**{k: values[part][k] for k in fields}) for part in ("action", "proprio"))
        return cls(action, proprio, values["num_transitions"], values["num_trajectories"])


def _to_unit(rows: Array, moments: Moments) -> Array:
    low, high = _like(moments.q01, rows), _like(moments.q99, rows)
    still = (high - low) < 1e-6
    scaled = _clip(2 * (rows - low) / (high - low + 1e-8) - 1)
    scaled[..., still] = 0
    return scaled


def _clip(rows: Array) -> Array:
    return rows.clip(-1, 1)


def _like(values: list[float], rows: Array) -> Array:
    if isinstance(rows, torch.Tensor):
        return torch.tensor(values, dtype=rows.dtype, device=rows.device)
    return np.asarray(values, dtype=rows.dtype)
