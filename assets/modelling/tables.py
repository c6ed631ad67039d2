"""Table tops as square textures of 512 px; each tiles without a seam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from modelling import textures as tx

SIZE = 512


def planks(light: tx.Colour, dark: tx.Colour, boards: int, seed: int) -> Image.Image:
    """Boards along u with grain, a tint of their own and a dark joint between them."""
    u, v = tx.canvas(SIZE, SIZE)
    board = np.floor(v * boards).astype(int)
    rng = np.random.default_rng(seed)
    offset, tint = rng.random(boards)[board], rng.random(boards)[board] - 0.5
    warp = 0.012 * (tx.noise(u + offset, v, (3, 4 * boards), seed + 1) - 0.5)
    fine = tx.noise(u + offset, v + warp, (4, 64), seed + 2, 3)
    broad = tx.noise(u + offset, v + 3 * warp, (2, 10), seed + 3, 2)
    rgb = tx.mix(light, dark, np.clip(0.55 * fine + 0.45 * broad + 0.3 * tint, 0, 1))
    joint = np.abs(v * boards - np.round(v * boards)) / boards
    return tx.image(tx.mix(rgb, np.asarray(dark) * 0.55, 0.8 * tx.smooth(0.0032, 0.0012, joint)))


def laminate(colour: tx.Colour, seed: int) -> Image.Image:
    """Plain desk top with a very faint speckle."""
    u, v = tx.canvas(SIZE, SIZE)
    speckle = tx.noise(u, v, (96, 96), seed, 2) - 0.5
    broad = tx.noise(u, v, (3, 3), seed + 1) - 0.5
    return tx.image(np.asarray(colour, float) * (1 + 0.05 * speckle + 0.04 * broad)[..., None])


def linen(colour: tx.Colour, thread: tx.Colour, seed: int) -> Image.Image:
    """Woven table cloth."""
    u, v = tx.canvas(SIZE, SIZE)
    warp = 0.5 + 0.5 * np.sin(2 * np.pi * 128 * u) * np.sin(2 * np.pi * 128 * v)
    slub = tx.noise(u, v, (4, 128), seed, 1) + tx.noise(u, v, (128, 4), seed + 1, 1) - 1
    return tx.image(tx.mix(colour, thread, np.clip(0.35 * warp + 0.5 * slub + 0.2, 0, 1)))


def gingham(colour: tx.Colour, white: tx.Colour, checks: int) -> Image.Image:
    """Chequered table cloth."""
    u, v = tx.canvas(SIZE, SIZE)
    across, along = np.floor(u * checks * 2) % 2, np.floor(v * checks * 2) % 2
    weave = 0.06 * np.sin(2 * np.pi * 128 * (u + v))
    return tx.image(tx.mix(white, colour, np.clip(0.42 * (across + along) + weave * (across + along > 0), 0, 1)))


TABLES: dict[str, Callable[[], Image.Image]] = {
    "oak": partial(planks, (206, 166, 116), (164, 120, 74), 4, 50),
    "walnut": partial(planks, (138, 96, 64), (84, 54, 36), 5, 60),
    "birch": partial(planks, (232, 210, 174), (206, 176, 134), 3, 70),
    "grey": partial(laminate, (170, 172, 174), 80),
    "linen": partial(linen, (214, 204, 186), (176, 164, 142), 90),
    "gingham": partial(gingham, (120, 152, 178), (238, 238, 232), 8),
}
