"""What is on the table, in words: the objects' attributes, and the facts of one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from model.data.splits import TRAIN, Split, divide
from model.data.wording import divide_uses, further_words

Position = tuple[float, float]
"""Image coordinates u (rightwards), v (downwards), both 0..1."""

ATTRIBUTES = Path(__file__).parents[2] / "assets" / "objects.yaml"
DRAWERS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class Thing:
    """What is asked about: a visible object or one that is not there."""

    id: str
    name: str
    category: str
    colours: tuple[str, ...]
    """The main colour first."""
    shape: str
    material: str
    taste: str | None = None
    use: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    further_use: tuple[str, ...] = ()
    further_synonyms: tuple[str, ...] = ()
    """Further uses and synonyms, for training alone."""
    edible: bool = False
    letter: str | None = None
    unseen: bool = False
    """Whether no training scene shows it."""
    graspable: bool = True
    holds: str | None = None
    """How things are put there, "on" or "in"; None for what is no target."""
    stackable: bool = False
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Bounding box at rest, x y z [m]."""
    names: Mapping[str, str] | None = None
    """By language ("fr", "es", "de", "zh"), with the article."""

    @classmethod
    def of(cls, object_id: str, entry: Mapping[str, Any]) -> Thing:
        """Read one entry of `assets/objects.yaml`."""
        words: dict[str, Any] = {name: entry[name] for name in ("name", "category", "shape", "material")}
        words |= {name: tuple(entry.get(name) or ()) for name in ("colours", "use", "synonyms")}
        words |= {f"further_{name}": tuple(further) for name, further in further_words().get(object_id, {}).items()}
        words |= {name: entry[name] for name in ("taste", "edible", "letter", "unseen", "names") if name in entry}
        if "size" in entry:
            words["size"] = tuple(entry["size"])
        words["holds"] = entry.get("surface", {}).get("kind")
        words["stackable"] = entry.get("grasp", {}).get("stackable", False)
        return cls(id=object_id, graspable=entry.get("role", "graspable") == "graspable", **words)

    @property
    def noun(self) -> str:
        """The name without the colours in it: "red cube" is a "cube", but an "orange" stays one."""
        return " ".join(word for word in self.name.split() if word not in self.colours) or self.name

    @property
    def kind(self) -> str:
        """The category as something one can count: "fruit", "piece of tableware"."""
        return f"piece of {self.category}" if self.category in MASS_NOUNS else self.category


Catalog = Mapping[str, Thing]


def load_catalog(path: str | Path = ATTRIBUTES, unseen: bool = False) -> dict[str, Thing]:
    """Attributes of every object by id, with or without those that training scenes never show.

    Raises ValueError where the file is missing.
    """
    if not Path(path).exists():
        raise ValueError(f"{path} is missing: it comes with the repository, and questions are made from it.")
    return {
        object_id: Thing.of(object_id, entry)
        for object_id, entry in _entries(Path(path)).items()
        if unseen or not entry.get("unseen", False)
    }


@cache
def _entries(path: Path) -> dict[str, Any]:
    import yaml

    entries: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return entries


def catalog_of(catalog: Catalog, split: Split) -> dict[str, Thing]:
    """The catalog with the uses and synonyms of one split alone; names and looks are everybody's."""
    uses = split_uses(catalog)
    words = {thing.id: divide(f"synonym {thing.id}", thing.synonyms) for thing in catalog.values()}
    found: dict[str, Thing] = {}
    for thing in catalog.values():
        use = tuple(use for use in thing.use if uses[use] == split)
        synonyms = tuple(word for word in thing.synonyms if words[thing.id][word] == split)
        if split == TRAIN:
            use, synonyms = use + thing.further_use, synonyms + thing.further_synonyms
        found[thing.id] = replace(thing, use=use, synonyms=synonyms)
    return found


def split_uses(catalog: Catalog) -> dict[str, Split]:
    """Split of every use; what only unseen things are for is test."""
    known = divide_uses(use for thing in catalog.values() if not thing.unseen for use in thing.use)
    return {use: known.get(use, "test") for thing in catalog.values() for use in thing.use}


RESTS_WITHIN, HELD_ABOVE = 0.025, 0.08
"""How near the middles of two things are, from above, of which one lies on the other; how high above it is held [m]."""


class Scene:
    """The facts of one picture: objects with their image positions. What lies outside the frame is not there."""

    def __init__(self, visible: Mapping[str, Sequence[float]], catalog: Catalog) -> None:
        seen = {name: place for name, place in visible.items() if name in catalog and _inside(place)}
        self.catalog = catalog
        self.things = [catalog[name] for name in sorted(seen, key=lambda name: seen[name][0])]
        """From left to right."""
        self.places: dict[str, Position] = {name: (float(place[0]), float(place[1])) for name, place in seen.items()}

    def unique(self) -> list[Thing]:
        """Visible things whose name no other visible thing has."""
        names = [thing.name for thing in self.things]
        return [thing for thing in self.things if names.count(thing.name) == 1]

    def of_property(self, read: Callable[[Thing], Sequence[str]]) -> dict[str, list[Thing]]:
        """Visible things by each value that `read` gives."""
        groups: dict[str, list[Thing]] = {}
        for thing in self.things:
            for value in read(thing):
                groups.setdefault(value, []).append(thing)
        return groups


def ways_to(source: Thing, target: Thing) -> list[str]:
    """Task families in which a thing that can be grasped is brought to another."""
    ways = ["near"]
    if target.holds is not None:
        ways.append(f"put_{target.holds}")
    if source.stackable and target.stackable:
        ways.append("stack")
    return ways


def rests(source: Sequence[float], target: Sequence[float]) -> bool:
    """Whether one thing lies on or in another, by their places (u, v, x, y, z) [m]; False where no x, y, z is known."""
    if len(source) < 5 or len(target) < 5:
        return False
    across = math.dist(source[2:4], target[2:4])
    return across < RESTS_WITHIN and -0.01 < source[4] - target[4] < HELD_ABOVE


def _inside(place: Sequence[float]) -> bool:
    return all(0 < x < 1 for x in place[:2])


def with_article(name: str) -> str:
    """The name after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' and not name.startswith('utensil') else 'a'} {name}"


MASS_NOUNS = {"cookware", "drinkware", "electronics", "furniture", "stationery", "tableware"}


def plural(noun: str) -> str:
    """English plural of the nouns of the catalog."""
    if noun in MASS_NOUNS:
        return f"pieces of {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def listed(names: Sequence[str]) -> str:
    """ "a carrot, a plate and a spoon"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
