"""Writing URDF: the few elements that the robot and the cabinet need."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelling.shapes import Part, write_glb

Vec = tuple[float, float, float]


@dataclass(frozen=True)
class Joint:
    """`limits` is None for fixed joints; `effort` in N m or N, `velocity` in rad/s or m/s."""

    name: str
    kind: str
    parent: str
    child: str
    origin: Vec
    axis: Vec
    limits: tuple[float, float] | None = None
    effort: float = 0.0
    velocity: float = 3.141592653589793
    damping: float = 0.0
    friction: float = 0.0


@dataclass(frozen=True)
class Inertial:
    """Mass [kg], centre of mass [m], its frame's orientation [rad], and (ixx, ixy, ixz, iyy, iyz, izz) [kg m^2]."""

    mass: float
    inertia: tuple[float, float, float, float, float, float]
    origin: Vec = (0, 0, 0)
    rpy: Vec = (0, 0, 0)


@dataclass(frozen=True)
class Solid:
    """Collision primitive: a box of `size` (x, y, z), or a cylinder (radius, length, -) along x or z."""

    size: Vec
    centre: Vec = (0, 0, 0)
    kind: str = "box"


def numbers(values: Sequence[float]) -> str:
    return " ".join(repr(v) for v in values)


def _origin(parent: ET.Element, xyz: Sequence[float], rpy: Sequence[float] = (0, 0, 0)) -> None:
    ET.SubElement(parent, "origin", xyz=numbers(xyz), rpy=numbers(rpy))


def _collision(link: ET.Element, solid: Solid) -> None:
    collision = ET.SubElement(link, "collision")
    _origin(collision, solid.centre, (0, 1.5707963267948966, 0) if solid.kind == "cylinder_x" else (0, 0, 0))
    geometry = ET.SubElement(collision, "geometry")
    if solid.kind == "box":
        ET.SubElement(geometry, "box", size=numbers(solid.size))
    else:
        ET.SubElement(geometry, "cylinder", radius=repr(solid.size[0]), length=repr(solid.size[1]))


def add_link(
    robot: ET.Element, name: str, inertial: Inertial, parts: Sequence[Part], solids: Sequence[Solid], folder: Path
) -> None:
    """Append one link; its visual, if it has one, is written to `folder`/meshes/<name>.glb."""
    link = ET.SubElement(robot, "link", name=name)
    body = ET.SubElement(link, "inertial")
    _origin(body, inertial.origin, inertial.rpy)
    ET.SubElement(body, "mass", value=repr(inertial.mass))
    keys = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
    ET.SubElement(body, "inertia", {k: repr(v) for k, v in zip(keys, inertial.inertia, strict=True)})
    if parts:
        write_glb(parts, folder / "meshes" / f"{name}.glb")
        visual = ET.SubElement(link, "visual")
        _origin(visual, (0, 0, 0))
        ET.SubElement(ET.SubElement(visual, "geometry"), "mesh", filename=f"meshes/{name}.glb")
    for solid in solids:
        _collision(link, solid)


def add_joint(robot: ET.Element, joint: Joint) -> None:
    """Append one joint."""
    element = ET.SubElement(robot, "joint", name=joint.name, type=joint.kind)
    ET.SubElement(element, "parent", link=joint.parent)
    ET.SubElement(element, "child", link=joint.child)
    _origin(element, joint.origin)
    ET.SubElement(element, "axis", xyz=numbers(joint.axis))
    if joint.limits is not None:
        low, high = joint.limits
        limits = {"lower": low, "upper": high, "effort": joint.effort, "velocity": joint.velocity}
        ET.SubElement(element, "limit", {k: repr(v) for k, v in limits.items()})
    if joint.damping or joint.friction:
        ET.SubElement(element, "dynamics", damping=repr(joint.damping), friction=repr(joint.friction))


def write_xml(root: ET.Element, path: Path) -> None:
    """Write an indented XML file."""
    ET.indent(root)
    path.write_text('<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n")
