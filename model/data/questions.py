"""Questions, answers and captions from a scene's ground truth: what the alignment stage teaches the nano to see.

A scene is told as `visible`, the objects in the picture with the image position of each, and `catalog`, every object's
attributes. Answers are short, and follow from the picture and the question alone: anything ambiguous is not asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Position = tuple[float, float]
"""Image coordinates u (rightwards), v (downwards), both 0..1."""

MARGIN = 0.04
"""Positions closer than this to a dividing line, or to each other, are not asked about."""


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `kind` groups the held-out scores."""

    kind: str
    question: str
    answer: str


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
    taste: str | None
    use: tuple[str, ...]

    @classmethod
    def of(cls, object_id: str, entry: Mapping[str, Any]) -> Thing:
        """Read one entry of `assets/objects.yaml`."""
        words = {name: entry[name] for name in ("name", "category", "shape", "material")}
        use, colours = tuple(entry.get("use") or ()), tuple(entry["colours"])
        return cls(id=object_id, colours=colours, use=use, taste=entry.get("taste"), **words)

    @property
    def noun(self) -> str:
        """The name without the colours in it: "red cube" is a "cube", but an "orange" stays one."""
        return " ".join(word for word in self.name.split() if word not in self.colours) or self.name


Catalog = Mapping[str, Thing]


def load_catalog(path: str | Path = Path(__file__).parents[2] / "assets" / "objects.yaml") -> dict[str, Thing]:
    """Attributes of every object by id. Raises ValueError where the file is missing."""
    import yaml

    if not Path(path).exists():
        raise ValueError(f"{path} is missing: it comes with the repository, and questions are made from it.")
    return {
        object_id: Thing.of(object_id, entry) for object_id, entry in yaml.safe_load(Path(path).read_text()).items()
    }


class Scene:
    """The facts of one picture."""

    def __init__(self, visible: Mapping[str, Sequence[float]], catalog: Catalog) -> None:
        seen = {name: place for name, place in visible.items() if name in catalog and _inside(place)}
        self.catalog = catalog
        self.things = [catalog[name] for name in sorted(seen, key=lambda name: seen[name][0])]
        """From left to right."""
        self.places: dict[str, Position] = {name: (float(u), float(v)) for name, (u, v) in seen.items()}

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


def _inside(place: Sequence[float]) -> bool:
    return all(0 < x < 1 for x in place)


def _presence(scene: Scene, draw: random.Random) -> Turn | None:
    names = {thing.name for thing in scene.things}
    there = draw.random() < 0.5
    absent = [t for t in scene.catalog.values() if t.name not in names]
    look_alikes = [t for t in absent if any(t.category == s.category or t.colours == s.colours for s in scene.things)]
    pool = scene.things if there else (look_alikes if look_alikes and draw.random() < 0.6 else absent)
    if not pool:
        return None
    name = with_article(draw.choice(pool).name)
    question = draw.choice(("Is there {} on the table?", "Do you see {}?", "Is {} in the picture?")).format(name)
    return Turn("presence", question, "yes" if there else "no")


def _colour(scene: Scene, draw: random.Random) -> Turn | None:
    nouns = scene.of_property(lambda thing: (thing.noun,))
    pool = [things[0] for noun, things in nouns.items() if len(things) == 1 and noun not in things[0].colours]
    if not pool:
        return None
    thing = draw.choice(pool)
    question = draw.choice(("What colour is the {}?", "Which colour does the {} have?")).format(thing.noun)
    return Turn("colour", question, thing.colours[0])


def _count(scene: Scene, draw: random.Random) -> Turn | None:
    groups = scene.of_property(lambda thing: (thing.category, thing.noun))
    absent = sorted({thing.category for thing in scene.catalog.values()} - set(groups))
    choice = draw.random()
    if choice < 0.4 or not scene.things:
        what, number = "object", len(scene.things)
    elif choice < 0.9 or not absent:
        what = draw.choice(sorted(groups))
        number = len(groups[what])
    else:
        what, number = draw.choice(absent), 0
    question = draw.choice(("How many {} are on the table?", "How many {} do you see?", "Count the {}."))
    return Turn("count", question.format(plural(what)), str(number))


def _category(scene: Scene, draw: random.Random) -> Turn | None:
    pool = [thing for thing in scene.things if thing.category not in thing.name]
    if not pool:
        return None
    thing = draw.choice(pool)
    question = draw.choice(("What kind of thing is the {}?", "What category does the {} belong to?"))
    return Turn("category", question.format(thing.name), thing.category)


def _material(scene: Scene, draw: random.Random) -> Turn | None:
    pool = [thing for thing in scene.things if thing.taste is None]
    if not pool:
        return None
    thing = draw.choice(pool)
    question = draw.choice(("What is the {} made of?", "Which material is the {} made of?"))
    return Turn("material", question.format(thing.name), thing.material)


def _where(scene: Scene, draw: random.Random) -> Turn | None:
    pool = [(thing, third(scene.places[thing.id])) for thing in scene.unique()]
    named = [(thing, place) for thing, place in pool if place is not None]
    if not named:
        return None
    thing, place = draw.choice(named)
    question = draw.choice(
        ("Where is the {}?", "Where in the picture is the {}?", "In which part of the image is the {}?")
    )
    return Turn("where", question.format(thing.name), place)


def _relation(scene: Scene, draw: random.Random) -> Turn | None:
    pairs = [(a, b) for a in scene.unique() for b in scene.unique() if a is not b]
    draw.shuffle(pairs)
    for first, second in pairs:
        (u1, v1), (u2, v2) = scene.places[first.id], scene.places[second.id]
        across = draw.random() < 0.5
        gap, words = (u1 - u2, ("left of", "right of")) if across else (v1 - v2, ("behind", "in front of"))
        if abs(gap) < MARGIN:
            continue
        true = words[gap > 0]
        if draw.random() < 0.5:
            question = "Is the {} {} or {} the {}?".format(first.name, *words, second.name)
            return Turn("relation", question, true)
        asked = draw.choice(words)
        return Turn("relation", f"Is the {first.name} {asked} the {second.name}?", "yes" if asked == true else "no")
    return None


def _extreme(scene: Scene, draw: random.Random) -> Turn | None:
    axis, side = draw.choice(((0, "left"), (0, "right"), (1, "back"), (1, "front")))
    places = sorted(scene.places.items(), key=lambda item: item[1][axis], reverse=side in ("right", "front"))
    if len(places) < 2 or abs(places[0][1][axis] - places[1][1][axis]) < MARGIN:
        return None
    phrases = {"left": "farthest to the left", "right": "farthest to the right", "back": "farthest from the camera"}
    phrase = phrases.get(side, "closest to the camera")
    question = draw.choice(("What is {}?", "Which object is {}?", "Name the object {}.")).format(phrase)
    return Turn("extreme", question, scene.catalog[places[0][0]].name)


def _use(scene: Scene, draw: random.Random) -> Turn | None:
    pool = [(use, things[0]) for use, things in scene.of_property(lambda t: t.use).items() if len(things) == 1]
    if not pool:
        return None
    use, thing = draw.choice(pool)
    question = draw.choice(("Which object is for {}?", "What here can be used for {}?", "Find something for {}."))
    return Turn("use", question.format(use), thing.name)


def _property(scene: Scene, draw: random.Random) -> Turn | None:
    """Which object has a colour, taste, category or shape that is the only one of its kind here."""
    readers: dict[str, Callable[[Thing], Sequence[str]]] = {
        "Which object is {}?": lambda thing: thing.colours,
        "Which object tastes {}?": lambda thing: thing.taste.split(" and ") if thing.taste else (),
        "Which object is a kind of {}?": lambda thing: (thing.category,),
    }
    pool = []
    for question, read in readers.items():
        groups = scene.of_property(read)
        # A second colour makes another thing of that colour ambiguous, but is none to ask for.
        pool += [
            (question.format(value), things[0])
            for value, things in groups.items()
            if len(things) == 1 and value not in things[0].name and value not in things[0].colours[1:]
        ]
    if not pool:
        return None
    question, thing = draw.choice(pool)
    return Turn("property", question, thing.name)


def caption(scene: Scene, draw: random.Random) -> Turn:
    """The whole picture in a sentence, objects from left to right."""
    question = draw.choice(
        ("Describe the picture.", "What is on the table?", "What do you see?", "List the objects from left to right.")
    )
    names = [with_article(thing.name) for thing in scene.things]
    if not names:
        return Turn("caption", question, "The table is empty.")
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return Turn("caption", question, f"On the table there is {listed}.")


MAKERS: dict[str, Callable[[Scene, random.Random], Turn | None]] = {
    "caption": caption,
    "presence": _presence,
    "colour": _colour,
    "count": _count,
    "category": _category,
    "material": _material,
    "where": _where,
    "relation": _relation,
    "extreme": _extreme,
    "use": _use,
    "property": _property,
}
"""One maker per kind of question; None where the scene gives no unambiguous question of that kind."""

WEIGHTS = {"caption": 2, "presence": 2, "where": 3, "relation": 2, "extreme": 2, "category": 0.5, "material": 0.5}
"""How often a kind is drawn (1 where not named): more of what needs looking, less of what language alone can answer."""


def conversation(visible: Mapping[str, Sequence[float]], catalog: Catalog, seed: int, turns: int = 5) -> list[Turn]:
    """Up to `turns` different questions on one picture; the same seed asks the same ones."""
    scene, draw = Scene(visible, catalog), random.Random(seed)
    kinds = list(MAKERS)
    weights = [WEIGHTS.get(kind, 1.0) for kind in kinds]
    asked: dict[str, Turn] = {}
    for kind in draw.choices(kinds, weights, k=4 * turns):
        turn = MAKERS[kind](scene, draw)
        if turn is not None and not (kind == "caption" and any(t.kind == kind for t in asked.values())):
            asked.setdefault(turn.question, turn)
        if len(asked) == turns:
            break
    return list(asked.values()) or [caption(scene, draw)]


def third(place: Position) -> str | None:
    """Which of the picture's nine parts a position lies in ("top left", "centre"); None near a dividing line."""
    if any(abs(x - line) < MARGIN / 2 for x in place for line in (1 / 3, 2 / 3)):
        return None
    across = ("left", "", "right")[int(place[0] * 3)]
    down = ("top", "", "bottom")[int(place[1] * 3)]
    return f"{down} {across}".strip() or "centre"


def with_article(name: str) -> str:
    """The name after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


MASS_NOUNS = {"cookware", "drinkware", "electronics", "furniture", "stationery", "tableware"}


def plural(noun: str) -> str:
    """English plural of the nouns of the catalog."""
    if noun in MASS_NOUNS:
        return f"pieces of {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
