"""Train, validation and test, before anything is trained: sentences, attributes, object pairs, each by seeded hash."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN, VALIDATION, TEST = SPLITS
SEED = "instructvla"
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.15


def _digest(*words: str) -> bytes:
    return hashlib.sha256("\n".join((SEED, *words)).encode()).digest()


def divide(group: str, items: Iterable[str], trained: Collection[str] = ()) -> dict[str, Split]:
    """Split of each item of a list: the items with the smallest hashes are test, the next validation.

    `trained` items are train, whatever their hash. A list with fewer than two others, or of two, is all train.
    """
    known = set(items)
    ranked = sorted(known - set(trained), key=lambda item: _digest(group, item))
    if len(known) < 3 or len(ranked) < 2:
        return dict.fromkeys(known, "train")
    test, validation = (max(1, round(len(known) * share)) for share in (TEST_SHARE, VALIDATION_SHARE))
    validation = min(validation, max(1, len(ranked) - test))
    test = min(test, len(ranked) - validation)
    split = dict.fromkeys(known, TRAIN)
    split |= dict.fromkeys(ranked[:test], TEST)
    return split | dict.fromkeys(ranked[test : test + validation], VALIDATION)


def pair_split(goal: Mapping[str, Any]) -> Split:
    """Split of a goal's pair of objects; goals with one object (or a drawer) are train."""
    source, target = goal.get("source"), goal.get("target")
    if source is None or target is None:
        return "train"
    share = int.from_bytes(_digest("pair", source, target)[:8], "big") / 2**64
    return "test" if share < TEST_SHARE else "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def seed_held_out(seed: int) -> bool:
    """One scene in twenty is held out of training, by its seed, in every kind of data made from it."""
    return zlib.crc32(str(seed).encode()) % 20 == 0


def scene_split(scene: Mapping[str, Any]) -> Split:
    """Split of a recorded scene (`seed`, `goal`): its pair's, and a held-out seed is never train."""
    split = pair_split(scene["goal"])
    return "validation" if split == "train" and seed_held_out(int(scene["seed"])) else split
