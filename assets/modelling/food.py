"""Fruit and vegetables, scaled so that a 5.6 cm gripper closes around each of them. Long ones lie along x."""

from __future__ import annotations

from math import pi

import numpy as np

from modelling import textures as tx
from modelling.model import Model, hull, hull_of, settle
from modelling.shapes import Paint, Part, lathe, sheet, sphere, tube

STEM = Paint((96, 68, 38), roughness=0.9)
LEAF = Paint((70, 132, 48), roughness=0.8)


def leaf(length: float, width: float, paint: Paint, droop: float = 0.2) -> Part:
    """A pointed two-sided leaf along +x from the origin, arched by `droop` of its length."""
    t = np.linspace(0, 1, 6)
    half = width / 2 * np.sin(pi * t**0.8) + 0.0006
    z = droop * length * (np.sin(pi * t * 0.8) - t * 0.6)
    rim = np.stack([t * length, half, z], -1)
    spine = np.stack([t * length, 0 * t, z + width * 0.08], -1)
    other = rim * [1, -1, 1]
    below = spine - [0, 0, width * 0.16 + 0.0006]
    return sheet(np.stack([rim, spine, other, below, rim]).transpose(1, 0, 2)[::-1], paint)


def along_x(points: list[tuple[float, float]], paint: Paint, segments: int = 16, bend: float = 0.0) -> Part:
    """Round body lying on the table along x from (x, radius) pairs; `bend` curves it sideways [m at the ends]."""
    x, r = np.array(points).T
    reach = np.abs(x).max()
    path = np.stack([x, bend * (x / reach) ** 2, r], -1)
    return tube(path, list(r), paint, segments)


def carrot() -> Model:
    u, v = tx.canvas(64, 128)
    rings = tx.smooth(0.6, 0.85, tx.noise(u, v, (2, 22), 1, 2))
    skin = tx.mix((242, 124, 28), (200, 88, 14), 0.65 * rings)
    paint = Paint(texture=tx.image(tx.mix(skin, (150, 120, 40), tx.smooth(0.97, 1, v))), roughness=0.65)
    body = [(-0.05, 0.0005), (-0.0485, 0.0035), (-0.043, 0.0058), (-0.025, 0.0092), (0.0, 0.0128), (0.018, 0.0152)]
    body += [(0.03, 0.0162), (0.037, 0.0145), (0.041, 0.0095), (0.042, 0.0005)]
    root = along_x(body, paint)
    leaves = [
        leaf(length, 0.0095, LEAF, 0.12).moved((0.039, 0, 0.0145), (0, tilt, turn))
        for length, tilt, turn in (
            (0.036, -0.25, 0.0), (0.032, -0.1, 0.45), (0.032, -0.1, -0.45), (0.026, 0.12, 0.8), (0.026, 0.12, -0.8)
        )
    ]  # fmt: skip
    parts = settle([p.moved((-0.006, 0, 0)) for p in (root, *leaves)], sink=0.0016, centre=False)
    return Model(parts, [hull_of(parts[0])], width=0.028, grasp_top=0.027, axis="x")


def eggplant() -> Model:
    u, v = tx.canvas(32, 64)
    skin = tx.mix((74, 28, 92), (104, 50, 124), tx.noise(u, v, (3, 6), 2))
    paint = Paint(texture=tx.image(skin), roughness=0.25)
    body = [(-0.055, 0.0005), (-0.0535, 0.008), (-0.048, 0.0145), (-0.037, 0.0186), (-0.022, 0.0196), (-0.004, 0.018)]
    body += [(0.014, 0.0155), (0.028, 0.0135), (0.038, 0.0115), (0.043, 0.006), (0.044, 0.0005)]
    flesh = along_x(body, paint, bend=0.005)
    cap = along_x([(0.026, 0.0145), (0.036, 0.0132), (0.044, 0.008), (0.0475, 0.0042), (0.06, 0.0034), (0.061, 0.0003)],
                  LEAF, 10)  # fmt: skip
    cap = cap.moved((0, 0.0018, 0.0002))
    fringe = [leaf(0.018, 0.011, LEAF, 0.05).moved((0.03, 0.0018 + 0.0145 * np.sin(a), 0.0138 + 0.0145 * np.cos(a)),
              (a, 0, pi)) for a in (0.0, -0.9, 0.9)]  # fmt: skip
    parts = settle([p.moved((0.008, 0, 0)) for p in (flesh, cap, *fringe)], sink=0.0014, centre=False)
    return Model(parts, [hull_of(parts[0])], width=0.037, grasp_top=0.037, axis="x")


def banana() -> Model:
    u, v = tx.canvas(64, 128)
    ends = tx.smooth(0.1, 0.03, v) + tx.smooth(0.93, 0.98, v)
    skin = tx.mix((248, 212, 52), (206, 190, 60), tx.smooth(0.2, 0.08, v) + tx.smooth(0.84, 0.93, v))
    skin = tx.mix(
        skin, (150, 104, 40), 0.8 * tx.dots(u, v, (9, 20), 0.13, 3) * tx.smooth(0.45, 0.75, tx.noise(u, v, (3, 4), 4))
    )
    skin = tx.mix(skin, (84, 58, 30), np.clip(ends, 0, 1))
    paint = Paint(texture=tx.image(skin), roughness=0.5)
    angle = np.linspace(-0.93, 0.93, 13)
    radius = 0.94 * np.array(
        [0.0028, 0.0045, 0.0098, 0.0132, 0.0146, 0.0152, 0.0154, 0.0152, 0.0146, 0.013, 0.0098, 0.0042, 0.0038]
    )
    # an arc; its middle is the grasp
    path = np.stack([0.072 * np.sin(angle), 0.072 * (1 - np.cos(angle)) - 0.004, radius.clip(0.008)], -1)
    end = np.array([0.0005, 0, 0])
    rows = np.stack([path[0] - end, *path, path[-1] + end])
    body = tube(rows, [0.0004, *radius, 0.0004], paint, 8)
    parts = settle([body], sink=0.0008, centre=False)
    rings = parts[0].mesh.vertices.reshape(len(rows), -1, 3)
    solids = [hull(rings[a:b].reshape(-1, 3)) for a, b in ((0, 6), (5, 10), (9, 15))]
    return Model(parts, solids, width=0.029, grasp_top=0.028, axis="x")


def lemon(peel_colour: tx.Colour = (250, 222, 46)) -> Model:
    paint = Paint(texture=tx.mottled(peel_colour, 0.06, 5, cells=14), roughness=0.55)
    body = [
        (-0.0285, 0.0005),
        (-0.0275, 0.0035),
        (-0.0245, 0.0052),
        (-0.0215, 0.0095),
        (-0.016, 0.0145),
        (-0.008, 0.0182),
    ]
    body += [
        (0, 0.0193),
        (0.008, 0.0182),
        (0.016, 0.0143),
        (0.021, 0.0095),
        (0.0235, 0.0062),
        (0.0255, 0.0045),
        (0.0265, 0.0005),
    ]
    x, r = np.array(body).T
    peel = tube(np.stack([x, 0 * x, 0 * x], -1), list(r), paint, 16)
    tip = sphere((0.0014, 0.0024, 0.0024), STEM, 8, 5).moved((0.0262, 0, 0))
    parts = settle([peel, tip], sink=0.0015)
    return Model(parts, [hull_of(parts[0])], width=0.038, grasp_top=0.036, axis="x")


def orange(peel_colour: tx.Colour = (250, 142, 22), pores: tx.Colour = (222, 108, 8)) -> Model:
    u, v = tx.canvas(128, 64)
    skin = tx.mix(peel_colour, pores, 0.55 * tx.dots(u, v, (40, 20), 0.3, 6))
    paint = Paint(texture=tx.image(skin), roughness=0.6)
    peel = sphere((0.021, 0.021, 0.0202), paint, 20, 11)
    button = lathe([(0.0044, 0.0), (0.0044, 0.0008), (0.002, 0.0018), (0, 0.0019)], LEAF, 5).moved((0, 0, 0.0195))
    parts = settle([peel, button], sink=0.0014)
    return Model(parts, [hull_of(parts[0])], width=0.042, grasp_top=0.039)


def apple(skin_colour: tx.Colour = (196, 22, 30), streak: tx.Colour = (226, 78, 44)) -> Model:
    u, v = tx.canvas(128, 64)
    streaks = tx.noise(u, v, (26, 2), 7, 2)
    skin = tx.mix(skin_colour, streak, tx.smooth(0.45, 0.9, streaks))
    skin = tx.mix(skin, (214, 186, 74), tx.smooth(0.84, 0.99, v) * 0.8)
    paint = Paint(texture=tx.image(skin), roughness=0.3)
    profile = [
        (0, 0.0022),
        (0.006, 0.0004),
        (0.0105, 0.0002),
        (0.0152, 0.0045),
        (0.0188, 0.0125),
        (0.0206, 0.021),
        (0.0207, 0.0265),
    ]
    profile += [(0.0188, 0.0335), (0.0145, 0.0378), (0.009, 0.0388), (0.0045, 0.0366), (0.0018, 0.0332), (0, 0.0325)]
    fruit = lathe(profile, paint, 20)
    stalk = tube([(0, 0, 0.032), (0.0006, 0, 0.038), (0.003, 0, 0.0445)], [0.0012, 0.0011, 0.0015], STEM, 6)
    blade = leaf(0.021, 0.012, LEAF).moved((0.002, 0, 0.0415), (0.25, -0.3, 0.6))
    parts = [fruit, stalk, blade]
    return Model(parts, [hull_of(fruit)], width=0.041, grasp_top=0.039)


def pear() -> Model:
    u, v = tx.canvas(64, 64)
    skin = tx.mix((190, 200, 62), (160, 176, 48), tx.noise(u, v, (6, 6), 8))
    skin = tx.mix(skin, (134, 110, 46), 0.8 * tx.dots(u, v, (18, 14), 0.14, 9))
    paint = Paint(texture=tx.image(skin), roughness=0.5)
    profile = [
        (0, 0.0015),
        (0.006, 0.0002),
        (0.0095, 0.0003),
        (0.0158, 0.0046),
        (0.0192, 0.0115),
        (0.0199, 0.0175),
        (0.0182, 0.0245),
    ]
    profile += [(0.0142, 0.032), (0.0112, 0.039), (0.0095, 0.0455), (0.0072, 0.0495), (0.0035, 0.0512), (0, 0.0508)]
    fruit = lathe(profile, paint, 20)
    stalk = tube([(0, 0, 0.0505), (0.0006, 0, 0.056), (0.0032, 0, 0.062)], [0.0013, 0.0012, 0.0016], STEM, 6)
    blade = leaf(0.019, 0.01, LEAF).moved((0.001, 0, 0.0555), (0, -0.2, 2.4))
    return Model([fruit, stalk, blade], [hull_of(fruit)], width=0.04, grasp_top=0.042)


def plum() -> Model:
    u, v = tx.canvas(64, 64)
    bloom = tx.smooth(0.35, 0.9, tx.noise(u, v, (4, 4), 10))
    skin = tx.mix((92, 20, 58), (150, 86, 128), 0.75 * bloom)
    crease = tx.smooth(0.05, 0.0, np.abs(u - 0.5))
    paint = Paint(texture=tx.image(tx.mix(skin, (56, 8, 34), 0.8 * crease)), roughness=0.4)
    fruit = sphere((0.0185, 0.0165, 0.0168), paint, 18, 10)
    stalk = tube([(0, 0, 0.016), (0.0005, 0, 0.02), (0.003, 0.001, 0.0245)], [0.0012, 0.0009, 0.0012], STEM, 6)
    parts = settle([fruit, stalk], sink=0.0014)
    return Model(parts, [hull_of(parts[0])], width=0.033, grasp_top=0.032, axis="x")


def strawberry() -> Model:
    u, v = tx.canvas(96, 96)
    skin = tx.mix((218, 26, 40), (236, 66, 52), tx.noise(u, v, (4, 4), 11))
    seeds = tx.dots(u, v, (13, 11), 0.2, 12, 0.15)
    skin = tx.mix(tx.mix(skin, (150, 10, 22), tx.dots(u, v, (13, 11), 0.34, 12, 0.15)), (250, 220, 110), seeds)
    paint = Paint(texture=tx.image(skin), roughness=0.4)
    body = [(-0.024, 0.0005), (-0.023, 0.0035), (-0.019, 0.0074), (-0.011, 0.0122), (-0.002, 0.016), (0.006, 0.0175)]
    body += [(0.0115, 0.016), (0.0145, 0.0105), (0.0155, 0.0005)]
    x, r = np.array(body).T
    fruit = tube(np.stack([x, 0 * x, 0.2 * x], -1), list(r), paint, 16)
    cap = [
        leaf(0.0175, 0.0085, LEAF, 0.35).moved(rpy=(0, -1.25, 0)).moved((0.0155, 0, 0.0032), (a, 0, 0))
        for a in np.arange(7) * 2 * pi / 7
    ]
    stalk = tube([(0.015, 0, 0.0032), (0.021, 0, 0.005), (0.026, 0, 0.009)], [0.0013, 0.001, 0.0013], LEAF, 6)
    parts = settle([fruit, *cap, stalk], sink=0.0024)
    return Model(parts, [hull_of(parts[0])], width=0.034, grasp_top=0.032, axis="x")


def corn() -> Model:
    u, v = tx.canvas(128, 128)
    cu, cv = u * 14 % 1 - 0.5, v * 26 % 1 - 0.5
    kernel = tx.smooth(0.55, 0.3, np.maximum(np.abs(cu), np.abs(cv)))
    skin = tx.mix((196, 132, 14), (252, 208, 50), kernel)
    skin = tx.mix(skin, (255, 230, 120), tx.smooth(0.3, 0.0, np.hypot(cu - 0.1, cv - 0.1)) * 0.7)
    paint = Paint(texture=tx.image(skin), roughness=0.4)
    body = [(-0.055, 0.0005), (-0.0535, 0.006), (-0.046, 0.0105), (-0.03, 0.0145), (-0.008, 0.0163), (0.015, 0.0165)]
    body += [(0.034, 0.0155), (0.042, 0.013), (0.046, 0.008), (0.047, 0.0005)]
    cob = along_x(body, paint, 18)
    husk = Paint((136, 172, 74), roughness=0.85)
    places = [((0.052, 0.0, 0.0275), (0.0, -0.02, pi)), ((0.052, 0.011, 0.014), (-1.2, 0.0, pi - 0.12))]
    places.append(((0.052, -0.011, 0.014), (1.2, 0.0, pi + 0.12)))
    blades = [leaf(0.046, 0.021, husk, 0.22).moved(xyz, rpy) for xyz, rpy in places]
    stub = along_x([(0.042, 0.0125), (0.05, 0.0095), (0.058, 0.0055), (0.066, 0.005), (0.067, 0.0004)], husk, 10)
    parts = settle([cob, *blades, stub.moved((0, 0, 0.004))], sink=0.002, centre=False)
    return Model(parts, [hull_of(parts[0])], width=0.033, grasp_top=0.032, axis="x")


def pepper() -> Model:
    paint = Paint(texture=tx.mottled((60, 150, 44), 0.1, 13), roughness=0.22)
    profile = [
        (0, 0.0028),
        (0.005, 0.0008),
        (0.0095, 0.0),
        (0.0148, 0.003),
        (0.0178, 0.011),
        (0.0196, 0.021),
        (0.0203, 0.031),
    ]
    profile += [(0.0192, 0.038), (0.0148, 0.0418), (0.0095, 0.042), (0.0055, 0.0395), (0, 0.038)]
    fruit = lathe(profile, paint, 28)
    points = fruit.mesh.vertices.copy()
    angle = np.arctan2(points[:, 1], points[:, 0])
    lobes = 1 - 0.13 * (1 - np.abs(np.cos(2 * angle))) ** 2  # four lobes
    points[:, :2] *= lobes[:, None]
    body = sheet(points.reshape(len(profile), 29, 3), paint, closed_u=True)
    green = Paint((112, 150, 66), roughness=0.8)
    collar = lathe([(0.006, 0.0385), (0.0062, 0.04), (0.003, 0.0415), (0, 0.0415)], green, 8)
    stalk = tube([(0, 0, 0.04), (0.001, 0, 0.047), (0.005, 0, 0.0535)], [0.0026, 0.0024, 0.003], green, 7)
    return Model([body, collar, stalk], [hull_of(body)], width=0.04, grasp_top=0.042)
