"""What can be changed in a scene of our own while a robot works in it, to see whether it really looks.

Everything is decided by the scene's seed and by how many changes came before, so that a rollout can be played again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sim import objects
from sim.layout import AREA, TEXTURES, Layout, circles, draw_layout
from sim.twins import Scene, TwinScene

if TYPE_CHECKING:
    from sim.snapshot import Snapshot, Thing  # scipy, which the parent of a simulator process can do without

NUDGES = (0.05, 0.07, 0.035, 0.09)
"""How far a nudge moves a thing, the first that finds room [m]."""
SHIFTS = (0.0, 0.02, 0.04, 0.06, 0.08)
"""How far beside the other's place a swapped thing may come to lie, likewise [m]."""
ROOM = 0.004
"""Free space that a moved thing finds around it [m]."""
HAND = 0.04
"""Radius around the tool that stays free while it is lower than `HAND_HEIGHT` [m]."""
HAND_HEIGHT = 0.14
ORIGIN = (0.147, 0.028)
"""The base frame's origin in the world, whose x and y point the other way [m]."""
FIXED = "The official scenes stay as they are: nothing in them can be moved or lit anew."
SLACK = 0.04
"""How far out of the layout's area a thing may be moved [m]."""


@dataclass(frozen=True)
class Disturbance:
    """A change: of one thing's place, of two things' places, or of how the scene looks."""

    kind: Literal["nudge", "swap", "light", "texture", "camera"]
    things: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The change in words; among those of one scene they are unique."""
        if self.kind in _LOOKS:
            return _LOOKS[self.kind]
        return f"{self.kind} {' and '.join(f'the {objects.get(name).name}' for name in self.things)}"


_LOOKS = {"light": "change the light", "texture": "change the table top", "camera": "move the camera"}


def disturbances(scene: Scene) -> list[Disturbance]:
    """Everything that can be changed in a scene; nothing in an official one."""
    if isinstance(scene, TwinScene):
        return []
    things = list(draw_layout(scene).poses)
    nudges = [Disturbance("nudge", (name,)) for name in things]
    swaps = [Disturbance("swap", pair) for pair in combinations(things, 2)]
    return [*nudges, *swaps, Disturbance("light"), Disturbance("texture"), Disturbance("camera")]


def find(scene: Scene, text: str) -> Disturbance:
    """The scene's disturbance of these words. Raises ValueError where it has none such."""
    if isinstance(scene, TwinScene):
        raise ValueError(FIXED)
    for disturbance in disturbances(scene):
        if disturbance.text == text:
            return disturbance
    raise ValueError(f"Nothing in this scene goes by \u201c{text[:80]}\u201d: choose one of the changes listed.")


def moved(change: Disturbance, state: Snapshot) -> dict[str, NDArray[np.float64]]:
    """New positions (3,) [m, base frame] of the things that a nudge or a swap moves.

    Raises ValueError where the robot holds one of them, or there is no room.
    """
    for name in change.things:
        if name in state.pressed:
            raise ValueError(f"The robot holds the {objects.get(name).name}: change something else.")
    others = [thing for name, thing in state.things.items() if name not in change.things]
    if change.kind == "nudge":
        (name,) = change.things
        thing = state.things[name]
        below = [other for other in others if _gap(thing, thing.position[:2], [other]) < 0]  # it lies on this one
        beside = [other for other in others if not any(other is one for one in below)]
        return {name: _free(thing, thing.position[:2], NUDGES, beside, state)}
    one, two = (state.things[name] for name in change.things)
    first = _free(one, two.position[:2], SHIFTS, others, state)
    shifted = replace(one, position=first)
    second = _free(two, one.position[:2], SHIFTS, [*others, shifted], state)
    return dict(zip(change.things, (first, second), strict=True))


def relooked(change: Disturbance, layout: Layout, generator: np.random.Generator) -> Layout:
    """The layout in another light, on another table top, or seen from another place; far more than `vary` draws."""
    if change.kind == "light":
        tilt_x, tilt_y = (float(value) for value in generator.uniform(-0.9, 0.9, 2))
        gain = float(generator.uniform(0.3, 0.5) if layout.light_gain > 0.7 else generator.uniform(1.3, 1.6))
        return replace(layout, light_direction=(tilt_x, tilt_y, -1.0), light_gain=gain)
    if change.kind == "texture":
        return replace(layout, texture=int((layout.texture + generator.integers(1, TEXTURES)) % TEXTURES))
    sides = generator.choice([-1.0, 1.0], 6)
    shift = sides[:3] * generator.uniform(0.015, 0.03, 3)
    turn = sides[3:] * np.deg2rad(generator.uniform(1.0, 3.0, 3))
    return replace(layout, camera_shift=tuple(shift.tolist()), camera_turn=tuple(turn.tolist()))


def _free(
    thing: Thing, centre: NDArray[np.float64], distances: Sequence[float], others: list[Thing], state: Snapshot
) -> NDArray[np.float64]:
    """A free place (3,) on the table around `centre` (2,): at the first distance that has one, that with most room."""
    (low_x, high_x), (low_y, high_y) = AREA
    least = np.array([ORIGIN[0] - high_x, ORIGIN[1] - high_y]) - SLACK
    most = np.array([ORIGIN[0] - low_x, ORIGIN[1] - low_y]) + SLACK
    for distance in distances:
        best, room = None, ROOM
        for angle in np.arange(12) * np.pi / 6:
            place = centre + distance * np.array([np.cos(angle), np.sin(angle)])
            if np.any(place < least) or np.any(place > most):
                continue
            gap = _gap(thing, place, others)
            if state.tool[2] < HAND_HEIGHT:
                gap = min(gap, float(np.linalg.norm(place - state.tool[:2])) - thing.info.radius - HAND)
            if gap >= room:
                best, room = place, gap
        if best is not None:
            return np.array([*best, thing.position[2]])
    raise ValueError(f"There is no room on the table to put the {thing.info.name} elsewhere.")


def _gap(thing: Thing, place: NDArray[np.float64], others: Iterable[Thing]) -> float:
    """Free space between a thing put at `place` and the others, taken as circles [m]; negative where they overlap."""
    centres, radius = circles(thing.info, float(place[0]), float(place[1]), _yaw(thing))
    gap = 1.0
    for other in others:
        x, y = (float(part) for part in other.position[:2])
        theirs, their_radius = circles(other.info, x, y, _yaw(other))
        between = np.linalg.norm(centres[:, None] - theirs[None], axis=-1).min()
        gap = min(gap, float(between) - radius - their_radius)
    return gap


def _yaw(thing: Thing) -> float:
    return float(thing.rotation.as_euler("ZYX")[0])
