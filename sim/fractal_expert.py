"""Scripted expert for the Google robot: takes things from above, lifts them, or sets them down near another.

As `sim.expert`, it has no memory; unlike there, an action moves the tool from where it is and the arm covers only about
two fifths of it in its 1/3 s, so steps are long. Heights are above the table.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from sim.expert import highest_between, spot_beside
from sim.interface import Action
from sim.snapshot import Snapshot, Thing, Vector
from sim.tasks import Goal

STEP, TURN = 0.09, 0.5
"""Longest translation [m] and rotation [rad] of one action."""
LOWEST = 0.014
"""Closed fingertips reach a little below the tool point [m]."""
OVER = 0.035
"""Height of the tool over a thing's top at which open fingers pass it [m]."""
GAP = 0.07
"""Room for the fingers between two things that shall be near each other [m]."""
CLOSE, OPEN, KEEP, EASE = 1.0, -1.0, 0.0, -0.25
"""Relative gripper commands; `EASE` opens just enough to let go."""


def expert_action(goal: Goal, state: Snapshot) -> Action:
    """The action (7,) float32 that serves `goal` (pick or near) best in `state`; for other goals the robot waits."""
    if goal.kind not in ("pick", "near"):
        return np.zeros(7, dtype=np.float32)
    source = state.things[goal.source or ""]
    held = source.info.id in state.pressed
    if goal.kind == "pick":
        return _move(state, state.tool + np.array([0.0, 0.0, STEP]), None, CLOSE) if held else _fetch(state, source)
    target = state.things[goal.target or ""]
    spot = spot_beside(state, source, target, GAP)
    arrived = np.linalg.norm(source.centre[:2] - spot) < 0.03
    if held:
        return _carry(state, source, target, spot)
    if arrived and source.bottom < 0.02:
        return _move(state, np.array([*state.tool[:2], 0.25]), None, KEEP)
    return _fetch(state, source)


def _fetch(state: Snapshot, thing: Thing) -> Action:
    """Go above the thing, come down on it with open fingers, close."""
    point = thing.centre.copy()
    point[2] = max(point[2], LOWEST)
    heading = _across(state, thing)
    off = float(np.linalg.norm(state.tool[:2] - point[:2]))
    twist = _twist(state, heading)
    if off < 0.014 and twist < 0.2 and abs(state.tool[2] - point[2]) < 0.016:
        return _move(state, point, heading, CLOSE)
    over = max(thing.top, highest_between(state, point, exclude=thing)) + OVER
    funnel = point[2] + 4.0 * max(0.0, off - 0.012) + 0.3 * max(0.0, twist - 0.1)
    height = over if state.opening < 0.9 else min(over, funnel)
    if state.tool[2] < min(over, height) - 0.02 and off > 0.05:
        point[:2] = state.tool[:2]  # climb first
    return _move(state, np.array([*point[:2], height]), heading, OPEN)


def _carry(state: Snapshot, source: Thing, target: Thing, spot: Vector) -> Action:
    """Lift a little, cross over, lower, let go with the fingers beside the line to the target."""
    grip = state.tool - source.centre
    above = spot + grip[:2]
    off = float(np.linalg.norm(state.tool[:2] - above))
    hanging = float(state.tool[2] - source.bottom)
    line = target.centre[:2] - spot
    heading = _nearest(state, float(np.arctan2(line[1], line[0])) + np.pi / 2)
    if off < 0.02 and source.bottom < 0.012:
        return _move(state, state.tool, None, EASE)
    obstacle = highest_between(state, np.array([*above, 0.0]), exclude=source)
    cruise = hanging + max(0.04, obstacle + 0.03 if off > 0.06 else 0.0)
    height = min(cruise, hanging + 0.003 + 2.0 * max(0.0, off - 0.015))
    if state.tool[2] < height - 0.025:
        above = state.tool[:2]
    return _move(state, np.array([*above, height]), heading, CLOSE)


def _across(state: Snapshot, thing: Thing) -> float:
    """Heading of the fingers' closing axis [rad]: across a long thing that lies, else as it is."""
    axes = thing.rotation.as_matrix() * np.array(thing.info.size)
    longest = axes[:, int(np.argmax(thing.info.size))]
    flat = np.linalg.norm(longest[:2])
    sides = sorted(np.linalg.norm(axes[:2], axis=0))
    if flat < 0.8 * max(thing.info.size) or sides[-1] < 1.15 * sides[-2]:
        return _heading(state)
    return _nearest(state, float(np.arctan2(longest[1], longest[0])) + np.pi / 2)


def _heading(state: Snapshot) -> float:
    closing = state.tool_rotation.apply([0.0, 1.0, 0.0])
    return float(np.arctan2(closing[1], closing[0]))


def _nearest(state: Snapshot, heading: float) -> float:
    """The same closing axis, on the side that needs the smaller turn."""
    return heading - np.pi * round((heading - _heading(state)) / np.pi)


def _twist(state: Snapshot, heading: float) -> float:
    return float(np.linalg.norm((_pointing_down(heading) * state.tool_rotation.inv()).as_rotvec()))


def _pointing_down(heading: float) -> Rotation:
    cosine, sine = np.cos(heading), np.sin(heading)
    return Rotation.from_matrix(np.array([[-sine, cosine, 0.0], [cosine, sine, 0.0], [0.0, 0.0, -1.0]]))


def _move(state: Snapshot, goal: Vector, heading: float | None, gripper: float) -> Action:
    """One clipped step of the tool towards a goal, upright; heading None keeps the closing axis."""
    delta = 1.5 * (goal - state.tool)
    delta *= min(1.0, STEP / (float(np.linalg.norm(delta)) + 1e-9))
    wanted = _pointing_down(_heading(state) if heading is None else heading)
    turn = 1.5 * (wanted * state.tool_rotation.inv()).as_rotvec()
    turn *= min(1.0, TURN / (float(np.linalg.norm(turn)) + 1e-9))
    return np.array([*delta, *Rotation.from_rotvec(turn).as_euler("XYZ"), gripper], dtype=np.float32)
