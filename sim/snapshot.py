"""What only a simulator knows, at one instant: the state that the expert and the success rules read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sim.objects import ObjectInfo

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Thing:
    """An object in the robot's base frame. `position` is its origin: the centre of its footprint when it stands."""

    info: ObjectInfo
    position: Vector
    rotation: Rotation
    speed: float
    """Norm of the linear velocity [m/s]."""

    @property
    def upright(self) -> bool:
        """Whether its own z axis is within 45 degrees of vertical."""
        return bool(self.rotation.apply([0.0, 0.0, 1.0])[2] > 0.7)

    @property
    def centre(self) -> Vector:
        """Centre of the bounding box [m]."""
        return self.position + self.rotation.apply([0.0, 0.0, self.info.size[2] / 2])

    @property
    def half_extent(self) -> Vector:
        """Half sizes in the base frame [m], taking the thing for an ellipsoid (exact while it stands square)."""
        return np.sqrt(self.rotation.as_matrix() ** 2 @ (np.array(self.info.size) / 2) ** 2)

    @property
    def bottom(self) -> float:
        """Height of the lowest point above the table [m]."""
        return float(self.centre[2] - self.half_extent[2])

    @property
    def top(self) -> float:
        """Height of the highest point above the table [m]."""
        return float(self.centre[2] + self.half_extent[2])


@dataclass(frozen=True)
class Snapshot:
    """Robot and objects in the robot's base frame; heights are above the table, whose top is the base's z = 0."""

    tool: Vector
    """Measured tool position [m]."""
    tool_rotation: Rotation
    """Measured tool orientation relative to pointing straight down."""
    commanded: Vector
    """Tool position that the controller is heading for [m]; actions are added to it."""
    commanded_rotation: Rotation
    opening: float
    """Gripper opening 0..1."""
    things: dict[str, Thing]
    pressed: frozenset[str]
    """Ids of the things that both fingers press on."""
    drawers: dict[str, float]
    """Pulled-out length [m] of "top", "middle", "bottom"; empty without a cabinet."""
    handles: dict[str, Vector]
    """Handle positions by the same names."""
