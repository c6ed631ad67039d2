"""Scripted expert with privileged state: the demonstrator and the upper bound.

It has no memory. Every action is a function of the current snapshot alone, so it can label any state: a dropped
object, a half-closed gripper, a tool knocked off its path. The phases of a task (go above, go down, close, carry,
release, retreat) are told apart by what a camera also shows: where the object is, where the tool is, how far the
gripper is open.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from sim.interface import Action
from sim.snapshot import Snapshot, Thing, Vector
from sim.tasks import CLOSED_TRAVEL, OPEN_TRAVEL, Goal

STEP = 0.03
"""Longest translation of one action [m]."""
TURN = 0.25
"""Largest rotation of one action [rad]."""
FINGERTIP = 0.016
"""The fingers reach this far below the tool point [m]."""
LOWEST = FINGERTIP + 0.004
CRUISE = 0.115
"""Height of the tool between places [m]."""
HALF_OPENING = 0.028
"""Half of the free width between fully open fingers [m]; closed, 0.006 remain."""
FINGER_TRAVEL = 0.022
STEM_OPENING = 0.14
"""Gripper opening at which the fingers touch a drawer handle's stem (1.8 cm)."""
SPARE = 0.005
"""How much farther than it has to a drawer is moved [m]."""
REACH = 0.485
"""Longest distance from the shoulder to the wrist that keeps the elbow bent [m]."""
SHOULDER_Z, WRIST_ABOVE_TOOL = 0.111, 0.159
ASTRAY = 0.065
"""A free arm never lags this far behind its command [m]."""
CLOSE, OPEN = 0.0, 1.0


def expert_action(goal: Goal, state: Snapshot) -> Action:
    """The action (7,) float32 that serves `goal` best in `state`."""
    if np.linalg.norm(state.commanded - state.tool) > ASTRAY:
        return _unwind(state)
    if goal.kind in ("open", "close"):
        return _work_drawer(goal, state)
    assert goal.source is not None
    source = state.things[goal.source]
    if goal.kind == "pick":
        return _lift(state) if _held(state, source) else _fetch(state, source)
    assert goal.target is not None
    target = state.things[goal.target]
    place, surface, slack = _destination(goal, state, source, target)
    offset = float(np.linalg.norm(source.position[:2] - place))
    if _held(state, source):
        return _carry(state, source, place, surface)
    if offset < slack and source.bottom < surface + 0.02:
        return _retreat(state)
    return _fetch(state, source)


def heading(thing: Thing) -> tuple[float, float]:
    """Tool yaw [rad] at which the fingers take hold of `thing` as it lies, and the turn [rad] after which that is so
    again; 0 means that any yaw will do."""
    if thing.upright:
        ahead = thing.rotation.apply([1.0, 0.0, 0.0])
        return float(np.arctan2(ahead[1], ahead[0])) + thing.info.yaw_offset, thing.info.yaw_period
    axis = thing.rotation.apply(np.eye(3)[int(np.argmax(thing.info.size))])
    flat = float(np.hypot(axis[0], axis[1])) > 0.3
    return float(np.arctan2(axis[1], axis[0])), np.pi if flat else 0.0


def _work_drawer(goal: Goal, state: Snapshot) -> Action:
    """Take the handle's stem from above, pull towards the robot or push away from it, and stay when that is done."""
    travel = state.drawers[goal.target or ""]
    if travel >= OPEN_TRAVEL + SPARE if goal.kind == "open" else travel <= CLOSED_TRAVEL - SPARE:
        return _move(state, state.commanded, None, CLOSE if state.opening < 0.5 else OPEN)
    handle = state.handles[goal.target or ""] + np.array([0.0, 0.0, 0.004])
    across = state.tool_rotation.inv().apply(handle - state.tool)
    if state.opening < STEM_OPENING + 0.06 and bool((np.abs(across) < (0.022, 0.012, 0.018)).all()):
        way = -STEP if goal.kind == "open" else STEP
        return _move(state, np.array([state.commanded[0] + way, handle[1], handle[2]]), 0.0, CLOSE)
    return _descend(state, handle, 0.0, clear=float(handle[2]) + 0.035)


# ---- what the state means


def _grasp(state: Snapshot, thing: Thing) -> tuple[Vector, float]:
    """Tool position and yaw at which closing the fingers takes hold of `thing` as it lies now."""
    grasp = thing.info.grasp
    assert grasp is not None
    yaw_now = float(state.commanded_rotation.as_euler("XYZ")[2])
    point = thing.position + thing.rotation.apply([0.0, 0.0, grasp.height]) if thing.upright else thing.centre
    yaw, period = heading(thing)
    if period == 0.0:
        yaw = 0.0
    else:
        yaw -= period * round((yaw - 0.3 * yaw_now) / period)
    return np.array([point[0], point[1], max(point[2], thing.bottom + LOWEST)]), yaw


def _contact_opening(thing: Thing) -> float:
    """Gripper opening 0..1 at which the fingers touch a thing of its width."""
    assert thing.info.grasp is not None
    return (thing.info.grasp.width / 2 - (HALF_OPENING - FINGER_TRAVEL)) / FINGER_TRAVEL


def _between_fingers(state: Snapshot, thing: Thing) -> bool:
    point, _ = _grasp(state, thing)
    along, across, up = state.tool_rotation.inv().apply(point - state.tool)
    long_half = max(thing.info.size[:2]) / 2
    return abs(across) < 0.014 and abs(along) < max(0.018, long_half - 0.01) and abs(up) < 0.022


def _held(state: Snapshot, thing: Thing) -> bool:
    """Whether the fingers have closed onto the thing."""
    closed = state.opening < min(_contact_opening(thing) + 0.06, 0.92) or thing.info.id in state.pressed
    return closed and _between_fingers(state, thing)


def _destination(goal: Goal, state: Snapshot, source: Thing, target: Thing) -> tuple[Vector, float, float]:
    """Where the source's origin shall go (x, y), the height of what it shall rest on, and how far off is still good."""
    if goal.kind == "near":
        return _spot_beside(state, source, target), 0.0, 0.02
    if goal.kind == "stack":
        return target.position[:2], target.top, 0.015
    surface = target.info.surface
    assert surface is not None
    return target.position[:2], target.position[2] + surface.height, surface.radius * 0.8


def _spot_beside(state: Snapshot, source: Thing, target: Thing) -> Vector:
    """The free spot on a ring around the target that is closest to the source."""
    distance = source.info.radius + target.info.radius + 0.027
    if np.linalg.norm(source.position[:2] - target.position[:2]) < distance + 0.015 and source.bottom < 0.02:
        return source.position[:2]
    angles = np.arange(0, 2 * np.pi, np.pi / 16)
    spots = target.position[:2] + distance * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cost = np.linalg.norm(spots - source.position[:2], axis=1)
    for other in state.things.values():
        if other is not source and other is not target:
            gap = np.linalg.norm(spots - other.position[:2], axis=1) - other.info.radius - 0.045
            cost = cost + 10.0 * np.maximum(0.0, -gap)
    return spots[int(np.argmin(cost))]


# ---- phases


def _fetch(state: Snapshot, thing: Thing) -> Action:
    """Go above the thing, descend along a funnel, close."""
    point, yaw = _grasp(state, thing)
    over_all = highest_between(state, point, exclude=thing) + FINGERTIP + 0.02
    return _descend(state, point, yaw, clear=thing.top + FINGERTIP + 0.01, cruise=over_all)


def _descend(state: Snapshot, point: Vector, yaw: float, clear: float, cruise: float = 0.0) -> Action:
    """Approach `point` from above and close there. `clear` is a height at which closed fingers pass over it."""
    off = max(float(np.linalg.norm(position[:2] - point[:2])) for position in (state.tool, state.commanded))
    twist = abs(yaw - float(state.tool_rotation.as_euler("XYZ")[2]))
    if off < 0.012 and twist < 0.15 and abs(state.tool[2] - point[2]) < 0.012:
        return _move(state, point, yaw, CLOSE)
    rise = max(0.0, 2.5 * (off + 0.06 * twist - 0.008))
    if state.opening < 0.8:
        rise = max(rise, clear - float(point[2]))
    height = min(float(point[2]) + rise, max(CRUISE, cruise, clear + 0.005))
    return _move(state, _climb_first(state, np.array([point[0], point[1], height])), yaw, OPEN)


def _lift(state: Snapshot) -> Action:
    goal = state.commanded.copy()
    goal[2] += STEP
    return _move(state, goal, None, CLOSE)


def _carry(state: Snapshot, source: Thing, place: Vector, surface: float) -> Action:
    """Lift, cross over, lower, let go."""
    grip = state.tool - source.position
    hanging = float(state.tool[2] - source.bottom)
    above = place + grip[:2]
    release = surface + hanging + 0.004
    off = max(np.linalg.norm(position[:2] - above) for position in (state.tool, state.commanded))
    if off < 0.012 and state.tool[2] < release + 0.008:
        return _move(state, state.commanded, None, OPEN)
    obstacle = highest_between(state, np.array([above[0], above[1], 0.0]), exclude=source)
    cruise = max(CRUISE, obstacle + hanging + 0.02, surface + hanging + 0.04)
    height = min(release + 2.0 * max(0.0, float(off) - 0.012), cruise)
    return _move(state, _climb_first(state, np.array([above[0], above[1], height])), None, CLOSE)


def _retreat(state: Snapshot) -> Action:
    """Open in place; once open, straight up."""
    goal = state.commanded.copy()
    if state.opening > 0.75:
        goal[2] = max(goal[2], CRUISE)
    return _move(state, goal, None, OPEN)


def _unwind(state: Snapshot) -> Action:
    """Something blocks the arm, or its goal is out of reach: take the command back to just above where the tool is."""
    return _move(state, state.tool + np.array([0.0, 0.0, STEP]), None, OPEN if state.opening > 0.5 else CLOSE)


def highest_between(state: Snapshot, goal: Vector, exclude: Thing) -> float:
    """Top of the highest other thing that the hand passes on its straight way to `goal` [m]."""
    start, way = state.tool[:2], goal[:2] - state.tool[:2]
    length = float(np.linalg.norm(way)) + 1e-9
    highest = 0.0
    for thing in state.things.values():
        if thing is exclude:
            continue
        share = np.clip(np.dot(thing.position[:2] - start, way) / length**2, 0.0, 1.0)
        if np.linalg.norm(start + share * way - thing.position[:2]) < thing.info.radius + 0.05:
            highest = max(highest, thing.top)
    return highest


def _climb_first(state: Snapshot, goal: Vector) -> Vector:
    """Hold back sideways motion while the tool is well below the height it should have by now."""
    lack = min(goal[2], _ceiling(state.commanded)) - min(state.tool[2] + 0.01, state.commanded[2])
    share = np.clip(1.0 - (lack - 0.015) / 0.03, 0.0, 1.0)
    sideways = goal[:2] - state.commanded[:2]
    limited = sideways * min(1.0, STEP / (float(np.linalg.norm(sideways)) + 1e-9)) * share
    return np.array([*(state.commanded[:2] + limited), goal[2]])


def _ceiling(point: Vector) -> float:
    """Highest tool z over `point` (x, y, ...) that the arm reaches with the gripper pointing down [m]."""
    room = REACH**2 - float(point[0] ** 2 + point[1] ** 2)
    return SHOULDER_Z - WRIST_ABOVE_TOOL + float(np.sqrt(max(room, 0.0)))


def _move(state: Snapshot, goal: Vector, yaw: float | None, gripper: float, pitch: float = 0.0) -> Action:
    """One clipped step of the commanded tool pose towards a goal; yaw None keeps the heading."""
    goal = goal.copy()
    goal[2] = min(goal[2], _ceiling(goal))
    delta = goal - state.commanded
    delta *= min(1.0, STEP / (float(np.linalg.norm(delta)) + 1e-9))
    heading = float(state.commanded_rotation.as_euler("XYZ")[2]) if yaw is None else yaw
    wanted = Rotation.from_euler("XYZ", [0.0, pitch, heading])
    turn = (wanted * state.commanded_rotation.inv()).as_rotvec()
    turn *= min(1.0, TURN / (float(np.linalg.norm(turn)) + 1e-9))
    return np.array([*delta, *Rotation.from_rotvec(turn).as_euler("XYZ"), gripper], dtype=np.float32)
