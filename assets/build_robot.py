"""Write the WidowX-250S: URDF, SRDF and one GLB per link, under assets/robots/widowx/.

Run: python assets/build_robot.py
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from modelling import widowx
from modelling.urdf import add_joint, add_link, write_xml

FOLDER = Path(__file__).parent / "robots" / "widowx"

# Pairs that touch by construction. Parent and child are skipped by the engine; these are one joint further apart.
# SAPIEN only honours pairs whose reason is "Default".
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


def build(folder: Path = FOLDER) -> None:
    """Write the whole robot description into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    robot = ET.Element("robot", name="wx250s")
    for name, inertial in widowx.INERTIALS.items():
        side = {"left_finger_link": 1, "right_finger_link": -1}.get(name)
        solids = widowx.COLLISIONS.get(name, ()) if side is None else widowx.finger_collision(side)
        add_link(robot, name, inertial, widowx.visual(name), solids, folder)
    for joint in widowx.JOINTS:
        add_joint(robot, joint)
    write_xml(robot, folder / "wx250s.urdf")
    semantic = ET.Element("robot", name="wx250s")
    for one, other in TOUCHING:
        ET.SubElement(semantic, "disable_collisions", link1=one, link2=other, reason="Default")
    write_xml(semantic, folder / "wx250s.srdf")


if __name__ == "__main__":
    build()
