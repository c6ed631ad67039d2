"""Questions, answers and captions from a scene's ground truth: what the alignment stage teaches the nano to see.

A scene is told as `visible`, the objects in the picture with the image position of each, and `catalog`, every object's
attributes. Answers are short, and follow from the picture and the question alone: anything ambiguous is not asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from model.data.splits import Split
from model.data.things import Catalog, Position, Scene, Thing, listed, load_catalog, plural, with_article
from model.data.wording import sentences

__all__ = ["MAKERS", "Catalog", "Scene", "Thing", "Turn", "caption", "conversation", "load_catalog", "plural", "third"]

MARGIN = 0.04
"""Positions closer than this to a dividing line, or to each other, are not asked about."""
BIGGER = 1.4
"""Two sizes differ clearly from this ratio on."""
CLEANING = ("cleaning tool", "textile")


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `kind` groups the held-out scores, `form` is the sentence without its words."""

    kind: str
    question: str
    answer: str
    form: str = ""


Maker = Callable[[Scene, random.Random, Split], Turn | None]


def ask(kind: str, wording: str, split: Split, draw: random.Random, *words: str, answer: str) -> Turn:
    """A question in one of the split's wordings."""
    form = draw.choice(sentences(split, "questions", wording))
    return Turn(kind, form.format(*words), answer, form)


def _presence(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    names = {thing.name for thing in scene.things}
    there = draw.random() < 0.5
    absent = [t for t in scene.catalog.values() if t.name not in names]
    look_alikes = [t for t in absent if any(t.category == s.category or t.colours == s.colours for s in scene.things)]
    pool = scene.things if there else (look_alikes if look_alikes and draw.random() < 0.6 else absent)
    if not pool:
        return None
    name = with_article(draw.choice(pool).name)
    return ask("presence", "presence", split, draw, name, answer="yes" if there else "no")


def _any(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    """Whether anything of a kind, colour or purpose is there; as often no as yes, where both are possible."""
    readers: dict[str, Callable[[Thing], Sequence[str]]] = {
        "any": lambda thing: (thing.kind,),
        "any_coloured": lambda thing: thing.colours,
        "any_to": purposes,
    }
    wording = draw.choice(sorted(readers))
    here = sorted({value for thing in scene.things for value in readers[wording](thing)})
    else_where = sorted({value for thing in scene.catalog.values() for value in readers[wording](thing)} - set(here))
    there = bool(here) and (not else_where or draw.random() < 0.5)
    if not (here or else_where):
        return None
    value = draw.choice(here if there else else_where)
    return ask("any", wording, split, draw, value, answer="yes" if there else "no")


def _colour(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    nouns = scene.of_property(lambda thing: (thing.noun,))
    pool = [things[0] for noun, things in nouns.items() if len(things) == 1 and noun not in things[0].colours]
    if not pool:
        return None
    thing = draw.choice(pool)
    return ask("colour", "colour", split, draw, thing.noun, answer=thing.colours[0])


def _count(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    if draw.random() < 0.25:
        colour = draw.choice(sorted({thing.colours[0] for thing in scene.catalog.values()}))
        # A second colour makes it a matter of taste whether a thing is counted.
        if any(colour in thing.colours[1:] for thing in scene.things):
            return None
        number = sum(thing.colours[0] == colour for thing in scene.things)
        return ask("count", "count_coloured", split, draw, colour, answer=str(number))
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
    return ask("count", "count", split, draw, plural(what), answer=str(number))


def _category(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    pool = [thing for thing in scene.things if thing.category not in thing.name]
    if not pool:
        return None
    thing = draw.choice(pool)
    return ask("category", "category", split, draw, thing.name, answer=thing.category)


def _material(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    pool = [thing for thing in scene.things if thing.taste is None]
    if not pool:
        return None
    thing = draw.choice(pool)
    return ask("material", "material", split, draw, thing.name, answer=thing.material)


def _where(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    pool = [(thing, third(scene.places[thing.id])) for thing in scene.unique()]
    named = [(thing, place) for thing, place in pool if place is not None]
    if not named:
        return None
    thing, place = draw.choice(named)
    return ask("where", "where", split, draw, thing.name, answer=place)


def _pair(scene: Scene, draw: random.Random, fits: Callable[[Thing, Thing], bool]) -> tuple[Thing, Thing] | None:
    """Two things that can be told apart by name, in either order."""
    pairs = [(a, b) for a in scene.unique() for b in scene.unique() if a is not b and fits(a, b)]
    return draw.choice(pairs) if pairs else None


def _relation(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    axis, words = (0, ("left of", "right of")) if draw.random() < 0.5 else (1, ("behind", "in front of"))

    def gap(a: Thing, b: Thing) -> float:
        return scene.places[a.id][axis] - scene.places[b.id][axis]

    pair = _pair(scene, draw, lambda a, b: abs(gap(a, b)) >= MARGIN)
    if pair is None:
        return None
    first, second = pair
    true = words[gap(first, second) > 0]
    if draw.random() < 0.5:
        return ask("relation", "side", split, draw, first.name, *words, second.name, answer=true)
    asked = draw.choice(words)
    answer = "yes" if asked == true else "no"
    return ask("relation", "relation", split, draw, first.name, asked, second.name, answer=answer)


def _extreme(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    axis, side = draw.choice(((0, "left"), (0, "right"), (1, "back"), (1, "front")))
    places = sorted(scene.places.items(), key=lambda item: item[1][axis], reverse=side in ("right", "front"))
    if len(places) < 2 or abs(places[0][1][axis] - places[1][1][axis]) < MARGIN:
        return None
    phrases = {"left": "farthest to the left", "right": "farthest to the right", "back": "farthest from the camera"}
    phrase = phrases.get(side, "closest to the camera")
    return ask("extreme", "extreme", split, draw, phrase, answer=scene.catalog[places[0][0]].name)


def _use(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    pool = [(use, things[0]) for use, things in scene.of_property(lambda t: t.use).items() if len(things) == 1]
    if not pool:
        return None
    use, thing = draw.choice(pool)
    return ask("use", "use", split, draw, use, answer=thing.name)


def purposes(thing: Thing) -> tuple[str, ...]:
    """What one does with a thing in everyday words."""
    found = ["eat"] if thing.edible else []
    found += {"drink": ["drink"], "toy": ["play with"], "drinkware": ["drink from"]}.get(thing.category, [])
    found += ["clean with"] if thing.category in CLEANING else []
    return tuple(found)


def _purpose(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    """Which is edible, which is for cleaning, ... where one thing alone is."""
    pool = [(what, things[0]) for what, things in scene.of_property(purposes).items() if len(things) == 1]
    if not pool:
        return None
    what, thing = draw.choice(pool)
    return ask("purpose", "purpose", split, draw, what, answer=thing.name)


def _fitness(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    """Whether a thing that is there is edible, or for cleaning."""
    if not scene.things:
        return None
    wording = draw.choice(("edible", "cleaning"))

    def fits(thing: Thing) -> bool:
        return thing.edible if wording == "edible" else thing.category in CLEANING

    wanted = draw.random() < 0.5
    pool = [thing for thing in scene.things if fits(thing) == wanted] or scene.things
    thing = draw.choice(pool)
    return ask("fitness", wording, split, draw, thing.name, answer="yes" if fits(thing) else "no")


def _letter(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    """What is written on a block, by the block's colour."""
    blocks = scene.of_property(lambda thing: (thing.colours[0],) if thing.letter else ())
    pool = [(colour, things[0].letter) for colour, things in blocks.items() if len(things) == 1]
    # A plain cube of that colour is a block too, and says nothing.
    plain = {thing.colours[0] for thing in scene.things if thing.shape == "cube"}
    pool = [(colour, letter) for colour, letter in pool if colour not in plain]
    if not pool:
        return None
    colour, letter = draw.choice(pool)
    return ask("letter", "letter", split, draw, colour, answer=letter or "")


def _compare(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    word, size = draw.choice(
        (("taller", lambda t: t.size[2]), ("longer", lambda t: max(t.size[:2])), ("bigger", lambda t: _volume(t)))
    )
    pair = _pair(scene, draw, lambda a, b: size(b) > 0 and size(a) >= BIGGER * size(b))
    if pair is None:
        return None
    # The larger first or last, at random; "lower", "shorter" and "smaller" ask for the other.
    swap, opposite = draw.random() < 0.5, draw.random() < 0.3
    more, less = pair
    first, second = (less, more) if swap else (more, less)
    word = {"taller": "lower", "longer": "shorter", "bigger": "smaller"}[word] if opposite else word
    answer = less.name if opposite else more.name
    return ask("compare", "compare", split, draw, word, first.name, second.name, answer=answer)


def _volume(thing: Thing) -> float:
    return thing.size[0] * thing.size[1] * thing.size[2]


def _same(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    wanted = draw.random() < 0.5

    def fits(a: Thing, b: Thing) -> bool:
        same = a.colours[0] == b.colours[0]
        return same == wanted and (same or not set(a.colours) & set(b.colours))

    pair = _pair(scene, draw, fits)
    if pair is None:
        return None
    names = (thing.noun if thing.noun != other.noun else thing.name for thing, other in (pair, pair[::-1]))
    return ask("same", "same", split, draw, *names, answer="yes" if wanted else "no")


def _property(scene: Scene, draw: random.Random, split: Split = "train") -> Turn | None:
    """Which object has a colour, taste or category that is the only one of its kind here."""
    readers: dict[str, Callable[[Thing], Sequence[str]]] = {
        "has_colour": lambda thing: thing.colours,
        "has_taste": lambda thing: thing.taste.split(" and ") if thing.taste else (),
        "has_kind": lambda thing: (thing.category,),
    }
    pool = []
    for wording, read in readers.items():
        groups = scene.of_property(read)
        # A second colour makes another thing of that colour ambiguous, but is none to ask for.
        pool += [
            (wording, value, things[0])
            for value, things in groups.items()
            if len(things) == 1 and value not in things[0].name and value not in things[0].colours[1:]
        ]
    if not pool:
        return None
    wording, value, thing = draw.choice(pool)
    return ask("property", wording, split, draw, value, answer=thing.name)


def caption(scene: Scene, draw: random.Random, split: Split = "train") -> Turn:
    """The whole picture in a sentence, objects from left to right."""
    names = [with_article(thing.name) for thing in scene.things]
    answer = f"On the table there is {listed(names)}." if names else "The table is empty."
    return ask("caption", "caption", split, draw, answer=answer)


MAKERS: dict[str, Maker] = {
    "caption": caption,
    "presence": _presence,
    "any": _any,
    "colour": _colour,
    "count": _count,
    "category": _category,
    "material": _material,
    "where": _where,
    "relation": _relation,
    "extreme": _extreme,
    "use": _use,
    "purpose": _purpose,
    "fitness": _fitness,
    "letter": _letter,
    "compare": _compare,
    "same": _same,
    "property": _property,
}
"""One maker per kind of question; None where the scene gives no unambiguous question of that kind."""

WEIGHTS = {
    "caption": 2, "presence": 2, "where": 3, "relation": 2, "extreme": 2, "letter": 2,
    "category": 0.5, "material": 0.5, "fitness": 0.5,
}  # fmt: skip
"""How often a kind is drawn (1 where not named): more of what needs looking, less of what language alone can answer."""


def conversation(
    visible: Mapping[str, Sequence[float]], catalog: Catalog, seed: int, turns: int = 5, split: Split = "train"
) -> list[Turn]:
    """Up to `turns` different questions on one picture; the same seed asks the same ones.

    Sentences are of `split`; for its uses of things as well, give `catalog_of(catalog, split)`.
    """
    scene, draw = Scene(visible, catalog), random.Random(seed)
    kinds = list(MAKERS)
    weights = [WEIGHTS.get(kind, 1.0) for kind in kinds]
    asked: dict[str, Turn] = {}
    for kind in draw.choices(kinds, weights, k=4 * turns):
        turn = MAKERS[kind](scene, draw, split)
        if turn is not None and not (kind == "caption" and any(t.kind == kind for t in asked.values())):
            asked.setdefault(turn.question, turn)
        if len(asked) == turns:
            break
    return list(asked.values()) or [caption(scene, draw, split)]


def third(place: Position) -> str | None:
    """Which of the picture's nine parts a position lies in ("top left", "centre"); None near a dividing line."""
    if any(abs(x - line) < MARGIN / 2 for x in place for line in (1 / 3, 2 / 3)):
        return None
    across = ("left", "", "right")[int(place[0] * 3)]
    down = ("top", "", "bottom")[int(place[1] * 3)]
    return f"{down} {across}".strip() or "centre"
