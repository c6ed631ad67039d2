"""Small cabinet with three drawers that a downward-pointing gripper can open.

Frame: origin on the floor under the middle of the body, front towards -x, z up. Drawers slide 0..0.12 m towards -x.
A handle is a T: a neck straight out of the front and a bar across its end. The gripper comes down with one finger on
either side of the neck and pulls at the bar. Handles sit side by side (bottom -y, middle, top +y), so the way down to
a lower one is free; the neck is long enough to keep the gripper's body off the front. Frames `handle_top`,
`handle_middle` and `handle_bottom` lie at the grasp: `ee_gripper_link` goes there, fingers closing along y.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from modelling import textures as tx
from modelling.shapes import Paint, Part, box
from modelling.urdf import Inertial, Joint, Solid, Vec, add_joint, add_link, write_xml

DEPTH, WIDTH, HEIGHT = 0.14, 0.25, 0.165
TRAVEL = 0.12
PITCH, FIRST = 0.052, 0.006  # drawer spacing and underside of the lowest front
FRONT = 0.007  # thickness of a drawer's front board
NECK, GRASP = 0.062, 0.043  # length of the handle's neck, and how far out of the front it is gripped
HANDLES = {"bottom": -0.083, "middle": 0.0, "top": 0.083}  # y of each handle
SIZE = (DEPTH + FRONT + NECK + 0.012, WIDTH, HEIGHT)

_boards: dict[str, Paint] = {}


def board(tone: str) -> Paint:
    """Painted or bare wood, drawn once."""
    if tone not in _boards:
        u, v = tx.canvas(128, 64)
        grain = tx.noise(u, v, (2, 20), 40)
        light, dark = {"body": ((150, 100, 62), (122, 78, 46)), "front": ((206, 164, 112), (186, 140, 90)),
                       "inside": ((222, 200, 164), (208, 182, 144))}[tone]  # fmt: skip
        _boards[tone] = Paint(texture=tx.image(tx.mix(light, dark, grain)), roughness=0.7)
    return _boards[tone]


STEEL = Paint((90, 94, 102), roughness=0.4, metallic=0.2)


def carcass() -> list[tuple[Vec, Vec]]:
    """(size, centre) of the body's boards: sides, back, top, bottom and two shelves, all behind the fronts."""
    x = FRONT / 2 + 0.0005
    depth = DEPTH - FRONT - 0.001
    side = (WIDTH - 0.008) / 2
    boards: list[tuple[Vec, Vec]] = [((depth, 0.008, HEIGHT), (x, s * side, HEIGHT / 2)) for s in (-1, 1)]
    boards.append(((0.006, WIDTH - 0.016, HEIGHT), (DEPTH / 2 - 0.003, 0, HEIGHT / 2)))
    for z, thick in ((0.002, 0.004), (FIRST + PITCH - 0.0015, 0.002), (FIRST + 2 * PITCH - 0.0015, 0.002)):
        boards.append(((depth, WIDTH - 0.016, thick), (x, 0, z)))
    boards.append(((DEPTH, WIDTH, 0.005), (0, 0, HEIGHT - 0.0025)))
    return boards


def drawer() -> list[tuple[Vec, Vec]]:
    """(size, centre) of front, floor, back and two sides; the frame is at the lower edge of the front's inner face."""
    length, width, tall = 0.12, WIDTH - 0.022, 0.036
    return [
        ((FRONT, WIDTH - 0.004, PITCH - 0.003), (-FRONT / 2, 0, (PITCH - 0.003) / 2)),
        ((length, width, 0.004), (length / 2, 0, 0.004)),
        ((0.004, width, tall), (length - 0.002, 0, tall / 2 + 0.002)),
        ((length, 0.004, tall), (length / 2, (width - 0.004) / 2, tall / 2 + 0.002)),
        ((length, 0.004, tall), (length / 2, -(width - 0.004) / 2, tall / 2 + 0.002)),
    ]


def handle() -> list[tuple[Vec, Vec]]:
    """(size, centre) of neck and bar, in the handle's frame at the grasp."""
    return [((NECK, 0.018, 0.016), (GRASP - NECK / 2, 0, 0)), ((0.012, 0.046, 0.018), (GRASP - NECK - 0.006, 0, 0))]


def solid_inertia(mass: float, size: Vec) -> Inertial:
    x, y, z = (s * s / 12 * mass for s in size)
    return Inertial(mass, (round(y + z, 8), 0, 0, round(x + z, 8), 0, round(x + y, 8)))


def _visual(pieces: list[tuple[Vec, Vec]], tones: list[str], bevel: float) -> list[Part]:
    return [box(size, board(tone), bevel, centre) for (size, centre), tone in zip(pieces, tones, strict=True)]


def build(folder: Path) -> None:
    """Write `folder`/cabinet.urdf and its meshes."""
    robot = ET.Element("robot", name="cabinet")
    body = carcass()
    tones = ["body", "body", "inside", "inside", "inside", "inside", "body"]
    add_link(robot, "cabinet", solid_inertia(3.0, (DEPTH, WIDTH, HEIGHT)), _visual(body, tones, 0.0008),
             [Solid(size, centre) for size, centre in body], folder)  # fmt: skip
    for level, (name, y) in enumerate(HANDLES.items()):
        z = FIRST + level * PITCH
        pieces = drawer()
        parts = _visual(pieces, ["front", *["inside"] * 4], 0.0012)
        add_link(robot, f"drawer_{name}_link", solid_inertia(0.3, (0.127, WIDTH, PITCH)), parts,
                 [Solid(size, centre) for size, centre in pieces], folder)  # fmt: skip
        add_joint(
            robot,
            Joint(f"drawer_{name}", "prismatic", "cabinet", f"drawer_{name}_link", (-DEPTH / 2 + FRONT, 0, z),
                  (-1, 0, 0), (0.0, TRAVEL), effort=20, velocity=1.0, damping=3.0, friction=0.3),
        )  # fmt: skip
        pieces = handle()
        parts = [box(size, STEEL, 0.003, centre) for size, centre in pieces]
        add_link(robot, f"handle_{name}", solid_inertia(0.05, (0.07, 0.046, 0.018)), parts,
                 [Solid(size, centre) for size, centre in pieces], folder)  # fmt: skip
        grasp = (-FRONT - GRASP, y, (PITCH - 0.003) / 2)
        add_joint(robot, Joint(f"mount_{name}", "fixed", f"drawer_{name}_link", f"handle_{name}", grasp, (1, 0, 0)))
    write_xml(robot, folder / "cabinet.urdf")
