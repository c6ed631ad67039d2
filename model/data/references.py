"""Referring expressions: every way to point out one thing on the table that fits no other thing there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model.data.splits import SPLITS, TRAIN, Split, divide
from model.data.things import Catalog, Scene, Thing, catalog_of
from model.data.wording import sentences

SHAPES = {
    "curved", "round", "conical", "cylindrical", "oval", "duck-shaped", "long and tapered", "long and bulging",
    "small and round", "long and round", "round and flat", "round and deep", "long and cylindrical",
    "short and cylindrical",
}  # fmt: skip
"""Shapes that are adjectives."""
FILLERS = {"and", "with", "a", "an", "the", "at", "slightly", "mild", "of"}
APART = 0.08
"""An outermost thing lies at least this much of the picture's width beyond the next."""


@dataclass(frozen=True)
class Reference:
    """`text` with its article; `attribute` names what it was made from ("colour yellow"), or is "name"."""

    text: str
    attribute: str
    template: str = ""


class Referrer:
    """Finds references in a split's words."""

    def __init__(self, catalog: Catalog) -> None:
        self._words = {split: catalog_of(catalog, split) for split in SPLITS}
        readers: dict[str, Callable[[Thing], Iterable[str]]] = {
            "colour": lambda thing: thing.colours[:1],
            "colour_category": lambda thing: [f"{thing.colours[0]} {thing.kind}"],
            "category": lambda thing: [thing.kind],
            "shape": lambda thing: [thing.shape] if thing.shape in SHAPES else [],
            "taste": lambda thing: [thing.taste] if thing.taste and thing.edible else [],
            "material": lambda thing: [] if thing.material == "organic" else [thing.material],
            "letter": lambda thing: [thing.letter] if thing.letter else [],
        }
        self._readers = readers
        # Whether a banana may be called "the yellow one" in training is decided for each thing and attribute. Letters
        # are few, and everybody's; a thing that training never shows is for tests alone.
        seen = [thing for thing in catalog.values() if not thing.unseen]
        self._owners = {kind: divide(kind, [t.id for t in seen if [*read(t)]]) for kind, read in readers.items()}

    def references(self, thing: Thing, scene: Scene, split: Split) -> list[Reference]:
        """References to `thing` among the things of `scene`; its name first, where that is unique."""
        others = [other for other in scene.things if other.id != thing.id]
        found = [] if any(other.name == thing.name for other in others) else [Reference(f"the {thing.name}", "name")]
        own = self._words[split][thing.id]
        if not any(_alike(thing, other) for other in others):
            for synonym in own.synonyms:
                found.append(Reference(f"the {synonym.removeprefix('the ')}", f"synonym {synonym}"))
        for use in own.use:
            if not any(_shares_use(use, thing, other, split) for other in others):
                found += self._forms("use", use, split)
        for kind, read in self._readers.items():
            if self._told(kind, thing, split) and not any(_shares(kind, thing, other) for other in others):
                found += [form for value in read(thing) for form in self._forms(kind, value, split)]
        return found + self._places(thing, scene, split)

    def _told(self, kind: str, thing: Thing, split: Split) -> bool:
        return kind == "letter" or self._owners[kind].get(thing.id, "test") == split

    def _forms(self, kind: str, value: str, split: Split) -> list[Reference]:
        forms = sentences(split, "reference", kind)
        return [Reference(form.format(value), f"{kind} {value}", form) for form in forms]

    def _places(self, thing: Thing, scene: Scene, split: Split) -> list[Reference]:
        if len(scene.things) < 2 or thing not in (scene.things[0], scene.things[-1]):
            return []
        first = thing is scene.things[0]
        end, inner = (scene.things[0], scene.things[1]) if first else (scene.things[-1], scene.things[-2])
        if abs(scene.places[end.id][0] - scene.places[inner.id][0]) < APART:
            return []
        return self._forms("place", "left" if first else "right", split)


def words(text: str) -> set[str]:
    """The telling words of a phrase."""
    return set(re.findall(r"[a-z]+", text.lower())) - FILLERS


def _alike(thing: Thing, other: Thing) -> bool:
    """Whether loose words for one might be taken for the other."""
    if thing.category != other.category:
        return False
    return thing.noun == other.noun or bool(set(thing.colours) & set(other.colours))


def _shares_use(use: str, thing: Thing, other: Thing, split: Split) -> bool:
    uses = other.use + other.further_use if split == TRAIN else other.use
    return thing.category == other.category or use.split()[0] in {text.split()[0] for text in uses}


def _shares(kind: str, thing: Thing, other: Thing) -> bool:
    """Whether the attribute might also mean `other`; in doubt it does."""
    if kind == "colour":
        return thing.colours[0] in other.colours or thing.colours[0] in other.name.split()
    if kind == "colour_category":
        return thing.category == other.category and thing.colours[0] in other.colours
    if kind == "category":
        return thing.category == other.category or thing.category in other.name
    if kind == "shape":
        return bool(words(thing.shape) & words(other.shape))
    if kind == "taste":
        return bool(words(thing.taste or "") & words(other.taste or ""))
    if kind == "material":
        return bool(words(thing.material) & words(other.material))
    return thing.letter == other.letter
