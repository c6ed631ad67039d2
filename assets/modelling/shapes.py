"""Small vocabulary of low-poly solids: what the robot and the objects are put together from.

Units are metres, z is up. Faces wind counter-clockwise seen from outside. A visual is a list of `Part`s (mesh plus
material) written as one GLB; collisions are plain convex `trimesh.Trimesh`es.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Paint:
    """A PBR surface: sRGB colour 0..255 (times `texture`, when there is one), roughness and metalness 0..1."""

    colour: tuple[int, int, int] = (255, 255, 255)
    roughness: float = 0.6
    metallic: float = 0.0
    texture: Image.Image | None = field(default=None, compare=False)

    def material(self) -> PBRMaterial:
        # glTF factors are linear light, colours people write down are sRGB
        linear = (np.asarray(self.colour) / 255.0) ** 2.2
        return PBRMaterial(
            baseColorFactor=[*linear.tolist(), 1.0],
            roughnessFactor=self.roughness,
            metallicFactor=self.metallic,
            baseColorTexture=self.texture,
        )


@dataclass
class Part:
    """One piece of a visual: vertices with normals and UVs, and its paint."""

    mesh: trimesh.Trimesh
    uv: Array
    paint: Paint

    def moved(self, xyz: ArrayLike = (0, 0, 0), rpy: ArrayLike = (0, 0, 0)) -> Part:
        """The part turned by `rpy` [rad, fixed axes] and then shifted by `xyz` [m]."""
        return Part(moved(self.mesh, xyz, rpy), self.uv, self.paint)


def transform(xyz: ArrayLike = (0, 0, 0), rpy: ArrayLike = (0, 0, 0)) -> Array:
    """(4, 4) homogeneous transform: turn by `rpy` [rad, fixed axes x, y, z], then shift by `xyz` [m]."""
    matrix = trimesh.transformations.euler_matrix(*np.asarray(rpy, float), axes="sxyz")
    matrix[:3, 3] = xyz
    return np.asarray(matrix)


def moved(mesh: trimesh.Trimesh, xyz: ArrayLike = (0, 0, 0), rpy: ArrayLike = (0, 0, 0)) -> trimesh.Trimesh:
    """A turned and shifted copy of `mesh`, normals included."""
    matrix = transform(xyz, rpy)
    return trimesh.Trimesh(
        vertices=mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3],
        faces=mesh.faces,
        vertex_normals=mesh.vertex_normals @ matrix[:3, :3].T,
        process=False,
    )


def lathe(profile: Sequence[tuple[float, float]], paint: Paint, segments: int = 24) -> Part:
    """Turn a (radius, z) profile, listed bottom to top, around z. A point listed twice makes a sharp edge there.

    UV: u runs once around, v from 0 at the first point to 1 at the last, in proportion to the length along the profile.
    """
    rz = np.asarray(profile, float)
    step = np.linalg.norm(np.diff(rz, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(step)]) / step.sum()
    slope = np.stack([np.diff(rz[:, 1]), -np.diff(rz[:, 0])], axis=1)  # outward normal of each profile segment
    normals = np.zeros_like(rz)
    for i in range(len(rz)):
        near = [k for k in (i - 1, i) if 0 <= k < len(step) and step[k] > 1e-9]
        normals[i] = np.sum([slope[k] / step[k] for k in near], axis=0)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    angle = np.linspace(0, 2 * np.pi, segments + 1)
    cos, sin = np.cos(angle), np.sin(angle)
    vertices = np.stack([np.outer(rz[:, 0], cos), np.outer(rz[:, 0], sin), np.outer(rz[:, 1], np.ones_like(cos))], -1)
    vertex_normals = np.stack(
        [np.outer(normals[:, 0], cos), np.outer(normals[:, 0], sin), np.outer(normals[:, 1], np.ones_like(cos))], -1
    )
    uv = np.stack(np.broadcast_arrays(angle[None] / (2 * np.pi), along[:, None]), -1)
    faces = []
    for i in (int(k) for k in np.nonzero(step > 1e-9)[0]):
        low, high = i * (segments + 1), (i + 1) * (segments + 1)
        for j in range(segments):
            if rz[i, 0] > 1e-9:
                faces.append((low + j, low + j + 1, high + j + 1))
            if rz[i + 1, 0] > 1e-9:
                faces.append((low + j, high + j + 1, high + j))
    mesh = trimesh.Trimesh(
        vertices.reshape(-1, 3), np.asarray(faces), vertex_normals=vertex_normals.reshape(-1, 3), process=False
    )
    return Part(mesh, uv.reshape(-1, 2), paint)


def sharp(*points: tuple[float, float]) -> list[tuple[float, float]]:
    """Profile whose inner points are all sharp edges (each listed twice)."""
    return [points[0], *(p for p in points[1:-1] for _ in range(2)), points[-1]]


def cylinder(radius: float, height: float, paint: Paint, bevel: float = 0.0, segments: int = 24) -> Part:
    """Upright cylinder centred on the origin, its rims cut by `bevel` metres."""
    r, h, b = radius, height / 2, bevel
    rim = [(r - b, -h), (r, -h + b), (r, h - b), (r - b, h)] if b > 0 else [(r, -h), (r, h)]
    return lathe(sharp((0, -h), *rim, (0, h)), paint, segments)


def sphere(radii: ArrayLike, paint: Paint, segments: int = 16, rings: int = 9) -> Part:
    """Ellipsoid centred on the origin with half-axes `radii` [m]; u around z, v from bottom to top."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings)
    part = lathe([(float(max(np.cos(a), 0.0)), float(np.sin(a))) for a in angle], paint, segments)
    scale = np.asarray(radii, float)
    normals = part.mesh.vertex_normals / scale
    mesh = trimesh.Trimesh(
        part.mesh.vertices * scale,
        part.mesh.faces,
        vertex_normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
        process=False,
    )
    return Part(mesh, part.uv, paint)


def tube(points: ArrayLike, radii: Sequence[ArrayLike], paint: Paint, segments: int = 10) -> Part:
    """Swept round or elliptic bar through `points` (N, 3); `radii[i]` is r or (r sideways, r upwards) in metres.

    Cross-sections stay upright (their second axis is as near to z as the path allows). u around, v along the path.
    """
    path = np.asarray(points, float)
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    rows = []
    for centre, along, radius in zip(path, tangents, radii, strict=True):
        up = np.array([0.0, 0.0, 1.0]) if abs(along[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        side = np.cross(up, along)
        side /= np.linalg.norm(side)
        up = np.cross(along, side)
        width, height = np.broadcast_to(np.asarray(radius, float), 2)
        rows.append(centre + np.outer(width * np.cos(angle), side) + np.outer(height * np.sin(angle), up))
    grid = np.asarray(rows)
    return sheet(grid, paint, closed_u=True)


def sheet(grid: ArrayLike, paint: Paint, closed_u: bool = False) -> Part:
    """Surface over a (rows, columns, 3) grid of points, smooth; u runs along columns, v along rows.

    The outside is to the right-hand side of (columns x rows). `closed_u` says first and last column coincide.
    """
    points = np.asarray(grid, float)
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    flat = points.reshape(-1, 3)
    cross = np.cross(flat[faces[:, 1]] - flat[faces[:, 0]], flat[faces[:, 2]] - flat[faces[:, 0]])
    faces, cross = faces[np.linalg.norm(cross, axis=1) > 1e-14], cross[np.linalg.norm(cross, axis=1) > 1e-14]
    normals = np.zeros_like(flat)
    for k in range(3):
        np.add.at(normals, faces[:, k], cross)
    normals = normals.reshape(rows, columns, 3)
    if closed_u:
        normals[:, 0] = normals[:, -1] = normals[:, 0] + normals[:, -1]
    normals = normals.reshape(-1, 3)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-15)
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    mesh = trimesh.Trimesh(flat, faces, vertex_normals=normals, process=False)
    return Part(mesh, np.stack([u, v], -1).reshape(-1, 2), paint)


def box(size: ArrayLike, paint: Paint, bevel: float = 0.0, centre: ArrayLike = (0, 0, 0)) -> Part:
    """Flat-shaded box of full `size` (x, y, z) with edges cut by `bevel`; each face shows the texture once."""
    half = np.asarray(size, float) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    if bevel > 0:
        points = np.concatenate([signs * (half - bevel * (1 - np.eye(3)[k])) for k in range(3)])
    else:
        points = signs * half
    return faceted(trimesh.convex.convex_hull(points + np.asarray(centre, float)), paint)


def faceted(mesh: trimesh.Trimesh, paint: Paint) -> Part:
    """Flat-shaded copy of `mesh`, textured from the three axis directions, one texture per bounding box side."""
    corners = np.asarray(mesh.triangles).reshape(-1, 3)
    normals = np.repeat(np.asarray(mesh.face_normals), 3, axis=0)
    low, extent = mesh.bounds[0], np.maximum(mesh.extents, 1e-9)
    unit = (corners - low) / extent
    axis = np.abs(normals).argmax(axis=1)
    u = np.choose(axis, [unit[:, 1], unit[:, 0], unit[:, 0]])
    mirrored = ((axis == 0) & (normals[:, 0] < 0)) | ((axis == 1) & (normals[:, 1] > 0))
    u = np.where(mirrored, 1 - u, u)  # writing reads left to right on every side
    v = np.choose(axis, [unit[:, 2], unit[:, 2], unit[:, 1]])
    faces = np.arange(len(corners)).reshape(-1, 3)
    return Part(trimesh.Trimesh(corners, faces, vertex_normals=normals, process=False), np.stack([u, v], -1), paint)


def extrude(outline: ArrayLike, height: float, paint: Paint, bevel: float = 0.0) -> Part:
    """Convex (N, 2) outline pulled up from z = 0 to `height`, upper and lower rims cut by `bevel`."""
    return faceted(prism(outline, height, bevel), paint)


def prism(outline: ArrayLike, height: float, bevel: float = 0.0) -> trimesh.Trimesh:
    """Convex hull of an (N, 2) outline between z = 0 and `height` [m]."""
    flat = np.asarray(outline, float)
    shrunk = flat * (1 - bevel / np.linalg.norm(flat, axis=1, keepdims=True)) if bevel > 0 else flat
    rings = [(shrunk, 0.0), (flat, bevel), (flat, height - bevel), (shrunk, height)]
    return trimesh.convex.convex_hull(np.concatenate([np.column_stack([p, np.full(len(p), z)]) for p, z in rings]))


def bounds(parts: Sequence[Part]) -> Array:
    """(2, 3) lower and upper corner of all parts together."""
    points = np.concatenate([p.mesh.vertices for p in parts])
    return np.stack([points.min(axis=0), points.max(axis=0)])


def write_glb(parts: Sequence[Part], path: Path) -> None:
    """Write parts as one GLB; parts that share a paint become one primitive (one draw call)."""
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(id(part.paint), []).append(part)
    scene = trimesh.Scene()
    for k, group in enumerate(groups.values()):
        meshes = [p.mesh for p in group]
        offsets = np.cumsum([0, *(len(m.vertices) for m in meshes)])
        mesh = trimesh.Trimesh(
            np.concatenate([m.vertices for m in meshes]),
            np.concatenate([m.faces + o for m, o in zip(meshes, offsets[:-1], strict=True)]),
            vertex_normals=np.concatenate([m.vertex_normals for m in meshes]),
            process=False,
        )
        mesh.visual = TextureVisuals(uv=np.concatenate([p.uv for p in group]), material=group[0].paint.material())
        scene.add_geometry(mesh, node_name=f"part{k}", geom_name=f"part{k}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trimesh.exchange.gltf.export_glb(scene, include_normals=True))
