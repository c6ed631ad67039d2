"""Cans, tools, toys and other graspables. Long ones lie along x; upright ones stand on z = 0."""

from __future__ import annotations

from math import pi

import numpy as np
from trimesh import Trimesh

from modelling import textures as tx
from modelling.model import Model, block, disc, hull_of, settle, wedge_ring
from modelling.shapes import Paint, Part, box, cylinder, lathe, sharp, sphere, tube

METAL = Paint((205, 207, 212), roughness=0.35, metallic=0.25)
BLACK = Paint((36, 36, 40), roughness=0.5)


def can(colour: tx.Colour, accent: tx.Colour) -> Model:
    """Drink can, 3.8 cm wide and 6.2 cm high, with a band and two rings around its label."""
    u, v = tx.canvas(192, 96)
    band = np.abs(v - 0.24)
    label = tx.mix(colour, accent, tx.smooth(0.055, 0.035, band))
    ring = np.hypot((u * 2 % 1 - 0.25) * 1.25, v - 0.64)
    label = tx.mix(label, accent, tx.smooth(0.22, 0.2, ring))
    label = tx.mix(label, colour, tx.smooth(0.12, 0.1, ring))
    paint = Paint(texture=tx.image(label), roughness=0.3)
    side = lathe([(0.019, 0.006), (0.019, 0.054)], paint, 24)
    base = lathe(sharp((0, 0.001), (0.0135, 0.0), (0.0155, 0.0012), (0.019, 0.006)), METAL, 24)
    lid = lathe(
        sharp((0.019, 0.054), (0.0158, 0.061), (0.0158, 0.062), (0.0146, 0.062), (0.0142, 0.0602), (0, 0.0602)),
        METAL,
        24,
    )
    tab = box((0.010, 0.005, 0.0012), Paint((150, 152, 158), roughness=0.4), 0.0005, (0.002, 0, 0.0612))
    hole = cylinder(0.0035, 0.0006, BLACK, segments=10).moved((-0.0075, 0, 0.0604))
    solid = wedge_ring([(0.0150, 0.0), (0.019, 0.006), (0.019, 0.054), (0.0155, 0.062)])
    return Model([side, base, lid, tab, hole], [solid], width=0.038, grasp_top=0.062)


def bottle() -> Model:
    """Small water bottle, held by its neck and cap."""
    plastic = Paint((120, 186, 232), roughness=0.15)
    u, v = tx.canvas(128, 48)
    label = tx.mix((246, 248, 250), (30, 92, 190), tx.smooth(0.2, 0.24, np.abs(v - 0.45 - 0.1 * np.sin(6 * pi * u))))
    profile = [(0, 0.002), (0.013, 0.0), (0.0168, 0.0015), (0.018, 0.005), (0.018, 0.014), (0.0175, 0.016)]
    profile += [
        (0.0175, 0.04),
        (0.018, 0.042),
        (0.0178, 0.048),
        (0.0155, 0.054),
        (0.012, 0.0585),
        (0.0112, 0.061),
        (0.0112, 0.076),
    ]
    body = lathe(profile, plastic, 20)
    wrap = lathe([(0.0181, 0.016), (0.0181, 0.04)], Paint(texture=tx.image(label), roughness=0.5), 20)
    cap = lathe(
        sharp((0.0119, 0.074), (0.0122, 0.0885), (0.0112, 0.09), (0, 0.09)), Paint((24, 70, 168), roughness=0.4), 16
    )
    collar = lathe([(0.0112, 0.0715), (0.0126, 0.0722), (0.0112, 0.073)], Paint((24, 70, 168), roughness=0.4), 16)
    solids = [wedge_ring([(0.016, 0), (0.018, 0.004), (0.018, 0.047), (0.012, 0.0585)]), disc(0.012, 0.055, 0.09)]
    return Model([body, wrap, cap, collar], solids, width=0.026, grasp_top=0.09)


def mug(colour: tx.Colour = (38, 160, 160)) -> Model:
    """Small mug; the handle points along +x, fingers close across y."""
    glaze = Paint(colour, roughness=0.25)
    inner = Paint((236, 240, 236), roughness=0.3)
    outside = lathe(
        [(0, 0.0008), (0.0168, 0.0), (0.0195, 0.0016), (0.021, 0.006), (0.021, 0.0445), (0.0205, 0.046)], glaze, 24
    )
    inside = lathe(
        [(0.0205, 0.046), (0.0186, 0.046), (0.0183, 0.044), (0.0178, 0.008), (0.015, 0.005), (0, 0.005)], inner, 24
    )
    stripe = lathe([(0.02115, 0.031), (0.02115, 0.037)], inner, 24)
    angle = np.linspace(-pi / 2, pi / 2, 11)
    loop = np.stack([0.0195 + 0.0135 * np.cos(angle), 0 * angle, 0.0235 + 0.0135 * np.sin(angle)], -1)
    handle = tube(loop, [(0.0034, 0.0024)] * len(angle), glaze, 8)
    grip = block((0.016, 0.0066, 0.03), (0.0275, 0, 0.0235))
    solids = [wedge_ring([(0.0185, 0), (0.021, 0.005), (0.021, 0.046)]), grip]
    return Model([outside, inside, stripe, handle], solids, width=0.042, grasp_top=0.046, axis="x")


def cube(colour: tx.Colour) -> Model:
    """Painted wooden cube of 3.2 cm."""
    paint = Paint(texture=tx.mottled(colour, 0.05, 20), roughness=0.6)
    side = 0.032
    body = box((side, side, side), paint, 0.0015, (0, 0, side / 2))
    return Model([body], [block((side, side, side), (0, 0, side / 2))], width=side, grasp_top=side)


STROKES = {
    "A": [((0.2, 0.16), (0.5, 0.86)), ((0.8, 0.16), (0.5, 0.86)), ((0.32, 0.4), (0.68, 0.4))],
    "L": [((0.3, 0.16), (0.3, 0.86)), ((0.3, 0.18), (0.74, 0.18))],
    "T": [((0.18, 0.84), (0.82, 0.84)), ((0.5, 0.16), (0.5, 0.84))],
    "V": [((0.2, 0.86), (0.5, 0.16)), ((0.8, 0.86), (0.5, 0.16))],
}


def letter(sign: str, colour: tx.Colour) -> Model:
    """Wooden toy block with a letter on every side, 3.4 cm square and 2.8 cm high."""
    u, v = tx.canvas(96, 96)
    wood = tx.mix((226, 186, 128), (204, 158, 98), tx.noise(u, v, (14, 2), 21))
    edge = tx.smooth(0.42, 0.44, np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)))
    face = tx.mix(wood, colour, edge)
    ink = np.min([tx.segment(u, v, *stroke) for stroke in STROKES[sign]], axis=0)
    paint = Paint(texture=tx.image(tx.mix(face, colour, tx.smooth(0.095, 0.08, ink)), 92), roughness=0.65)
    size = (0.034, 0.034, 0.028)
    body = box(size, paint, 0.001, (0, 0, size[2] / 2))
    return Model([body], [block(size, (0, 0, size[2] / 2))], width=0.034, grasp_top=size[2])


def spoon() -> Model:
    """Wide-handled spoon along x, bowl towards -x; held by the handle."""
    steel = Paint((196, 200, 208), roughness=0.3, metallic=0.2)
    grip = Paint((36, 128, 84), roughness=0.5)
    x = np.array([-0.032, -0.026, -0.018, -0.01, 0.0])
    thickness = [(0.006, 0.0025), (0.0045, 0.0028), (0.004, 0.003), (0.0045, 0.0035), (0.005, 0.004)]
    neck = tube(np.stack([x, 0 * x, [0.0058, 0.0065, 0.0075, 0.008, 0.008]], -1), thickness, steel, 10)
    x = np.array([-0.0165, -0.016, -0.012, 0.0, 0.03, 0.047, 0.052, 0.0525])
    half = [
        (0.001, 0.001),
        (0.0062, 0.0055),
        (0.0085, 0.0068),
        (0.0092, 0.007),
        (0.0088, 0.007),
        (0.0092, 0.007),
        (0.007, 0.0058),
        (0.001, 0.001),
    ]
    handle = tube(np.stack([x, 0 * x, 0 * x + 0.0075], -1), half, grip, 12)
    shell = [(0.0, 0.0), (0.0135, 0.0008), (0.0203, 0.0045), (0.0225, 0.0098), (0.0218, 0.0102), (0.019, 0.0062)]
    bowl = lathe([*shell, (0.0124, 0.003), (0.0, 0.002)], steel, 20)
    oval = bowl.mesh.vertices * [1.0, 0.74, 1.0]
    bowl = Part(Trimesh(oval, bowl.mesh.faces, process=False), bowl.uv, steel).moved((-0.05, 0, 0))
    parts = settle([bowl, neck, handle], sink=0.0, centre=False)
    bar = block((0.069, 0.018, 0.0142), (0.018, 0, 0.0073))
    solids = [bar, hull_of(parts[0]), block((0.03, 0.009, 0.006), (-0.025, 0, 0.0072))]
    return Model(parts, solids, width=0.018, grasp_top=0.0145, axis="x")


def sponge() -> Model:
    """Yellow sponge with a green scouring top; long side along x."""
    u, v = tx.canvas(128, 64)
    holes = tx.dots(u, v, (22, 12), 0.2, 22, 0.9)
    foam = tx.mix(tx.mix((250, 214, 70), (236, 190, 44), tx.noise(u, v, (8, 4), 23)), (196, 148, 28), holes)
    scour = tx.mix((52, 128, 66), (28, 92, 46), tx.noise(u, v, (32, 16), 24))
    body = box((0.066, 0.04, 0.02), Paint(texture=tx.image(foam), roughness=0.95), 0.0015, (0, 0, 0.01))
    top = box((0.066, 0.04, 0.006), Paint(texture=tx.image(scour), roughness=1.0), 0.001, (0, 0, 0.0225))
    return Model([body, top], [block((0.066, 0.04, 0.0255), (0, 0, 0.01275))], width=0.04, grasp_top=0.0255, axis="x")


def marker() -> Model:
    """Thick felt marker: white barrel, blue cap and end."""
    white, blue = Paint((238, 238, 236), roughness=0.4), Paint((28, 64, 200), roughness=0.4)
    r = 0.0095
    barrel = lathe([(r - 0.0006, -0.022), (r - 0.0006, 0.047)], white, 14).moved((0, 0, r), (0, pi / 2, 0))
    cap = lathe(sharp((0, -0.052), (0.0055, -0.052), (0.007, -0.05), (r, -0.022), (r - 0.0006, -0.022)), blue, 14)
    end = lathe(sharp((r - 0.0006, 0.043), (r, 0.043), (r, 0.0505), (0.0075, 0.052), (0, 0.052)), blue, 14)
    band = lathe([(r, 0.012), (r, 0.02)], blue, 14)
    clip = box((0.026, 0.0035, 0.002), blue, 0.0006, (-0.034, 0, 2 * r + 0.0002))
    turned = [p.moved((0, 0, r), (0, pi / 2, 0)) for p in (cap, end, band)]
    parts = settle([barrel, *turned, clip], sink=0.0006, centre=False)
    return Model(parts, [hull_of(*parts[:3])], width=0.019, grasp_top=0.0185, axis="x")


def battery() -> Model:
    """Stout round battery lying along x, copper end with its nub towards +x."""
    copper, dark = Paint((206, 128, 58), roughness=0.3, metallic=0.2), Paint((34, 34, 38), roughness=0.4)
    r = 0.0115
    pieces = [
        lathe(sharp((0, -0.026), (r - 0.001, -0.026), (r, -0.025), (r, 0.008)), dark, 18),
        lathe(sharp((r, 0.008), (r, 0.0235), (r - 0.001, 0.0245), (0, 0.0245)), copper, 18),
        lathe(sharp((0.004, 0.0245), (0.004, 0.0275), (0, 0.0275)), METAL, 10),
        lathe([(r + 0.0001, -0.004), (r + 0.0001, -0.001)], Paint((236, 236, 232)), 18),
    ]
    parts = settle([p.moved((0, 0, r), (0, pi / 2, 0)) for p in pieces], sink=0.0007, centre=False)
    return Model(parts, [hull_of(*parts[:2])], width=0.023, grasp_top=0.0223, axis="x")


def tape_roll() -> Model:
    """Roll of brown packing tape lying flat."""
    u, v = tx.canvas(64, 32)
    layers = tx.mix((198, 150, 88), (176, 126, 66), tx.noise(u, v, (1, 12), 25))
    tape = Paint(texture=tx.image(layers), roughness=0.25)
    card = Paint((214, 196, 164), roughness=0.9)
    outer = lathe(sharp((0.0125, 0.0), (0.0205, 0.0), (0.0205, 0.021), (0.0125, 0.021)), tape, 28)
    inner = lathe(sharp((0.0125, 0.0212), (0.0108, 0.0212), (0.0108, 0.0), (0.0125, 0.0)), card, 28)
    return Model([outer, inner], [disc(0.0205, 0, 0.021)], width=0.041, grasp_top=0.021)


def toy_duck() -> Model:
    """Bath duck looking along -x."""
    yellow, bill, black = Paint((252, 208, 32), roughness=0.35), Paint((240, 112, 24), roughness=0.4), BLACK
    body = sphere((0.026, 0.018, 0.0155), yellow, 18, 10).moved((0.002, 0, 0.0145))
    tail = tube([(0.018, 0, 0.02), (0.026, 0, 0.025), (0.0315, 0, 0.032)], [0.0095, 0.0065, 0.0012], yellow, 10)
    wings = [
        sphere((0.013, 0.003, 0.0075), yellow, 12, 7).moved((0.007, s * 0.0172, 0.019), (0, -0.3, 0)) for s in (-1, 1)
    ]
    head = sphere((0.0132, 0.0126, 0.0126), yellow, 16, 9).moved((-0.0125, 0, 0.0345))
    beak = sphere((0.0075, 0.0062, 0.0026), bill, 12, 7).moved((-0.0265, 0, 0.0325))
    eyes = [sphere((0.0018, 0.0018, 0.0024), black, 8, 5).moved((-0.0225, s * 0.0062, 0.0385)) for s in (-1, 1)]
    parts = settle([body, tail, *wings, head, beak, *eyes], sink=0.0015, centre=False)
    return Model(
        parts, [hull_of(parts[0], parts[1]), hull_of(parts[4], parts[5])], width=0.036, grasp_top=0.041, axis="x"
    )


def screwdriver() -> Model:
    """Screwdriver along x, red and black handle towards +x; held by the handle."""
    red, r = Paint((206, 34, 36), roughness=0.35), 0.0115
    profile = [(0.0, -0.014), (0.007, -0.0135), (0.0078, -0.008), (0.0105, -0.002), (r, 0.006), (r, 0.028)]
    handle = lathe([*profile, (0.0105, 0.036), (0.0085, 0.0405), (0, 0.0415)], red, 8)
    bands = [lathe([(r + 0.0003, x), (r + 0.0003, x + 0.005)], BLACK, 8) for x in (0.008, 0.016)]
    shaft = lathe(sharp((0, -0.066), (0.0027, -0.066), (0.0027, -0.013)), METAL, 8)
    blade = box((0.01, 0.008, 0.0018), METAL, 0.0006, (-0.063, 0, r))
    facet_down = [p.moved(rpy=(0, 0, pi / 8)) for p in (handle, *bands, shaft)]
    pieces = [p.moved((0, 0, r), (0, pi / 2, 0)) for p in facet_down]
    parts = settle([p.moved((-0.006, 0, 0)) for p in (*pieces, blade)], sink=0.0012, centre=False)
    core = hull_of(parts[0])
    rod = block((0.054, 0.0056, 0.0056), (-0.046, 0, r - 0.0012))
    return Model(parts, [core, rod], width=0.023, grasp_top=0.0225, axis="x")
