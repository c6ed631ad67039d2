"""The published episodes of SimplerEnv's Google-robot tasks (visual matching), as data.

World frame, metres, quaternions wxyz. One of the four robot colours is used per scene, so counts are a quarter of
SimplerEnv's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations, product

COLOUR = "recolor_tabletop_visual_matching_1"
"""One of the four colourings of the robot that SimplerEnv evaluates with."""
TABLE_Z = 0.870
LYING, ACROSS, STANDING = (0.707107, 0.0, 0.0, 0.707107), (0.0, 0.0, 0.0, 1.0), (0.707107, 0.707107, 0.0, 0.0)
Place = tuple[float, float, tuple[float, float, float, float]]

CAN = "opened_coke_can"
CANS = {
    "pick_horizontal_coke_can": ACROSS,
    "pick_vertical_coke_can": LYING,
    "pick_standing_coke_can": STANDING,
}
_CAN_GRID = list(product((-0.35, -0.2925, -0.235, -0.1775, -0.12), (-0.02, 0.09, 0.2, 0.31, 0.42)))

NAMES = {
    "blue_plastic_bottle": "blue plastic bottle",
    "baked_opened_pepsi_can_v2": "pepsi can",
    "orange": "orange",
    "baked_opened_7up_can_v2": "7up can",
    "baked_apple_v2": "apple",
    "baked_sponge_v2": "sponge",
    "baked_opened_coke_can_v2": "coke can",
    "baked_opened_redbull_can_v2": "redbull can",
}
_TURNS = dict.fromkeys(NAMES, STANDING) | {
    "baked_apple_v2": (1.0, 0.0, 0.0, 0.0),
    "baked_sponge_v2": LYING,
    "blue_plastic_bottle": (0.5, 0.5, 0.5, 0.5),
    "orange": LYING,
}
_TRIPLETS = (
    ("blue_plastic_bottle", "baked_opened_pepsi_can_v2", "orange"),
    ("baked_opened_7up_can_v2", "baked_apple_v2", "baked_sponge_v2"),
    ("baked_opened_coke_can_v2", "baked_opened_redbull_can_v2", "baked_apple_v2"),
    ("baked_sponge_v2", "blue_plastic_bottle", "baked_opened_7up_can_v2"),
    ("orange", "baked_opened_pepsi_can_v2", "baked_opened_redbull_can_v2"),
)
_TRIANGLES = (((-0.33, 0.04), (-0.33, 0.34), (-0.13, 0.19)), ((-0.13, 0.04), (-0.33, 0.19), (-0.13, 0.34)))

DRAWERS = ("top", "middle", "bottom")
STANDS = {
    "a0": (0.644, -0.179, -0.03),
    "a1": (0.765, -0.182, -0.02),
    "a2": (0.889, -0.203, -0.06),
    "b0": (0.652, 0.009, 0.0),
    "b1": (0.752, 0.009, 0.0),
    "b2": (0.851, 0.035, 0.0),
    "c0": (0.665, 0.224, 0.0),
    "c1": (0.765, 0.222, -0.025),
    "c2": (0.865, 0.222, -0.025),
}
"""x, y [m] and yaw [rad] of the robot before the cabinet, by the name of the photo taken there."""
_APPLE_GRID = list(product((-0.08, -0.05, -0.02), (-0.02, 0.03, 0.08)))


@dataclass(frozen=True)
class Layout:
    """One episode. `opened` is how far the named drawer stands open [m]; without a drawer there is a table."""

    robot: tuple[float, float, float]
    photo: str
    things: dict[str, Place] = field(default_factory=dict)
    source: str | None = None
    target: str | None = None
    drawer: str | None = None
    opened: float = 0.0


def layout(twin: str, episode: int) -> Layout:
    """The layout of an episode of a Google-robot scene, by the scene's name in `sim.twins.TWINS`."""
    if twin in CANS:
        place = (*_CAN_GRID[episode], CANS[twin])
        return Layout((0.35, 0.2, 0.0), "google_coke_can_real_eval_1", {CAN: place}, source=CAN)
    if twin == "move_near":
        group, pair = divmod(episode, 6)
        triplet, corners = _TRIPLETS[group // 2], _TRIANGLES[group % 2]
        source, target = list(permutations(triplet, 2))[pair]
        things = {name: (*corner, _TURNS[name]) for name, corner in zip(triplet, corners, strict=True)}
        return Layout((0.35, 0.21, -0.09), "google_move_near_real_eval_1", things, source, target)
    if twin == "apple_in_top_drawer":
        stand, spot = divmod(episode, len(_APPLE_GRID))
        name = ("a0", "b0", "c0")[stand]
        apple = {"baked_apple_v2": (*_APPLE_GRID[spot], _TURNS["baked_apple_v2"])}
        return Layout(STANDS[name], f"open_drawer_{name}", apple, source="baked_apple_v2", drawer="top")
    verb, drawer, _ = twin.split("_")
    name = list(STANDS)[episode]
    return Layout(STANDS[name], f"open_drawer_{name}", drawer=drawer, opened=0.2 if verb == "close" else 0.0)
