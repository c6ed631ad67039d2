"""Where things lie: poses, light, texture and camera drawn from a scene's seed, before any simulator is involved.

World frame: table top at `TABLE_Z`, robot base at (0.147, 0.028) looking along -x. The area in which things are laid
out is inside the camera's view and within reach of a gripper that points down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import objects
from sim.objects import ObjectInfo
from sim.tasks import DRAWERS, NEAR_GAP, SceneSpec

TABLE_Z = 0.870
AREA = ((-0.265, -0.065), (-0.115, 0.155))
"""x and y ranges of object centres [m]."""
MAX_TURN = np.deg2rad(60)
"""Largest wrist rotation that an elongated object asks for."""
FINGER_ROOM = 0.032
"""Free space around things the gripper goes to [m]: an open finger stands 4.2 cm off the tool's axis."""
CABINET_POSE = (-0.338, 0.028, float(np.pi))
"""x, y, yaw of the cabinet in drawer tasks; it opens towards the robot, and leaves the home pose free when open."""
CABINET_SIDE = (0.15, 0.18)
"""Distractors lie this far (in y) from the cabinet's centre line, so that drawers move freely [m]."""
PULLED = (0.07, 0.09)
"""How far a drawer that shall be closed stands open [m]."""
TEXTURES = 6
"""How many table textures `vary={"texture"}` draws from; texture 0 is the plain scene's."""


@dataclass(frozen=True)
class Layout:
    """A drawn scene. `poses` are x, y [m], yaw [rad] in the world; the cabinet, if any, has its own fields."""

    poses: dict[str, tuple[float, float, float]]
    cabinet: tuple[float, float, float] | None = None
    drawers: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Pulled-out length of the top, middle and bottom drawer [m]."""
    light_direction: tuple[float, float, float] = (-0.4, 0.35, -1.0)
    light_gain: float = 1.0
    texture: int = 0
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Small rotation of the camera, Euler XYZ [rad]."""


@dataclass
class _Placed:
    """Objects placed so far as sets of circles, so that an elongated thing doesn't claim a square of table."""

    circles: list[tuple[NDArray[np.float64], float, float]] = field(default_factory=list)

    def fits(self, centres: NDArray[np.float64], radius: float, room: float) -> bool:
        for others, other_radius, other_room in self.circles:
            gaps = np.linalg.norm(centres[:, None] - others[None], axis=-1) - radius - other_radius
            if gaps.min() < max(room, other_room):
                return False
        return True


def circles(info: ObjectInfo, x: float, y: float, yaw: float) -> tuple[NDArray[np.float64], float]:
    """Centres (n, 2) and common radius [m] of circles that cover the footprint of a thing at x, y [m]."""
    half = np.array(info.size[:2]) / 2
    radius = float(half.min()) if info.role == "graspable" or "round" in info.shape else 0.02
    along, across = (
        np.arange(-h + radius, h - radius + 0.019, 0.02) if h > radius + 0.002 else np.zeros(1) for h in half
    )
    spots = np.stack(np.meshgrid(along, across), axis=-1).reshape(-1, 2)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return np.array([x, y]) + spots @ turn.T, radius


def _draw_yaw(info: ObjectInfo, generator: np.random.Generator) -> float:
    if info.grasp is None:
        return float(generator.uniform(-0.3, 0.3))
    if info.yaw_period == 0:
        return float(generator.uniform(-np.pi, np.pi))
    reach = min(MAX_TURN, info.yaw_period / 2)
    return float(generator.uniform(-reach, reach)) - info.yaw_offset


def draw_distractors(spec: SceneSpec, generator: np.random.Generator) -> list[str]:
    """Ids of the extra objects: never the goal's own, nor anything of the same name and colours."""
    if spec.objects is not None:
        return list(spec.objects)
    catalog = objects.catalog()
    taken = {object_id for object_id in spec.named if object_id in catalog}
    looks = {(catalog[object_id].name, catalog[object_id].colours) for object_id in taken}
    free = [info for info in catalog.values() if info.role == "graspable" and not info.unseen]
    pool = [info.id for info in free if info.id not in taken]
    pool = [object_id for object_id in pool if (catalog[object_id].name, catalog[object_id].colours) not in looks]
    return [str(name) for name in generator.choice(pool, size=min(spec.distractors, len(pool)), replace=False)]


def _place(
    info: ObjectInfo,
    placed: _Placed,
    room: float,
    generator: np.random.Generator,
    keep_off: tuple[tuple[float, float], float] | None,
    drawer_task: bool,
) -> tuple[float, float, float] | None:
    """A free pose, or None after 400 tries. `keep_off` is a point and the least distance from it."""
    inset = max(0.0, info.radius - 0.05) if info.grasp is None else 0.0
    for _ in range(400):
        yaw = _draw_yaw(info, generator)
        x = float(generator.uniform(AREA[0][0] + inset, AREA[0][1] - inset))
        y = float(generator.uniform(AREA[1][0] + inset, AREA[1][1] - inset))
        if drawer_task:
            y = CABINET_POSE[1] + float(generator.choice([-1.0, 1.0]) * generator.uniform(*CABINET_SIDE))
        if keep_off is not None and np.hypot(x - keep_off[0][0], y - keep_off[0][1]) < keep_off[1]:
            continue
        centres, radius = circles(info, x, y, yaw)
        if placed.fits(centres, radius, room):
            placed.circles.append((centres, radius, room))
            return x, y, yaw
    return None


def draw_layout(spec: SceneSpec) -> Layout:
    """Lay out a scene. Same spec, same layout. Extra objects for which there is no free place are left out."""
    generator = np.random.default_rng([spec.seed, 7])
    drawer_task = spec.goal.kind in ("open", "close")
    wanted = [] if drawer_task else spec.named
    poses: dict[str, tuple[float, float, float]] = {}
    for _ in range(50):
        placed, poses = _Placed(), {}
        for object_id in wanted:
            info = objects.get(object_id)
            keep_off = None
            for step in spec.steps:
                if step.kind == "near" and object_id == step.source and step.target in poses:
                    least = info.radius + objects.get(step.target).radius + 2 * NEAR_GAP
                    keep_off = (poses[step.target][:2], least)
            pose = _place(info, placed, FINGER_ROOM, generator, keep_off, drawer_task)
            if pose is not None:
                poses[object_id] = pose
        if len(poses) == len(wanted):
            break
    else:
        raise ValueError(f"There is no room on the table for {' and '.join(wanted)}.")
    for object_id in draw_distractors(spec, generator):
        pose = _place(objects.get(object_id), placed, 0.012, generator, None, drawer_task)
        if pose is not None:
            poses[object_id] = pose
    return Layout(poses=poses, **_draw_cabinet(spec, generator), **_draw_look(spec))


def _draw_cabinet(spec: SceneSpec, generator: np.random.Generator) -> dict[str, Any]:
    if spec.goal.kind not in ("open", "close"):
        return {}
    x, y, yaw = CABINET_POSE
    cabinet = (x + float(generator.uniform(-0.01, 0.01)), y + float(generator.uniform(-0.012, 0.012)), yaw)
    pulled = [0.0, 0.0, 0.0]
    if spec.goal.kind == "close":
        pulled[DRAWERS.index(spec.goal.target or "")] = float(generator.uniform(*PULLED))
    return {"cabinet": cabinet, "drawers": (pulled[0], pulled[1], pulled[2])}


def _draw_look(spec: SceneSpec) -> dict[str, Any]:
    """Light, texture and camera have their own stream, so that varying the look leaves the poses alone."""
    generator = np.random.default_rng([spec.seed, 11])
    tilt_x, tilt_y = (float(value) for value in generator.uniform(-0.35, 0.35, 2))
    gain = float(generator.uniform(0.75, 1.2))
    texture = int(generator.integers(TEXTURES))
    shift = tuple(float(value) for value in generator.uniform(-0.01, 0.01, 3))
    turn = tuple(float(value) for value in generator.uniform(-np.deg2rad(1), np.deg2rad(1), 3))
    look: dict[str, Any] = {}
    if "light" in spec.vary:
        look.update(light_direction=(tilt_x, tilt_y, -1.0), light_gain=gain)
    if "texture" in spec.vary:
        look["texture"] = texture
    if "camera" in spec.vary:
        look.update(camera_shift=shift, camera_turn=turn)
    return look
