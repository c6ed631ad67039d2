"""Painting with arrays: value noise and colour mixing for textures, tables and backdrops."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

Array = NDArray[np.float64]
Colour = Sequence[float]


def canvas(width: int, height: int) -> tuple[Array, Array]:
    """(height, width) arrays of u (0 left .. 1 right) and v (0 bottom .. 1 top) at the pixel centres."""
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, 1 - (np.arange(height) + 0.5) / height)
    return u, v


def noise(u: Array, v: Array, cells: tuple[int, int], seed: int, octaves: int = 3) -> Array:
    """Smooth noise 0..1 that tiles over the unit square; `cells` is the coarsest lattice along (u, v)."""
    rng = np.random.default_rng(seed)
    total, weight = np.zeros_like(u), 0.0
    for k in range(octaves):
        nu, nv = cells[0] * 2**k, cells[1] * 2**k
        lattice = rng.random((nv, nu))
        total += map_coordinates(lattice, [(v % 1) * nv, (u % 1) * nu], order=1, mode="grid-wrap") / 2**k
        weight += 0.5**k
    return np.clip((total / weight - 0.5) * 1.6 + 0.5, 0, 1)


def smooth(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth in between (`low` > `high` falls instead)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(base: Array | Colour, over: Array | Colour, amount: Array) -> Array:
    """(h, w, 3) colours 0..255: `base` where `amount` is 0, `over` where it is 1."""
    a = amount[..., None]
    return np.asarray(base, float) * (1 - a) + np.asarray(over, float) * a


def dots(u: Array, v: Array, count: tuple[int, int], radius: float, seed: int, jitter: float = 0.6) -> Array:
    """1 inside one randomly shifted dot per lattice cell (`count` cells along u, v; radius in cells), soft edges."""
    rng = np.random.default_rng(seed)
    shift = (rng.random((count[1], count[0], 2)) - 0.5) * jitter
    x, y = u * count[0], v * count[1]
    i, j = np.floor(x).astype(int) % count[0], np.floor(y).astype(int) % count[1]
    distance = np.hypot(x % 1 - 0.5 - shift[j, i, 0], y % 1 - 0.5 - shift[j, i, 1])
    return smooth(radius * 1.3, radius * 0.7, distance)


def segment(u: Array, v: Array, start: Colour, end: Colour) -> Array:
    """Distance of each point to the line segment from `start` to `end` in (u, v)."""
    p = np.stack([u, v], -1) - np.asarray(start, float)
    d = np.asarray(end, float) - np.asarray(start, float)
    t = np.clip(p @ d / (d @ d), 0, 1)
    return np.asarray(np.linalg.norm(p - t[..., None] * d, axis=-1))


def image(rgb: Array, quality: int = 88) -> Image.Image:
    """Colours 0..255 as an image that is stored as JPEG, inside a GLB too."""
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def mottled(colour: Colour, spread: float, seed: int, size: int = 64, cells: int = 5) -> Image.Image:
    """A plain colour with soft lighter and darker patches, +-`spread` of its brightness."""
    u, v = canvas(size, size)
    shade = 1 + spread * (2 * noise(u, v, (cells, cells), seed) - 1)
    return image(np.asarray(colour, float) * shade[..., None])
