"""The catalog of things on the table: attributes and mesh files, read from `assets/objects.yaml`."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class Grasp(BaseModel):
    """How a gripper from above takes the object."""

    model_config = ConfigDict(frozen=True)

    width: float = Field(gt=0, le=0.074)
    """Extent between the fingers [m]."""
    height: float = Field(gt=0)
    """Height of the grasp centre above the table at rest [m]."""
    axis: Literal["any", "x", "y"] = "any"
    """Direction of the long axis in the object's own frame; the fingers close across it."""
    stackable: bool = False


class Surface(BaseModel):
    """Where a target receives things."""

    model_config = ConfigDict(frozen=True)

    height: float = Field(ge=0)
    """Height of the supporting surface at its centre above the table [m]."""
    radius: float = Field(gt=0)
    """Usable radius around the centre [m]."""
    kind: Literal["on", "in"]


class ObjectInfo(BaseModel):
    """One object. Its origin is the centre of its footprint; at rest on the table z is 0 at the table top, z up."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    category: str
    colours: tuple[str, ...]
    shape: str
    material: str
    taste: str | None = None
    use: tuple[str, ...] = ()
    role: Literal["graspable", "target", "fixture"]
    size: tuple[float, float, float]
    """Bounding box of the visual in rest pose, x y z [m]."""
    grasp: Grasp | None = None
    unseen: bool = False
    """Never drawn for a scene: only a suite that names it shows it."""
    mass: float = Field(gt=0)
    """[kg]"""
    friction: float = Field(gt=0)
    visual: Path | None = None
    collision: tuple[Path, ...] = ()
    """Mesh and its convex parts; a fixture has an articulated model (`urdf`) instead."""
    urdf: Path | None = None
    surface: Surface | None = None

    @property
    def radius(self) -> float:
        """Half of the longer side of the footprint [m]."""
        return max(self.size[0], self.size[1]) / 2

    @property
    def yaw_period(self) -> float:
        """Smallest rotation about z [rad] after which the grasp is the same; 0 means that any yaw will do."""
        if self.grasp is None or self.grasp.axis != "any":
            return math.pi
        return math.pi / 2 if self.shape in ("cube", "square block") else 0.0

    @property
    def yaw_offset(self) -> float:
        """Tool yaw minus object yaw [rad] at which the fingers close across the long axis."""
        return math.pi / 2 if self.grasp is not None and self.grasp.axis == "y" else 0.0


@cache
def catalog() -> dict[str, ObjectInfo]:
    """All objects by id, in the file's order.

    Raises:
        ValueError: `assets/objects.yaml` is missing or an entry is malformed; the message names the entry.
    """
    path = ASSETS / "objects.yaml"
    if not path.exists():
        raise ValueError(f"{path.name} is missing from the assets folder; build the assets first.")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    objects: dict[str, ObjectInfo] = {}
    for key, entry in entries.items():
        try:
            info = ObjectInfo(id=key, **entry)
        except (ValidationError, TypeError) as error:
            raise ValueError(f"objects.yaml: the entry {key!r} is malformed: {error}") from error
        objects[key] = info.model_copy(
            update={
                "visual": ASSETS / info.visual if info.visual else None,
                "collision": tuple(ASSETS / part for part in info.collision),
                "urdf": ASSETS / info.urdf if info.urdf else None,
            }
        )
    return objects


def get(object_id: str) -> ObjectInfo:
    """The object with this id.

    Raises:
        ValueError: there is no such object; the message lists what exists.
    """
    try:
        return catalog()[object_id]
    except KeyError:
        raise ValueError(f"There is no object {object_id!r}; known: {', '.join(sorted(catalog()))}.") from None
