"""What one object is made of, and the helpers that set it on the table and wrap it in convex hulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray

from modelling.shapes import Part, bounds, moved

Array = NDArray[np.float64]


@dataclass
class Model:
    """A finished object: resting on z = 0, origin under the place where it is held (targets: under the middle).

    `grasp_top` is the height [m] of the solid at the grasp, `width` across the fingers there (graspables only);
    `surface` is (height, radius, "on"|"in") of a target's support surface.
    """

    parts: list[Part]
    solids: list[trimesh.Trimesh]
    width: float = 0.0
    grasp_top: float = 0.0
    axis: str = "any"
    surface: tuple[float, float, str] | None = None
    size: Array = field(init=False)

    def __post_init__(self) -> None:
        low, high = bounds(self.parts)
        self.size = high - low


def settle(parts: Sequence[Part], sink: float = 0.0, centre: bool = True) -> list[Part]:
    """Set parts on the table: lowest point `sink` metres under z = 0, what would be under it pressed flat.

    A pressed bottom gives round things a small foot to stand on. `centre` moves the footprint's middle to x = y = 0.
    """
    low, high = bounds(parts)
    middle = (low + high) / 2
    shift = (-middle[0], -middle[1], -low[2] - sink) if centre else (0.0, 0.0, -low[2] - sink)
    placed = [p.moved(shift) for p in parts]
    for part in placed:
        vertices = part.mesh.vertices.copy()
        vertices[:, 2] = np.maximum(vertices[:, 2], 0.0)
        normals = part.mesh.vertex_normals.copy()
        part.mesh = trimesh.Trimesh(vertices, part.mesh.faces, vertex_normals=normals, process=False)
    return placed


def hull(points: ArrayLike) -> trimesh.Trimesh:
    """Convex hull of (N, 3) points with at most about 90 corners: the outermost points in evenly spread directions."""
    cloud = np.asarray(points, float)
    k = np.arange(84)
    z = 1 - (2 * k + 1) / len(k)
    turn = k * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], -1)
    directions = np.concatenate([directions, np.eye(3), -np.eye(3)])
    centred = (cloud - cloud.mean(axis=0)) / np.maximum(np.ptp(cloud, axis=0), 1e-9)
    chosen = set((centred @ directions.T).argmax(axis=0).tolist())
    foot = np.nonzero(cloud[:, 2] < cloud[:, 2].min() + 1e-5)[0]  # keep the foot flat and wide
    spread = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    rays = np.stack([np.cos(spread), np.sin(spread)], -1)
    chosen |= set(foot[(cloud[foot][:, :2] @ rays.T).argmax(axis=0)].tolist())
    return trimesh.convex.convex_hull(cloud[sorted(chosen)])


def hull_of(*parts: Part) -> trimesh.Trimesh:
    """Convex hull of whole parts."""
    return hull(np.concatenate([p.mesh.vertices for p in parts]))


def block(size: ArrayLike, centre: ArrayLike) -> trimesh.Trimesh:
    """Collision box."""
    mesh = trimesh.creation.box(extents=np.asarray(size, float))
    mesh.apply_translation(np.asarray(centre, float))
    return mesh


def disc(radius: float, low: float, high: float, sides: int = 16) -> trimesh.Trimesh:
    """Collision prism around z between two heights."""
    return wedge_ring([(radius, low), (radius, high)], sides)


def wedge_ring(rz: Sequence[tuple[float, float]], sides: int = 16) -> trimesh.Trimesh:
    """Convex hull of circles (radius, z)."""
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return trimesh.convex.convex_hull(
        np.concatenate([np.stack([r * np.cos(turn), r * np.sin(turn), np.full(sides, z)], -1) for r, z in rz])
    )


def wall_ring(section: Sequence[tuple[float, float]], count: int = 8) -> list[trimesh.Trimesh]:
    """A round wall from `count` convex wedges; `section` is the wall's (radius, z) outline."""
    wedges = []
    for k in range(count):
        turn = np.array([k, k + 1]) * 2 * np.pi / count
        points = [(r * np.cos(a), r * np.sin(a), z) for r, z in section for a in turn]
        wedges.append(trimesh.convex.convex_hull(np.asarray(points)))
    return wedges


def tray_solids(size: Sequence[float], floor: float, wall: float, lean: float = 0.0) -> list[trimesh.Trimesh]:
    """Floor and four walls of an open box with outer `size` at the rim; walls lean outward by `lean` metres."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    fx, fy = x - lean, y - lean
    solids = [block((2 * fx, 2 * fy, floor), (0, 0, floor / 2))]
    for axis in range(2):
        a, b, fa, fb = ((x, y, fx, fy), (y, x, fy, fx))[axis]
        outline = [(fa - wall, fb, 0.0), (fa, fb, 0.0), (a - wall, b, z), (a, b, z)]
        points = np.array([(p, s * q, h) for p, q, h in outline for s in (-1, 1)])
        if axis:
            points = points[:, [1, 0, 2]]
        solid = trimesh.convex.convex_hull(points)
        solids += [solid, moved(solid, rpy=(0, 0, np.pi))]
    return solids
