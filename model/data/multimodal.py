"""The multimodal set: rendered scenes, photographs, plain knowledge and requests, as pictures with what is said."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.photos import PhotoSet
from model.data.questions import Turn, ask, conversation, purposes
from model.data.requests import WAYS, Requests
from model.data.scenes import SceneDataset
from model.data.splits import Split
from model.data.things import Catalog, Thing, catalog_of, listed, with_article
from model.prompts import THINK

TURNS = 5
LANGUAGES = {"fr": "French", "es": "Spanish", "de": "German", "zh": "Chinese"}
CHOICES = 3
LEAST_SIDE = 0.65
"""Of a photograph's height and width, how much is shown at least: a thing is known in any part of the picture."""


@dataclass(frozen=True)
class Talk:
    """A picture (H, W, 3) uint8 RGB with questions about it."""

    source: str
    image: NDArray[np.uint8]
    turns: tuple[Turn, ...]


class Source(Protocol):
    """Where talks come from; the same draw gives the same talk."""

    def talk(self, draw: random.Random) -> Talk:
        """One picture with questions."""


class SceneTalks:
    """Questions on rendered scenes."""

    def __init__(self, scenes: SceneDataset, catalog: Catalog, split: Split = "train", turns: int = TURNS) -> None:
        self._scenes, self._catalog, self._split, self._turns = scenes, catalog_of(catalog, split), split, turns

    def talk(self, draw: random.Random) -> Talk:
        """See `Source.talk`."""
        index = draw.randrange(len(self._scenes))
        visible = self._scenes[index].visible
        asked = conversation(visible, self._catalog, draw.getrandbits(32), self._turns, self._split)
        # The caption names everything, so it comes last, where it cannot answer the other questions.
        asked.sort(key=lambda turn: turn.kind == "caption")
        return Talk("scene", self._scenes.frame(index), tuple(asked))


class PhotoTalks:
    """Questions on photographs; every label is as likely, however many pictures it has."""

    def __init__(self, photos: PhotoSet, turns: int = 3) -> None:
        if not len(photos):
            raise ValueError(f"{photos.folder} has no photographs of the {photos.split} split.")
        self._photos, self._turns = photos, turns
        self._groups: dict[str, list[int]] = {}
        for index, photo in enumerate(photos.photos):
            self._groups.setdefault(photo.what if photo.what in photos.names else photo.category, []).append(index)

    def talk(self, draw: random.Random) -> Talk:
        """See `Source.talk`."""
        while True:
            index = draw.choice(self._groups[draw.choice(sorted(self._groups))])
            turns = self._photos.turns(index, draw, self._turns)
            if turns:
                return Talk("photo", _cropped(self._photos.image(index), draw), tuple(turns))


def _cropped(image: NDArray[np.uint8], draw: random.Random) -> NDArray[np.uint8]:
    """Another view of a photograph: at least `LEAST_SIDE` of either side, mirrored half the time."""
    height, width = (round(draw.uniform(LEAST_SIDE, 1) * side) for side in image.shape[:2])
    top, left = draw.randint(0, image.shape[0] - height), draw.randint(0, image.shape[1] - width)
    part = image[top : top + height, left : left + width]
    return part[:, ::-1] if draw.random() < 0.5 else part


class RequestTalks:
    """Requests to the robot about rendered scenes, and what it replies before it moves."""

    def __init__(self, scenes: SceneDataset, split: Split = "train", turns: int = TURNS) -> None:
        self._scenes, self._requests, self._turns = scenes, Requests(split), turns

    def talk(self, draw: random.Random) -> Talk:
        """See `Source.talk`."""
        while True:
            index = draw.randrange(len(self._scenes))
            made = [self._requests.draw(self._scenes[index], draw, draw.choice(WAYS)) for _ in range(self._turns)]
            turns = {one.words: Turn("request", THINK.format(one.words), one.reply) for one in made if one is not None}
            if turns:
                return Talk("request", self._scenes.frame(index), tuple(turns.values()))


class TextTalks:
    """Questions about the objects that need no picture, made from the attribute file; a grey one stands in."""

    def __init__(self, catalog: Catalog, split: Split = "train", turns: int = TURNS) -> None:
        self._things, self._split, self._turns = list(catalog_of(catalog, split).values()), split, turns

    def talk(self, draw: random.Random) -> Talk:
        """See `Source.talk`."""
        asked: dict[str, Turn] = {}
        while len(asked) < self._turns:
            turn = self._turn(draw)
            if turn is not None:
                asked[turn.question] = turn
        return Talk("text", np.full((240, 320, 3), 128, np.uint8), tuple(asked.values()))

    def _turn(self, draw: random.Random) -> Turn | None:
        thing, wording = draw.choice(self._things), draw.choice([*TEXT_ANSWERS, "translate", "pick", "odd"])
        if wording in TEXT_ANSWERS:
            answer = _answer(wording, thing, draw)
            return self._ask(wording, draw, with_article(thing.name), answer=answer) if answer else None
        if wording == "translate":
            code = draw.choice(sorted(LANGUAGES))
            return self._ask(wording, draw, f"the {thing.name}", LANGUAGES[code], answer=(thing.names or {})[code])
        if wording == "pick":
            if not thing.use:
                return None
            use = draw.choice(thing.use)
            verb = use.split()[0]
            wrong = [t for t in self._things if t.category != thing.category and verb not in " ".join(t.use)]
            return self._choose(wording, draw, thing, wrong, use)
        wrong = [t for t in self._things if "eat" not in purposes(t) and t.category != "drink"]
        return self._choose(wording, draw, thing, wrong) if thing.edible else None

    def _choose(self, wording: str, draw: random.Random, right: Thing, wrong: Sequence[Thing], *words: str) -> Turn:
        names = [right.name, *(thing.name for thing in draw.sample(wrong, CHOICES - 1))]
        draw.shuffle(names)
        return self._ask(wording, draw, *words, listed(names).replace(" and ", " or "), answer=right.name)

    def _ask(self, wording: str, draw: random.Random, *words: str, answer: str) -> Turn:
        return ask("text", f"language_{wording}", self._split, draw, *words, answer=answer)


TEXT_ANSWERS = ("use", "colour", "taste", "kind", "edible", "material")


def _answer(wording: str, thing: Thing, draw: random.Random) -> str | None:
    if wording == "use":
        return draw.choice(thing.use) if thing.use else None
    if wording == "colour":
        return None if thing.colours[0] in thing.name else thing.colours[0]
    if wording == "taste":
        return thing.taste
    if wording == "kind":
        return None if thing.category in thing.name else thing.category
    if wording == "edible":
        return "yes" if thing.edible else "no"
    return None if thing.material == "organic" else thing.material


class Mix:
    """Talks from several sources in fixed shares. What a step holds depends on (seed, step) alone."""

    def __init__(self, sources: Mapping[str, Source], shares: Mapping[str, float], seed: int = 0) -> None:
        """`shares` need not add up to 1. Raises ValueError where a share has no source."""
        unknown = sorted(set(shares) - set(sources))
        if unknown:
            raise ValueError(f"There is no source {unknown[0]!r} for its share; known: {', '.join(sources)}.")
        self._sources, self._shares, self._seed = dict(sources), dict(shares), seed

    def __call__(self, step: int, count: int) -> list[Talk]:
        """The `count` talks of one step."""
        draw = random.Random(f"multimodal {self._seed} {step}")
        names = draw.choices(list(self._shares), list(self._shares.values()), k=count)
        return [self._sources[name].talk(draw) for name in names]
