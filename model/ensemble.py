"""From chunks to commands: how SimplerEnv scored the released models (reference 4.4), and what it showed them.

Each step's prediction is averaged with what earlier chunks foresaw for it, then turned into the robot's own terms.
Rotations are roll, pitch, yaw about fixed axes [rad], quaternions w, x, y, z.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TOOL_DOWN = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
"""Tool orientation of a WidowX that points straight down, its zero."""
GRIPPER = 6
STICKY_THRESHOLD, STICKY_STEPS = 0.5, 10


@dataclass(frozen=True)
class Setup:
    """How one robot was driven. `statistics` is its key in `dataset_statistics.json`."""

    statistics: str
    horizon: int
    gripper: Literal["absolute", "relative"]
    alpha: float = 0.1


WIDOWX = Setup("bridge_dataset", 7, "absolute")
GOOGLE = Setup("fractal20220817_data", 2, "relative")


@dataclass(frozen=True)
class Command:
    """One control step: translation [m] (3,), roll, pitch and yaw [rad] (3,), gripper in -1 .. 1.

    The gripper is 1 open, -1 closed where absolute; where relative, positive closes.
    """

    world_vector: Vector
    rpy: Vector
    gripper: float

    @property
    def rot_axangle(self) -> Vector:
        """The rotation as SimplerEnv's controllers take it: axis times angle [rad] (3,)."""
        return axis_angle(matrix_from_rpy(self.rpy))


class AdaptiveEnsemble:
    """Weighted mean of what the last `horizon` chunks say about now: exp(alpha * cosine to the newest)."""

    def __init__(self, horizon: int, alpha: float) -> None:
        self._chunks: deque[Vector] = deque(maxlen=horizon)
        self._alpha = alpha

    def step(self, chunk: Vector) -> Vector:
        """Add the chunk (T, 7) predicted now; returns the (7,) action of now. Chunks that have run out are silent."""
        self._chunks.append(chunk)
        aged = zip(range(len(self._chunks) - 1, -1, -1), self._chunks, strict=True)
        said = np.stack([past[age] for age, past in aged if age < len(past)])
        newest = said[-1]
        cosine = said @ newest / (np.linalg.norm(said, axis=1) * np.linalg.norm(newest) + 1e-7)
        weights = np.exp(self._alpha * cosine)
        return weights @ said / weights.sum()


class StickyGripper:
    """A Google robot's gripper: the change of opening, and once it is large, that change for ten steps.

    What counts as the previous opening moves only at the first step and when a sticky phase begins.
    """

    def __init__(self) -> None:
        self._previous: float | None = None
        self._held = 0.0
        self._left = 0

    def step(self, opening: float) -> float:
        """Opening 0 .. 1 wanted now to the relative command, positive to close."""
        if self._previous is None:
            self._previous = opening
            change = 0.0
        else:
            change = self._previous - opening
        if abs(change) > STICKY_THRESHOLD and not self._left:
            self._held, self._left, self._previous = change, STICKY_STEPS, opening
        if self._left:
            self._left -= 1
            return self._held
        return change


class Control:
    """One rollout's way from chunks of un-normalised actions to commands."""

    def __init__(self, setup: Setup) -> None:
        self._ensemble = AdaptiveEnsemble(setup.horizon, setup.alpha)
        self._sticky = StickyGripper() if setup.gripper == "relative" else None

    def step(self, chunk: Vector) -> Command:
        """The command of this control step, given the chunk (T, 7) predicted from it."""
        action = self._ensemble.step(chunk)
        opening = float(action[GRIPPER])
        gripper = self._sticky.step(opening) if self._sticky else (1.0 if opening > 0.5 else -1.0)
        return Command(action[:3], action[3:6], gripper)


def widowx_proprio(eef_pos: Vector) -> Vector:
    """Tool pose (8,) of SimplerEnv, xyz [m], quaternion, opening 0 .. 1, to the (8,) state a WidowX model takes."""
    turned = matrix_from_quaternion(eef_pos[3:7]) @ TOOL_DOWN.T
    return np.concatenate([eef_pos[:3], rpy_from_matrix(turned), [0.0], eef_pos[7:]])


def google_proprio(eef_pos: Vector) -> Vector:
    """Tool pose (8,) of SimplerEnv to the (8,) state a Google robot's model takes: x, y, z, w last, and how closed."""
    return np.concatenate([eef_pos[:3], eef_pos[4:7], eef_pos[3:4], 1 - eef_pos[7:]])


def matrix_from_rpy(rpy: Vector) -> Vector:
    """(3, 3) rotation of roll, pitch, yaw about fixed x, y, z."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rpy_from_matrix(matrix: Vector) -> Vector:
    """Roll, pitch, yaw about fixed axes; pitch in -pi/2 .. pi/2."""
    pitch = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])


def matrix_from_quaternion(quaternion: Vector) -> Vector:
    """(3, 3) rotation of a quaternion w, x, y, z of any length."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def axis_angle(matrix: Vector) -> Vector:
    """(3,) axis times angle [rad], of a rotation well below half a turn."""
    twice = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine, cosine = np.linalg.norm(twice) / 2, (np.trace(matrix) - 1) / 2
    return twice / 2 * (np.arctan2(sine, cosine) / sine if sine > 1e-12 else 1.0)
