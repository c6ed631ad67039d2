"""Scripted expert for the Google robot: takes things from above, lifts them, or sets them down near another.

As `sim.expert`, it has no memory; unlike there, an action moves the tool from where it is and the arm covers only about
two fifths of it in its 1/3 s, so steps are long. Heights are above the table.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from sim.expert import highest_between
from sim.interface import Action
from sim.snapshot import Snapshot, Thing, Vector
from sim.tasks import Goal

ROOM = 1.57
"""How far the fingers' closing axis may turn from pointing back at the robot [rad]."""
STEP, TURN = 0.09, 0.5
"""Longest translation [m] and rotation [rad] of one action."""
LOWEST = 0.014
"""Closed fingertips reach a little below the tool point [m]."""
OVER = 0.05
"""Height of the tool over a thing's top at which open fingers pass it [m]."""
HIGHEST = 0.235
"""The wrist gets no higher while the hand points down [m]."""
DEEP = 0.065
"""How far a thing reaches between the fingers [m]."""
GAP = 0.055
"""Room for the fingers between two things that shall be near each other [m]."""
OPEN, KEEP, EASE, FAST, GENTLY = -1.0, 0.0, -0.25, 0.4, 0.1
"""Relative gripper commands; `EASE` opens just enough to let go, `GENTLY` closes without crushing: at full force the
fingers press so hard that the solver's error drags the whole arm along."""
WIDE = 0.65
"""Gripper opening above which no thing is touched yet."""


def expert_action(goal: Goal, state: Snapshot) -> Action:
    """The action (7,) float32 that serves `goal` (pick or near) best in `state`; for other goals the robot waits."""
    if goal.kind not in ("pick", "near"):
        return np.zeros(7, dtype=np.float32)
    source = state.things[goal.source or ""]
    held = source.info.id in state.pressed
    if goal.kind == "pick":
        return _move(state, state.tool + np.array([0.0, 0.0, STEP]), None, KEEP) if held else _fetch(state, source)
    target = state.things[goal.target or ""]
    spot = _spot_beside(source, target)
    arrived = np.linalg.norm(source.centre[:2] - spot) < 0.03
    if held:
        return _carry(state, source, spot)
    if arrived and source.bottom < 0.02:
        return _move(state, np.array([*state.tool[:2], 0.25]), None, KEEP)
    return _fetch(state, source)


def _fetch(state: Snapshot, thing: Thing) -> Action:
    """Go above the thing, come down on it with open fingers, close."""
    point = thing.centre.copy()
    point[2] = max(point[2], thing.top - DEEP, LOWEST)
    heading = _across(thing)
    off = float(np.linalg.norm(state.tool[:2] - point[:2]))
    twist = float(np.linalg.norm((_wanted(state, heading) * state.tool_rotation.inv()).as_rotvec()))
    if off < 0.018 and twist < 0.25 and abs(state.tool[2] - point[2]) < 0.016:
        return _move(state, point, heading, FAST if state.opening > WIDE else GENTLY)
    over = min(max(thing.top, highest_between(state, point, exclude=thing)) + OVER, HIGHEST)
    funnel = point[2] + 4.0 * max(0.0, off - 0.012) + 0.3 * max(0.0, twist - 0.1)
    height = over if state.opening < 0.9 else min(over, funnel)
    if state.tool[2] < min(over, height) - 0.02 and off > 0.05:
        point[:2] = state.tool[:2]  # climb first
    return _move(state, np.array([*point[:2], height]), heading, OPEN)


def _carry(state: Snapshot, source: Thing, spot: Vector) -> Action:
    """Lift a little, cross over, lower, let go."""
    grip = state.tool - source.centre
    above = spot + grip[:2]
    off = float(np.linalg.norm(state.tool[:2] - above))
    hanging = float(state.tool[2] - source.bottom)
    if off < 0.02 and source.bottom < 0.012:
        return _move(state, state.tool, None, EASE)
    cruise = hanging + 0.035  # the nearest spot beside the target is never behind another thing
    height = min(cruise, hanging + 0.003 + 2.0 * max(0.0, off - 0.015))
    if state.tool[2] < height - 0.025:
        above = state.tool[:2]
    return _move(state, np.array([*above, height]), None, KEEP)


def _spot_beside(source: Thing, target: Thing) -> Vector:
    """Where the source shall stand: on the straight way to the target, with room for the fingers between them."""
    apart = source.centre[:2] - target.centre[:2]
    distance = max(source.half_extent[:2]) + max(target.half_extent[:2]) + GAP
    return target.centre[:2] + apart * (distance / (float(np.linalg.norm(apart)) + 1e-9))


def _across(thing: Thing) -> float | None:
    """Direction [rad] across a long thing that lies, for the fingers to close along; None where any will do."""
    axes = thing.rotation.as_matrix() * np.array(thing.info.size)
    longest = axes[:, int(np.argmax(thing.info.size))]
    sides = sorted(np.linalg.norm(axes[:2], axis=0))
    if np.linalg.norm(longest[:2]) < 0.8 * max(thing.info.size) or sides[-1] < 1.15 * sides[-2]:
        return None
    return float(np.arctan2(longest[1], longest[0])) + np.pi / 2


def _wanted(state: Snapshot, heading: float | None) -> Rotation:
    """Orientation of the tool where it is: down, tilted outwards as far as the wrist's limits ask for there.

    `heading` is the direction along which the fingers shall close, None: as they are. Of the two ways to do so, the
    wrist has room for the one on which they point back at the robot.
    """
    point = state.tool
    outward = float(np.arctan2(point[1], point[0]))
    across = state.tool_rotation.apply([0.0, 1.0, 0.0])
    now = float(np.arctan2(across[1], across[0]))
    along, period = (now, 2 * np.pi) if heading is None else (heading, np.pi)
    away = _turned(along - outward - np.pi, 0.0, period)
    closing = outward + np.pi + float(np.clip(away, -ROOM, ROOM))
    cosine, sine = np.cos(closing), np.sin(closing)
    down = Rotation.from_matrix(np.array([[-sine, cosine, 0.0], [cosine, sine, 0.0], [0.0, 0.0, -1.0]]).T)
    tilt = 0.05 + max(0.0, 1.6 * (float(np.hypot(point[0], point[1])) - 0.53)) + 2.1 * max(0.0, float(point[2]) - 0.03)
    return Rotation.from_rotvec(np.array([np.sin(outward), -np.cos(outward), 0.0]) * min(tilt, 0.7)) * down


def _turned(angle: float, near: float, period: float) -> float:
    """The angle, plus the multiple of `period` that brings it closest to `near`."""
    return angle - period * round((angle - near) / period)


def _move(state: Snapshot, goal: Vector, heading: float | None, gripper: float) -> Action:
    """One clipped step of the tool towards a goal."""
    delta = 1.5 * (goal - state.tool)
    delta *= min(1.0, STEP / (float(np.linalg.norm(delta)) + 1e-9))
    turn = 1.5 * (_wanted(state, heading) * state.tool_rotation.inv()).as_rotvec()
    turn *= min(1.0, TURN / (float(np.linalg.norm(turn)) + 1e-9))
    return np.array([*delta, *Rotation.from_rotvec(turn).as_euler("XYZ"), gripper], dtype=np.float32)
