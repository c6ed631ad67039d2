"""WidowX-250S: published kinematics and inertials as data, and own link shapes made of boxes and cylinders.

Link and joint names, origins, axes, limits, masses and inertias are the published figures of the Interbotix WidowX-250S
as used by SimplerEnv and ManiSkill. The shapes follow the real arm's outer dimensions. All frames have x along the arm
(forward), y to the left, z up; lengths in metres, angles in radians.
"""

from __future__ import annotations

from math import pi

from modelling.shapes import Paint, Part, box, cylinder
from modelling.urdf import Inertial, Joint, Solid, Vec

BLACK = Paint((38, 39, 42), roughness=0.45)
SHELL = Paint((62, 64, 68), roughness=0.5)
METAL = Paint((150, 153, 158), roughness=0.35, metallic=0.6)
PAD = Paint((112, 114, 118), roughness=0.8)

JOINTS = (
    Joint("waist", "revolute", "base_link", "shoulder_link", (0, 0, 0.072), (0, 0, 1), (-pi, pi), 10),
    Joint(
        "shoulder", "revolute", "shoulder_link", "upper_arm_link", (0, 0, 0.03865), (0, 1, 0),
        (-1.8849555921538759, 1.9896753472735358), 20,
    ),
    Joint(
        "elbow", "revolute", "upper_arm_link", "upper_forearm_link", (0.04975, 0, 0.25), (0, 1, 0),
        (-2.1467549799530254, 1.6057029118347832), 15,
    ),
    Joint(
        "forearm_roll", "revolute", "upper_forearm_link", "lower_forearm_link", (0.175, 0, 0), (1, 0, 0),
        (-3.141582653589793, 3.141582653589793), 2,
    ),
    Joint(
        "wrist_angle", "revolute", "lower_forearm_link", "wrist_link", (0.075, 0, 0), (0, 1, 0),
        (-1.7453292519943295, 2.1467549799530254), 5,
    ),
    Joint(
        "wrist_rotate", "revolute", "wrist_link", "gripper_link", (0.065, 0, 0), (1, 0, 0),
        (-3.141582653589793, 3.141582653589793), 1,
    ),
    Joint("ee_arm", "fixed", "gripper_link", "ee_arm_link", (0.043, 0, 0), (1, 0, 0)),
    Joint("gripper", "fixed", "ee_arm_link", "gripper_prop_link", (0.0055, 0, 0), (1, 0, 0)),
    Joint("gripper_bar", "fixed", "ee_arm_link", "gripper_bar_link", (0, 0, 0), (1, 0, 0)),
    Joint("ee_bar", "fixed", "gripper_bar_link", "fingers_link", (0.023, 0, 0), (1, 0, 0)),
    Joint(
        "left_finger", "prismatic", "fingers_link", "left_finger_link", (0, 0, 0), (0, 1, 0), (0.015, 0.037), 5, 1.0
    ),
    Joint(
        "right_finger", "prismatic", "fingers_link", "right_finger_link", (0, 0, 0), (0, -1, 0), (0.015, 0.037), 5, 1.0
    ),
    Joint("ee_gripper", "fixed", "fingers_link", "ee_gripper_link", (0.027575, 0, 0), (1, 0, 0)),
)  # fmt: skip

_POINT = Inertial(0.001, (0.001, 0, 0, 0.001, 0, 0.001))
INERTIALS = {
    "base_link": Inertial(
        0.538736, (0.002115, -1.635e-05, 6.998e-07, 0.0006921, 4.642e-05, 0.002524),
        (-0.0380446, 0.000613892, 0.0193354), (0, 0, pi / 2),
    ),
    "shoulder_link": Inertial(
        0.480879, (0.000379, 2.2e-09, -3.561e-07, 0.0005557, 1.2245e-06, 0.0005889),
        (2.23482e-05, 4.14609e-05, 0.0066287), (0, 0, pi / 2),
    ),
    "upper_arm_link": Inertial(
        0.430811, (0.003463, -1e-10, -2e-10, 0.003587, 0.0004272, 0.0004566),
        (0.0171605, 2.725e-07, 0.191323), (0, 0, pi / 2),
    ),
    "upper_forearm_link": Inertial(
        0.234589, (3.971e-05, 2.3528e-06, 0, 0.0008878, 0, 0.000888), (0.107963, 0.000115876, 0)
    ),
    "lower_forearm_link": Inertial(
        0.220991, (6.369e-05, -2.292e-05, 0, 0.0001677, 0, 0.0001834), (0.0374395, 0.00522252, 0), (pi, 0, 0)
    ),
    "wrist_link": Inertial(
        0.084957, (3.082e-05, 1.91e-08, 2.3e-09, 2.822e-05, 2.5481e-06, 3.152e-05),
        (0.04236, -1.0663e-05, 0.010577), (0, 0, pi / 2),
    ),
    "gripper_link": Inertial(
        0.072885, (2.537e-05, 0, 0, 1.836e-05, 4.34e-07, 1.674e-05),
        (0.021631, 2.516e-07, 0.01141), (0, 0, pi / 2),
    ),
    "ee_arm_link": _POINT,
    "gripper_prop_link": Inertial(
        0.00434, (5.923e-07, 0, 3.195e-07, 1.1156e-06, -4e-10, 5.743e-07),
        (0.000846, -1.6817e-06, 4.2e-05), (0, 0, pi / 2),
    ),
    "gripper_bar_link": Inertial(
        0.034199, (7.4125e-06, -8e-10, -6e-10, 2.843e-05, -1.3889e-06, 2.86e-05),
        (0.009687, 8.177e-07, 0.004962), (0, 0, pi / 2),
    ),
    "fingers_link": _POINT,
    "left_finger_link": Inertial(
        0.016246, (4.731e-06, -4.56e-07, 0, 1.5506e-06, 0, 3.7467e-06), (0.013816, 0, 0), (pi, pi, pi / 2)
    ),
    "right_finger_link": Inertial(
        0.016246, (4.731e-06, 4.56e-07, 0, 1.5506e-06, 0, 3.7467e-06), (0.013816, 0, 0), (0, pi, pi / 2)
    ),
    "ee_gripper_link": _POINT,
}  # fmt: skip

COLLISIONS = {
    "base_link": (
        Solid((0.2335, 0.1531, 0.0095), (-0.04025, 0, 0.00475)),
        Solid((0.1, 0.07, 0.03), (-0.1, 0, 0.024)),
        Solid((0.051, 0.06, 0), (0, 0, 0.0416), "cylinder_z"),
    ),
    "shoulder_link": (Solid((0.04, 0.1, 0.046), (0, 0, 0.026)),),
    "upper_arm_link": (
        Solid((0.0289, 0.06, 0.06), (0, 0, 0.0155)),
        Solid((0.0289, 0.028, 0.2), (0, 0, 0.12)),
        Solid((0.0714, 0.1082, 0.052), (0.0253, 0, 0.2424)),
    ),
    "upper_forearm_link": (
        Solid((0.15, 0.028, 0.0289), (0.0606, 0, 0)),
        Solid((0.0212, 0.04, 0), (0.155, 0, 0), "cylinder_x"),
    ),
    "lower_forearm_link": (
        Solid((0.03, 0.049, 0.049), (0.0106, 0, 0)),
        Solid((0.036, 0.0465, 0.0349), (0.036, 0.012, 0)),
        Solid((0.035, 0.038, 0.0349), (0.0688, 0, 0)),
    ),
    "wrist_link": (Solid((0.0684, 0.044, 0.024), (0.0308, 0, 0)), Solid((0.038, 0.04, 0.055), (0.046, 0, 0.0077))),
    "gripper_link": (Solid((0.043, 0.04, 0.055), (0.0215, 0, 0.0077)),),
    "gripper_bar_link": (
        Solid((0.004, 0.1035, 0.0493), (0.002, 0, 0.0107)),
        Solid((0.026, 0.1, 0.01), (0.015, 0, 0)),
    ),
}


def finger_collision(side: int) -> tuple[Solid, ...]:
    """Finger boxes; `side` is +1 for the left finger (opens towards +y).

    The pad's inner face lies 9 mm inward of the joint origin: the gap is 56 mm open (0.037) and 12 mm closed (0.015).
    Tips end 43 mm before the joint origin, 15.6 mm beyond `ee_gripper_link`.
    """
    return (
        Solid((0.0265, 0.014, 0.029), (0.0010, -0.002 * side, 0)),
        Solid((0.0292, 0.0095, 0.027), (0.0286, -0.00425 * side, 0)),
    )


def _screws(centres: list[Vec], rpy: Vec) -> list[Part]:
    return [cylinder(0.0026, 0.0016, METAL, segments=6).moved(c, rpy) for c in centres]


def visual(link: str) -> list[Part]:
    """Parts of one link's visual in its own frame; empty for links without a body."""
    along_x, along_y = (0, pi / 2, 0), (pi / 2, 0, 0)
    if link == "base_link":
        return [
            box((0.2335, 0.1531, 0.0095), BLACK, 0.003, (-0.04025, 0, 0.00475)),
            box((0.104, 0.078, 0.032), SHELL, 0.004, (-0.1, 0, 0.025)),
            box((0.092, 0.092, 0.036), BLACK, 0.008, (0, 0, 0.0275)),
            cylinder(0.051, 0.025, BLACK, 0.003).moved((0, 0, 0.059)),
            cylinder(0.0517, 0.004, METAL, segments=24).moved((0, 0, 0.0585)),
            *_screws([(x, y, 0.0098) for x in (-0.145, 0.066) for y in (-0.066, 0.066)], (0, 0, 0)),
        ]
    if link == "shoulder_link":
        return [
            cylinder(0.051, 0.009, SHELL, 0.002).moved((0, 0, 0.0015)),
            box((0.0285, 0.066, 0.045), BLACK, 0.003, (0, 0, 0.0275)),
            *[box((0.034, 0.006, 0.048), SHELL, 0.0025, (0, y, 0.0255)) for y in (-0.046, 0.046)],
            *[cylinder(0.011, 0.004, METAL, 0.001).moved((0, y, 0.03865), along_y) for y in (-0.0505, 0.0505)],
        ]
    if link == "upper_arm_link":
        elbow = [(0.04975, y, 0.25) for y in (-0.0565, 0.0565)]
        return [
            box((0.029, 0.05, 0.04), SHELL, 0.004, (0, 0, 0.006)),
            *[box((0.026, 0.0045, 0.056), SHELL, 0.002, (0, y, 0.0145)) for y in (-0.0265, 0.0265)],
            box((0.0285, 0.028, 0.21), BLACK, 0.004, (0, 0, 0.119)),
            *[box((0.03, 0.0295, 0.008), METAL, 0.002, (0, 0, z)) for z in (0.044, 0.205)],
            box((0.07, 0.072, 0.034), BLACK, 0.004, (0.0253, 0, 0.2365)),
            *[box((0.071, 0.008, 0.046), SHELL, 0.003, (0.0253, y, 0.2435)) for y in (-0.05, 0.05)],
            *[cylinder(0.011, 0.005, METAL, 0.001).moved(c, along_y) for c in elbow],
        ]
    if link == "upper_forearm_link":
        return [
            box((0.03, 0.088, 0.0285), SHELL, 0.004, (0.001, 0, 0)),
            box((0.142, 0.028, 0.0285), BLACK, 0.004, (0.066, 0, 0)),
            box((0.008, 0.0295, 0.03), METAL, 0.002, (0.03, 0, 0)),
            cylinder(0.0185, 0.02, SHELL, 0.002).moved((0.143, 0, 0), along_x),
            cylinder(0.0212, 0.022, BLACK, 0.002).moved((0.164, 0, 0), along_x),
        ]
    if link == "lower_forearm_link":
        return [
            cylinder(0.0245, 0.016, SHELL, 0.002).moved((0.0036, 0, 0), along_x),
            cylinder(0.0249, 0.003, METAL).moved((0.0036, 0, 0), along_x),
            box((0.042, 0.0465, 0.0345), BLACK, 0.003, (0.033, 0.012, 0)),
            box((0.034, 0.034, 0.0345), BLACK, 0.003, (0.069, 0, 0)),
            *[cylinder(0.0125, 0.004, METAL, 0.001).moved((0.075, y, 0), along_y) for y in (-0.0185, 0.0185)],
        ]
    if link == "wrist_link":
        return [
            *[box((0.052, 0.0035, 0.0225), SHELL, 0.0015, (0.0226, y, 0)) for y in (-0.0222, 0.0222)],
            box((0.012, 0.046, 0.0225), SHELL, 0.002, (0.045, 0, 0)),
            box((0.034, 0.034, 0.046), BLACK, 0.003, (0.046, 0, 0.011)),
            cylinder(0.02, 0.004, METAL, 0.001).moved((0.063, 0, 0), along_x),
        ]
    if link == "gripper_link":
        return [
            cylinder(0.02, 0.006, SHELL, 0.001).moved((0.003, 0, 0), along_x),
            box((0.037, 0.036, 0.05), BLACK, 0.004, (0.0235, 0, 0.009)),
            box((0.003, 0.024, 0.03), METAL, 0.001, (0.0425, 0, 0.01)),
        ]
    if link == "gripper_prop_link":
        return [box((0.004, 0.018, 0.034), METAL, 0.0015), cylinder(0.0085, 0.005, SHELL).moved((0, 0, 0), along_x)]
    if link == "gripper_bar_link":
        return [
            box((0.0032, 0.1035, 0.0493), SHELL, 0.0012, (0.0016, 0, 0.0107)),
            *[box((0.024, 0.004, 0.014), SHELL, 0.0015, (0.0135, y, 0)) for y in (-0.0495, 0.0495)],
            cylinder(0.0042, 0.1, METAL, segments=12).moved((0.0235, 0, 0), along_y),
            *_screws([(0.0034, y, z) for y in (-0.044, 0.044) for z in (-0.009, 0.03)], along_x),
        ]
    if link in ("left_finger_link", "right_finger_link"):
        s = 1 if link == "left_finger_link" else -1
        return [
            box((0.022, 0.014, 0.029), SHELL, 0.003, (-0.0012, -0.001 * s, 0)),
            box((0.033, 0.007, 0.0275), BLACK, 0.002, (0.0262, -0.0018 * s, 0)),
            box((0.0325, 0.004, 0.0265), PAD, 0.001, (0.0268, -0.007 * s, 0)),
            *[box((0.002, 0.0006, 0.0255), SHELL, 0, (x, -0.00895 * s, 0)) for x in (0.016, 0.022, 0.028, 0.034)],
            box((0.003, 0.010, 0.0268), PAD, 0.001, (0.0416, -0.004 * s, 0)),
        ]
    return []
