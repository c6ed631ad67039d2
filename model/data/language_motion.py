"""Language motion: what the arm does next, in words, read off three consecutive states (paper appendix D.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.02
"""Metres of translation, scaled radians of rotation, or share of the gripper's range that count as motion."""

WINDOW = 3
PITCH_SCALE, YAW_SCALE = 3.0, 5.0


def language_motion(proprio: NDArray[np.float32]) -> list[str]:
    """(T, 8) proprioception -> one phrase per step, such as "move forward left, rotate clockwise, close gripper".

    The window of step t is the states t, t+1, t+2; the last two steps, which have none, say "stop".
    """
    last_window = max(len(proprio) - WINDOW + 1, 0)
    moving = [_phrase(proprio[t], proprio[t + WINDOW - 1]) for t in range(last_window)]
    return moving + ["stop"] * (len(proprio) - last_window)


def _phrase(first: NDArray[np.float32], last: NDArray[np.float32]) -> str:
    x, y, z = _limited(last[:3].astype(float) - first[:3])
    turn = rotation_matrix(last[3:6]) @ rotation_matrix(first[3:6]).T
    tilt = np.arcsin(np.clip(turn[2, 0], -1, 1)) / PITCH_SCALE  # nose up is a negative turn about +y (left)
    yaw = np.arctan2(turn[1, 0], turn[0, 0]) / YAW_SCALE
    opening = float(last[7]) - float(first[7])

    move = [_word(x, "forward", "backward"), _word(y, "left", "right"), _word(z, "up", "down")]
    directions = [word for word in move if word]
    parts = [
        " ".join(["move", *directions]) if directions else "",
        _word(tilt, "tilt up", "tilt down"),
        _word(yaw, "rotate counterclockwise", "rotate clockwise"),
        _word(opening, "open gripper", "close gripper"),
    ]
    return ", ".join(part for part in parts if part) or "stop"


def _limited(move: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale a long displacement down to an L1 norm of three thresholds, so that only its main directions are named."""
    length = float(np.abs(move).sum())
    return move * min(1.0, 3 * THRESHOLD / length) if length else move


def _word(value: float, positive: str, negative: str) -> str:
    return positive if value > THRESHOLD else negative if value < -THRESHOLD else ""


def rotation_matrix(rpy: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3,) roll, pitch, yaw about the fixed x, y, z axes [rad] -> (3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy.astype(float)), np.sin(rpy.astype(float))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
