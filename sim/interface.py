"""The only words that model and simulator share: what a robot sees, what it does, who decides.

Frames and units follow SimplerEnv's WidowX set-up (5 Hz control): translations in metres in the robot's base frame
(+x forward, +y left, +z up), rotations as Euler XYZ deltas in radians, gripper 1 = open, 0 = closed.
SimplerEnv's Google robot differs in rate, gripper command and proprioception: `sim.google_robot`, `sim.fractal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ACTION_DIM = 7
PROPRIO_DIM = 8
CONTROL_HZ = 5

Action = NDArray[np.float32]
"""(7,) float32: dx dy dz [m], droll dpitch dyaw [rad], gripper (1 open, 0 closed); one 0.2 s control step."""

Image = NDArray[np.uint8]
"""(height, width, 3) uint8 RGB of the `3rd_view_camera`."""


@dataclass(frozen=True)
class Observation:
    """What a policy may look at before one control step.

    `proprio` is (8,) float32: commanded tool position xyz in the base frame [m], commanded roll/pitch/yaw [rad] from
    the gripper pointing straight down, a constant 0, and the gripper's measured opening 0..1. Action deltas add to the
    commanded pose, which the arm follows with a lag of up to 4 cm.
    `image` is None when the step was taken without rendering.
    `measured` is (8,) float32, `eef_pos` of SimplerEnv-Instruct: where the tool really is, xyz [m] and quaternion wxyz
    in the base frame, and the gripper's measured opening 0..1; None in a simulator that does not tell.
    """

    image: Image | None
    proprio: NDArray[np.float32]
    step: int
    measured: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class StepResult:
    """Outcome of one control step. `done` is success or the step limit; `success` is the task's declared rule."""

    observation: Observation
    success: bool
    done: bool


@dataclass(frozen=True)
class Episode:
    """One recorded demonstration; row t belongs to the state *before* action t.

    `states` are full simulator states (dicts of arrays) from which frames can be rendered later; `keypoints` is
    (T, 10): u, v in [0, 1] image coordinates and x, y, z [m] in the base frame of the source's centre, then of the
    target's (for a drawer: its handle, twice); `perturbed` marks steps whose executed action was noise
    (the stored action is always the expert's); `executed` is what the robot really did.
    """

    scene: dict[str, object]
    instruction: str
    success: bool
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    executed: NDArray[np.float32]
    perturbed: NDArray[np.bool_]
    keypoints: NDArray[np.float32]
    states: list[dict[str, list[float]]]
    frames: list[bytes] = field(default_factory=list)


class Policy(Protocol):
    """Two methods, as in openpi: forget the past, then map observations to actions one control step at a time."""

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Start an episode. `seed` fixes every random draw of the policy (flow noise)."""

    def act(self, observation: Observation) -> Action:
        """Return the (7,) action for this control step."""
