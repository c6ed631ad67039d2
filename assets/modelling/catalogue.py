"""Every object id with the function that models it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from modelling import food, household, targets
from modelling.model import Model

WHITE = (244, 244, 240)
RED, GREEN, BLUE, YELLOW = (208, 32, 38), (40, 150, 62), (30, 78, 196), (246, 204, 40)
ORANGE, PURPLE = (240, 124, 20), (126, 52, 176)

GRASPABLES: dict[str, Callable[[], Model]] = {
    "carrot": food.carrot,
    "eggplant": food.eggplant,
    "banana": food.banana,
    "lemon": food.lemon,
    "orange": food.orange,
    "apple": food.apple,
    "pear": food.pear,
    "plum": food.plum,
    "strawberry": food.strawberry,
    "corn": food.corn,
    "pepper": food.pepper,
    "spoon": household.spoon,
    "sponge": household.sponge,
    "marker": household.marker,
    "red_can": partial(household.can, RED, WHITE),
    "green_can": partial(household.can, GREEN, WHITE),
    "blue_can": partial(household.can, BLUE, WHITE),
    "bottle": household.bottle,
    "mug": household.mug,
    "red_cube": partial(household.cube, RED),
    "green_cube": partial(household.cube, GREEN),
    "blue_cube": partial(household.cube, BLUE),
    "yellow_cube": partial(household.cube, YELLOW),
    "battery": household.battery,
    "tape_roll": household.tape_roll,
    "toy_duck": household.toy_duck,
    "screwdriver": household.screwdriver,
    "letter_a": partial(household.letter, "A", RED),
    "letter_l": partial(household.letter, "L", BLUE),
    "letter_v": partial(household.letter, "V", GREEN),
}

TARGETS: dict[str, Callable[[], Model]] = {
    "blue_plate": partial(targets.plate, (62, 110, 200), (24, 52, 128)),
    "white_plate": partial(targets.plate, (244, 243, 238), (150, 156, 166)),
    "bowl": targets.bowl,
    "towel": targets.towel,
    "basket": targets.basket,
    "tray": targets.tray,
    "coaster": targets.coaster,
    "pan": targets.pan,
    "box": targets.carton,
}

UNSEEN: dict[str, Callable[[], Model]] = {
    "lime": partial(food.lemon, (96, 170, 44)),
    "green_apple": partial(food.apple, (132, 186, 52), (160, 204, 80)),
    "tomato": partial(food.orange, (222, 40, 28), (206, 32, 24)),
    "orange_can": partial(household.can, ORANGE, WHITE),
    "purple_cube": partial(household.cube, PURPLE),
    "letter_t": partial(household.letter, "T", PURPLE),
    "red_mug": partial(household.mug, RED),
}
"""Graspables that no training scene holds. They come last in the data file, so that the others' places stay."""
