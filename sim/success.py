"""The success rules of `sim.tasks.rule`, as predicates on the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.snapshot import Snapshot, Thing
from sim.tasks import CLOSED_TRAVEL, LIFT_HEIGHT, NEAR_GAP, ON_GAP, OPEN_TRAVEL, Goal, SceneSpec

if TYPE_CHECKING:
    from sim.world import World

HOLD_STEPS = 2
"""Control steps in a row for which a rule must hold."""
STILL = 0.03
"""Below this speed [m/s] a thing counts as still."""
MOVED = 0.03
"""A thing counts as moved when it is this far from its first place [m]."""


def achieved(spec: SceneSpec, state: Snapshot, first: dict[str, Thing], world: World) -> bool:
    """Whether every step of the scene holds now, or one of the goals that are as good."""
    if all(satisfied(goal, state, first, world) for goal in spec.steps):
        return True
    # An extra object for which there was no room is not there.
    there = [goal for goal in spec.also if {goal.source, goal.target} - {None} <= {*state.things, *state.drawers}]
    return any(satisfied(goal, state, first, world) for goal in there)


def satisfied(goal: Goal, state: Snapshot, first: dict[str, Thing], world: World) -> bool:
    """Whether the rule of `goal` holds now. `first` holds the things as the scene began."""
    if goal.kind in ("open", "close"):
        assert goal.target is not None
        travel = state.drawers[goal.target]
        return travel >= OPEN_TRAVEL if goal.kind == "open" else travel <= CLOSED_TRAVEL
    assert goal.source is not None
    source = state.things[goal.source]
    if goal.kind == "pick":
        lifted = source.position[2] - first[goal.source].position[2]
        return lifted >= LIFT_HEIGHT and world.grasped(goal.source)
    if source.speed > STILL or world.touched(goal.source):
        return False
    assert goal.target is not None
    target = state.things[goal.target]
    if goal.kind == "near":
        return _near(source, target, first)
    if goal.kind == "stack":
        return _rests_on(source, target.centre, target.top, target.info.radius)
    surface = target.info.surface
    assert surface is not None
    height = target.position[2] + surface.height
    if goal.kind == "put_in":
        inside = np.linalg.norm((source.centre - target.centre)[:2]) <= surface.radius
        return bool(inside and source.bottom <= max(target.top, height + ON_GAP))
    return _rests_on(source, target.centre, height, surface.radius)


def _rests_on(source: Thing, centre: np.ndarray, height: float, radius: float) -> bool:
    """SimplerEnv's test: over the target, and its underside no more than a small gap above the surface."""
    over = np.linalg.norm((source.centre - centre)[:2]) <= radius + 0.003
    return bool(over and -0.01 <= source.bottom - height <= ON_GAP and source.centre[2] > height)


def _near(source: Thing, target: Thing, first: dict[str, Thing]) -> bool:
    moved = np.linalg.norm((source.position - first[source.info.id].position)[:2]) >= MOVED
    stayed = np.linalg.norm((target.position - first[target.info.id].position)[:2]) <= 2 * MOVED
    gap = np.linalg.norm((source.centre - target.centre)[:2]) - source.info.radius - target.info.radius
    return bool(moved and stayed and gap <= NEAR_GAP and source.bottom <= ON_GAP)
