"""Things that others are put on or into: plates, bowl, towel, basket, tray, coaster, pan and box."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi

import numpy as np

from modelling import textures as tx
from modelling.model import Model, block, disc, tray_solids, wall_ring
from modelling.shapes import Paint, Part, box, cylinder, lathe, sharp, sheet, tube


def plate(colour: tx.Colour, rim: tx.Colour) -> Model:
    """Dinner plate of 14 cm with a painted rim."""
    _, v = tx.canvas(32, 128)
    glaze = tx.mix(colour, rim, tx.smooth(0.62, 0.63, v) * tx.smooth(0.7, 0.69, v))
    glaze = tx.mix(glaze, np.asarray(rim, float), 0.25 * tx.smooth(0.785, 0.8, v) * tx.smooth(0.83, 0.815, v))
    paint = Paint(texture=tx.image(glaze, 94), roughness=0.25)
    profile = [
        (0.0, 0.0),
        (0.04, 0.0),
        (0.046, 0.001),
        (0.068, 0.0115),
        (0.07, 0.0135),
        (0.0695, 0.015),
        (0.067, 0.0146),
    ]
    profile += [(0.05, 0.0068), (0.046, 0.0055), (0.0, 0.005)]
    section = [(0.043, 0.0), (0.043, 0.005), (0.0715, 0.015), (0.0715, 0.012)]
    solids = [disc(0.046, 0, 0.005), *wall_ring(section)]
    return Model([lathe(profile, paint, 32)], solids, surface=(0.005, 0.055, "on"))


def bowl() -> Model:
    outside, inside = Paint((222, 92, 62), roughness=0.3), Paint((250, 236, 214), roughness=0.35)
    shell = lathe(
        [(0.0, 0.001), (0.03, 0.0), (0.033, 0.003), (0.046, 0.012), (0.058, 0.027), (0.065, 0.044)], outside, 32
    )
    rim = [(0.065, 0.044), (0.0625, 0.0452), (0.0605, 0.044)]
    lining = lathe([*rim, (0.053, 0.026), (0.041, 0.012), (0.03, 0.0062), (0, 0.005)], inside, 32)
    low = [(0.03, 0.0), (0.036, 0.0), (0.06, 0.026), (0.056, 0.028), (0.03, 0.006)]
    high = [(0.06, 0.026), (0.0665, 0.044), (0.0625, 0.045), (0.055, 0.027)]
    solids = [disc(0.034, 0, 0.0055), *wall_ring(low), *wall_ring(high)]
    return Model([shell, lining], solids, surface=(0.0055, 0.05, "in"))


def towel() -> Model:
    """Folded cloth, 16 cm square and half a centimetre thick, with soft edges."""
    u, v = tx.canvas(128, 128)
    weave = 0.94 + 0.06 * np.sin(u * 2 * pi * 42) * np.sin(v * 2 * pi * 42)
    cloth = np.asarray((236, 132, 160.0)) * (weave * (0.94 + 0.1 * tx.noise(u, v, (6, 6), 30)))[..., None]
    stripes = sum(tx.smooth(0.022, 0.016, np.abs(v - c)) for c in (0.12, 0.2, 0.8, 0.88))
    cloth = tx.mix(cloth, (250, 244, 240), 0.9 * np.clip(stripes, 0, 1))
    paint = Paint(texture=tx.image(cloth), roughness=1.0)
    t = np.linspace(-1, 1, 13)
    x, y = np.meshgrid(0.08 * t, 0.08 * t)
    rng = np.random.default_rng(31)
    top = 0.005 + 0.0006 * rng.random(x.shape)
    edge = np.maximum(np.abs(x), np.abs(y)) > 0.0799
    wobble = 1 - 0.012 * rng.random(x.shape) * edge
    top[edge] = 0.0012
    grid = np.stack([x * wobble, y * wobble, top], -1)
    skirt = np.concatenate([grid[0], grid[1:, -1], grid[-1, -2::-1], grid[-2::-1, 0]])
    hem = sheet(np.stack([skirt * [1, 1, 0], skirt]), paint)
    return Model([sheet(grid, paint), hem], [block((0.158, 0.158, 0.005), (0, 0, 0.0025))], surface=(0.005, 0.07, "on"))


def open_box(size: Sequence[float], floor: float, wall: float, lean: float, paint: Paint, inner: Paint) -> list[Part]:
    """Visual of an open box: outer and inner walls, floor and rim, textured once per wall."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]

    def ring(inset: float, height: float) -> np.ndarray:
        out = lean * (1 - height / z) + inset
        a, b = x - out, y - out
        return np.array([(-a, -b, height), (a, -b, height), (a, b, height), (-a, b, height), (-a, -b, height)])

    def walls(low: np.ndarray, high: np.ndarray, surface: Paint) -> list[Part]:
        return [sheet(np.stack([low[k : k + 2], high[k : k + 2]]), surface) for k in range(4)]

    bottom = ring(wall, floor)
    return [
        *walls(ring(0, 0.0), ring(0, z), paint),
        *walls(ring(0, z), ring(wall, z), paint),
        *walls(ring(wall, z), bottom, inner),
        sheet(np.stack([bottom[:2], bottom[[3, 2]]]), inner),
    ]


def wicker(seed: int) -> Paint:
    u, v = tx.canvas(192, 96)
    row = np.floor(v * 9)
    over = np.abs(np.sin(pi * (u * 14 + 0.5 * (row % 2))))
    round_strand = np.sin(pi * (v * 9 % 1))
    shade = (0.45 + 0.55 * over) * (0.5 + 0.5 * round_strand) * (0.85 + 0.3 * tx.noise(u, v, (10, 9), seed))
    return Paint(texture=tx.image(np.asarray((206, 158, 92.0)) * np.clip(shade, 0, 1.1)[..., None]), roughness=0.9)


def basket() -> Model:
    weave = wicker(32)
    size, wall = (0.16, 0.13, 0.05), 0.006
    parts = open_box(size, 0.005, wall, 0.006, weave, weave)
    rope = Paint((176, 126, 66), roughness=0.9)
    x, y = 0.077, 0.062
    corners = [(-x, -y), (x, -y), (x, y), (-x, y), (-x, -y)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        bar = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0), 0.049) for t in (-0.02, 0.0, 0.5, 1.0, 1.02)]
        parts.append(tube(bar, [0.0005, 0.0044, 0.0044, 0.0044, 0.0005], rope, 8))
    return Model(parts, tray_solids((0.162, 0.132, 0.052), 0.005, 0.007, 0.006), surface=(0.005, 0.055, "in"))


def tray() -> Model:
    u, v = tx.canvas(128, 96)
    grain = tx.mix((122, 74, 42), (92, 52, 28), tx.noise(u, v, (3, 24), 33))
    wood = Paint(texture=tx.image(grain), roughness=0.5)
    size = (0.18, 0.13, 0.018)
    solids = tray_solids(size, 0.005, 0.006, 0.008)
    brass = Paint((196, 160, 84), roughness=0.3, metallic=0.2)
    arch = [(-0.025, 0.016), (-0.02, 0.024), (0.0, 0.026), (0.02, 0.024), (0.025, 0.016)]
    handles = [tube([(s * 0.087, y, z) for y, z in arch], [0.0028] * 5, brass, 8) for s in (-1, 1)]
    return Model([*open_box(size, 0.005, 0.006, 0.008, wood, wood), *handles], solids, surface=(0.005, 0.055, "on"))


def coaster() -> Model:
    u, v = tx.canvas(128, 128)
    cork = tx.mix((206, 164, 110), (160, 112, 64), tx.dots(u, v, (26, 26), 0.26, 34, 1.0))
    cork = tx.mix(cork, (226, 190, 140), 0.6 * tx.dots(u, v, (17, 17), 0.22, 35, 1.0))
    radius = np.hypot(u - 0.5, v - 0.5)
    cork = tx.mix(cork, (96, 60, 32), tx.smooth(0.02, 0.01, np.abs(radius - 0.42)))
    turn = np.linspace(0, 2 * pi, 33)
    centre = np.tile([0, 0, 0.007], (33, 1))
    rim = np.stack([0.048 * np.cos(turn), 0.048 * np.sin(turn), 0 * turn + 0.007], -1)
    top = sheet(np.stack([rim, centre]), Paint(texture=tx.image(cork), roughness=1.0), closed_u=True)
    top.uv = top.mesh.vertices[:, :2] / 0.096 + 0.5
    side = lathe(sharp((0, 0), (0.047, 0), (0.048, 0.001), (0.048, 0.007)), Paint((184, 138, 86), roughness=1.0), 32)
    return Model([top, side], [disc(0.048, 0, 0.007, 20)], surface=(0.007, 0.04, "on"))


def pan() -> Model:
    """Frying pan; the handle points along +x, the origin is the middle of its round part."""
    iron, coat = Paint((52, 54, 60), roughness=0.45), Paint((84, 86, 92), roughness=0.4)
    shell = lathe([(0, 0), (0.05, 0.0), (0.053, 0.002), (0.0625, 0.0225), (0.0625, 0.024)], iron, 32)
    lining = lathe([(0.0625, 0.024), (0.0605, 0.024), (0.051, 0.0055), (0.049, 0.0045), (0, 0.004)], coat, 32)
    wood = Paint((168, 106, 56), roughness=0.6)
    neck = box((0.02, 0.012, 0.006), iron, 0.0015, (0.068, 0, 0.019))
    x = np.array([0.074, 0.0745, 0.08, 0.105, 0.118, 0.122, 0.1225])
    half = [
        (0.002, 0.001),
        (0.007, 0.0045),
        (0.008, 0.0055),
        (0.0092, 0.006),
        (0.009, 0.0058),
        (0.006, 0.004),
        (0.001, 0.001),
    ]
    handle = tube(np.stack([x, 0 * x, 0 * x + 0.02], -1), half, wood, 12)
    hole = cylinder(0.003, 0.013, iron, segments=8).moved((0.114, 0, 0.02))
    section = [(0.049, 0.0), (0.054, 0.0), (0.064, 0.024), (0.061, 0.024), (0.049, 0.0045)]
    solids = [disc(0.053, 0, 0.0045), *wall_ring(section), block((0.064, 0.018, 0.012), (0.0905, 0, 0.02))]
    return Model([shell, lining, neck, handle, hole], solids, surface=(0.0045, 0.048, "in"))


def carton() -> Model:
    """Open cardboard box with a strip of tape."""
    u, v = tx.canvas(96, 48)
    flute = 0.96 + 0.04 * np.sin(u * 2 * pi * 40)
    card = np.asarray((200, 156, 104.0)) * (flute * (0.94 + 0.1 * tx.noise(u, v, (6, 4), 36)))[..., None]
    taped = tx.mix(card, (232, 212, 170), 0.8 * tx.smooth(0.1, 0.085, np.abs(u - 0.5)))
    arrow = np.min([tx.segment(u * 2, v, a, b) for a, b in (((1.65, 0.2), (1.65, 0.6)), ((1.65, 0.62), (1.55, 0.45)),
                    ((1.65, 0.62), (1.75, 0.45)))], axis=0)  # fmt: skip
    outside = Paint(texture=tx.image(tx.mix(taped, (96, 62, 34), tx.smooth(0.035, 0.025, arrow))), roughness=0.95)
    inside = Paint((176, 134, 86), roughness=0.95)
    size = (0.14, 0.11, 0.045)
    return Model(
        open_box(size, 0.004, 0.004, 0.0, outside, inside),
        tray_solids(size, 0.004, 0.005),
        surface=(0.004, 0.047, "in"),
    )
