"""Ordinary photographs with labels, and the questions that their labels answer.

A folder holds `labels.jsonl` and pictures; a line has `file`, `labels` (most specific first), `category`, and where
known `caption`. Neighbouring numbers may show one thing from several angles, so the split is by runs of them.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data.questions import Turn
from model.data.splits import Split, divide
from model.data.things import with_article
from model.data.wording import sentences

RUN = 5
"""Pictures in a row that share a split."""
ENOUGH = 8
"""Pictures that a label needs to be asked for."""
EDIBLE = {"fruit", "vegetable", "food"}
NOT_EDIBLE = {"clothing", "household waste / material", "vehicle", "building or landmark", "tool"}
MATERIALS = {"cardboard": "cardboard", "glass object": "glass", "metal object": "metal", "paper": "paper",
             "plastic object": "plastic"}  # fmt: skip
COLOURED = {"bell pepper", "onion", "delicious apple"}
"""Things whose label says their colour in its first word."""
COLOURS = {"red", "green", "yellow", "orange", "brown", "white", "purple"}
PACKAGES = "drink or dairy package"
MASS = {"cardboard", "paper", "rubbish", "garlic", "ginger", "asparagus", "cabbage", "pants", "shorts", "shoes",
        "juice", "milk", "yoghurt", "soy milk", "oat milk", "sour milk", "sour cream", "soy yoghurt", "oat yoghurt",
        "corn", "scissors", "pliers"}  # fmt: skip
"""Labels that stand without "a"."""


@dataclass(frozen=True)
class Photo:
    """One line of `labels.jsonl`. `what` is the main thing at the coarse label, `which` at the finest."""

    file: str
    labels: tuple[str, ...]
    category: str
    caption: str | None

    @property
    def scene(self) -> bool:
        """Whether many things are in view; their labels are then no names for the whole."""
        return self.category.startswith("scene")

    @property
    def what(self) -> str:
        """ "apple" of "golden delicious apple, apple, fruit"."""
        layered = self.category in EDIBLE | {PACKAGES} and len(self.labels) > 1
        return self.labels[-2] if layered else self.labels[0]

    @property
    def run(self) -> tuple[str, str]:
        """A series of pictures, and the part of it that shares a split: neighbouring numbers."""
        path = Path(self.file)
        match = re.fullmatch(r"(|.*\D)(\d{1,3})", path.stem)
        return (f"{path.parent}/{match[1]}", str(int(match[2]) // RUN)) if match else (str(path.parent), path.stem)


class PhotoSet:
    """The photographs of one split. Raises ValueError where the folder holds none."""

    def __init__(self, folder: str | Path, split: Split) -> None:
        self.folder = Path(folder)
        path = self.folder / "labels.jsonl"
        if not path.exists():
            raise ValueError(f"There are no photographs in {folder}: it needs labels.jsonl and the pictures it names.")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.all = [Photo(r["file"], tuple(r["labels"]), r["category"], r.get("caption")) for r in rows]
        series: dict[str, set[str]] = {}
        for photo in self.all:
            series.setdefault(photo.run[0], set()).add(photo.run[1])
        parts = {name: divide(f"photo {name}", runs) for name, runs in series.items()}
        self.photos = [photo for photo in self.all if parts[photo.run[0]][photo.run[1]] == split]
        self.split = split

    def __len__(self) -> int:
        return len(self.photos)

    def image(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return np.asarray(Image.open(self.folder / self.photos[index].file).convert("RGB"))

    @cached_property
    def names(self) -> list[str]:
        """The coarse labels that are asked for: the closed set."""
        counts = Counter(photo.what for photo in self.all if not photo.scene)
        return sorted(name for name, count in counts.items() if count >= ENOUGH)

    def turns(self, index: int, draw: random.Random, most: int = 4) -> list[Turn]:
        """Up to `most` different questions that the labels answer."""
        photo = self.photos[index]
        kinds = list(MAKERS)
        draw.shuffle(kinds)
        if photo.what in self.names and not photo.scene:  # the first thing anybody asks
            kinds.remove("what")
            kinds.insert(0, "what")
        found: list[Turn] = []
        for kind in kinds:
            turn = MAKERS[kind](self, photo, draw)
            if turn is not None and len(found) < most:
                found.append(turn)
        return found

    def ask(self, kind: str, draw: random.Random, *words: str, answer: str) -> Turn:
        """A question in the split's wording."""
        form = draw.choice(sentences(self.split, "photos", kind))
        return Turn(f"photo {kind}", form.format(*words), answer, form)


def _what(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    known = not photo.scene and photo.what in photos.names
    return photos.ask("what", draw, answer=photo.what) if known else None


def _which(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    finer = photo.category in EDIBLE | {PACKAGES} and photo.what != photo.labels[0]
    return photos.ask("which", draw, photo.what, answer=photo.labels[0]) if finer else None


def _kind(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    names = {PACKAGES: "carton or package", "household waste / material": "", "space": "", "sport": ""}
    answer = names.get(photo.category, photo.category)
    vague = photo.scene or " / " in answer or (" or " in answer and photo.category != PACKAGES)
    return photos.ask("kind", draw, answer=answer) if answer and not vague else None


def _presence(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    if photo.scene and photo.caption is None:
        return None
    there = draw.random() < 0.5
    if there:
        name = draw.choice(photo.labels if photo.scene else (photo.what,))
    else:
        # What is not labelled may still be in view, so the absent thing is of quite another sort.
        group = EDIBLE | {PACKAGES} if photo.category in EDIBLE | {PACKAGES} else {photo.category}
        far = [p.what for p in photos.all if p.category not in group and not p.scene and p.what in photos.names]
        far = [name for name in far if name not in photo.labels and not (photo.scene and name in (photo.caption or ""))]
        if not far or photo.scene:
            return None
        name = draw.choice(far)
    return photos.ask("presence", draw, _a(name), answer="yes" if there else "no")


def _is(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    """Whether the main thing has a name, as often its own as another one of its category."""
    if photo.scene or photo.what not in photos.names:
        return None
    right = draw.random() < 0.5
    others = sorted({p.what for p in photos.all if p.category == photo.category and p.what in photos.names})
    others = [name for name in others if name not in photo.labels and not set(name.split()) & set(photo.what.split())]
    if not right and not others:
        return None
    return photos.ask("is", draw, _a(photo.what if right else draw.choice(others)), answer="yes" if right else "no")


def _a(name: str) -> str:
    return name if name in MASS else with_article(name)


def _colour(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    colour, _, rest = photo.labels[0].partition(" ")
    if colour not in COLOURS or rest not in COLOURED:
        return None
    return photos.ask("colour", draw, rest.removeprefix("delicious "), answer=colour)


def _eat(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    if photo.category not in EDIBLE | NOT_EDIBLE:
        return None
    return photos.ask("eat", draw, answer="yes" if photo.category in EDIBLE else "no")


def _name_food(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    known = photo.category in EDIBLE and photo.what in photos.names
    return photos.ask("name_food", draw, answer=photo.what) if known else None


def _material(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    material = MATERIALS.get(photo.labels[0])
    return photos.ask("material", draw, answer=material) if material else None


def _caption(photos: PhotoSet, photo: Photo, draw: random.Random) -> Turn | None:
    return photos.ask("caption", draw, answer=photo.caption) if photo.caption else None


Maker = Callable[[PhotoSet, Photo, random.Random], Turn | None]
MAKERS: dict[str, Maker] = {
    "what": _what,
    "which": _which,
    "kind": _kind,
    "presence": _presence,
    "is": _is,
    "colour": _colour,
    "eat": _eat,
    "name_food": _name_food,
    "material": _material,
    "caption": _caption,
}
"""One maker per kind of question; None where the labels do not answer it."""


def held_out(photos: PhotoSet, seed: int = 0, kinds: Sequence[str] | None = None) -> list[tuple[int, Turn]]:
    """Every question that one draw brings for every photograph, as (index, question); `kinds` keeps some."""
    told = [(i, t) for i in range(len(photos)) for t in photos.turns(i, random.Random(f"{seed} {i}"), len(MAKERS))]
    return [(i, t) for i, t in told if kinds is None or t.kind.removeprefix("photo ") in kinds]


def about(photos: PhotoSet) -> dict[str, Any]:
    """Counts for a model card: pictures, and labels asked for."""
    return {"pictures": len(photos), "labels": len(photos.names)}
