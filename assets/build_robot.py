"""Write the WidowX-250S: URDF, SRDF and one GLB per link, under assets/robots/widowx/.

Run: python assets/build_robot.py
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from modelling import widowx  # noqa: E402
from modelling.shapes import write_glb  # noqa: E402

FOLDER = Path(__file__).parent / "robots" / "widowx"

# Pairs that touch by construction. Parent and child are skipped by the engine; these are one joint further apart.
TOUCHING = (
    ("base_link", "upper_arm_link"),
    ("wrist_link", "gripper_bar_link"),
    ("gripper_link", "gripper_bar_link"),
    ("gripper_link", "left_finger_link"),
    ("gripper_link", "right_finger_link"),
    ("gripper_bar_link", "left_finger_link"),
    ("gripper_bar_link", "right_finger_link"),
    ("left_finger_link", "right_finger_link"),
)


def numbers(values: Sequence[float]) -> str:
    return " ".join(repr(v) for v in values)


def origin(parent: ET.Element, xyz: Sequence[float], rpy: Sequence[float] = (0, 0, 0)) -> None:
    ET.SubElement(parent, "origin", xyz=numbers(xyz), rpy=numbers(rpy))


def add_collision(link: ET.Element, solid: widowx.Solid) -> None:
    collision = ET.SubElement(link, "collision")
    origin(collision, solid.centre, (0, 1.5707963267948966, 0) if solid.kind == "cylinder_x" else (0, 0, 0))
    geometry = ET.SubElement(collision, "geometry")
    if solid.kind == "box":
        ET.SubElement(geometry, "box", size=numbers(solid.size))
    else:
        ET.SubElement(geometry, "cylinder", radius=repr(solid.size[0]), length=repr(solid.size[1]))


def add_link(robot: ET.Element, name: str, inertial: widowx.Inertial, folder: Path) -> None:
    link = ET.SubElement(robot, "link", name=name)
    body = ET.SubElement(link, "inertial")
    origin(body, inertial.origin, inertial.rpy)
    ET.SubElement(body, "mass", value=repr(inertial.mass))
    keys = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
    ET.SubElement(body, "inertia", {k: repr(v) for k, v in zip(keys, inertial.inertia, strict=True)})
    parts = widowx.visual(name)
    if parts:
        write_glb(parts, folder / "meshes" / f"{name}.glb")
        visual = ET.SubElement(link, "visual")
        origin(visual, (0, 0, 0))
        ET.SubElement(ET.SubElement(visual, "geometry"), "mesh", filename=f"meshes/{name}.glb")
    side = {"left_finger_link": 1, "right_finger_link": -1}.get(name)
    solids = widowx.COLLISIONS.get(name, ()) if side is None else widowx.finger_collision(side)
    for solid in solids:
        add_collision(link, solid)


def add_joint(robot: ET.Element, joint: widowx.Joint) -> None:
    element = ET.SubElement(robot, "joint", name=joint.name, type=joint.kind)
    ET.SubElement(element, "parent", link=joint.parent)
    ET.SubElement(element, "child", link=joint.child)
    origin(element, joint.origin)
    ET.SubElement(element, "axis", xyz=numbers(joint.axis))
    if joint.limits is not None:
        low, high = joint.limits
        ET.SubElement(
            element, "limit", lower=repr(low), upper=repr(high), effort=repr(joint.effort), velocity=repr(joint.velocity)
        )


def write_xml(root: ET.Element, path: Path) -> None:
    ET.indent(root)
    path.write_text('<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n")


def build(folder: Path = FOLDER) -> None:
    """Write the whole robot description into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    robot = ET.Element("robot", name="wx250s")
    for name, inertial in widowx.INERTIALS.items():
        add_link(robot, name, inertial, folder)
    for joint in widowx.JOINTS:
        add_joint(robot, joint)
    write_xml(robot, folder / "wx250s.urdf")
    semantic = ET.Element("robot", name="wx250s")
    for one, other in TOUCHING:
        ET.SubElement(semantic, "disable_collisions", link1=one, link2=other, reason="Touching")
    write_xml(semantic, folder / "wx250s.srdf")


if __name__ == "__main__":
    build()
