"""Requests made up about a picture: every goal that its scene allows, in plain words and in others, with the reply."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

from model.data.phrases import Grammar
from model.data.scenes import Still
from model.data.splits import Split, pair_split
from model.data.things import DRAWERS, Scene, Thing, load_catalog, ways_to
from model.data.wording import phrases

Way = Literal["plain", "rewrite", "context"]
WAYS: tuple[Way, ...] = ("plain", "rewrite", "context")
"""The plain command, the command in other words, and a situation that calls for it."""
TRIES = 20


@dataclass(frozen=True)
class Request:
    """What somebody says (`words`), the `command` that it comes down to, and the robot's `reply`.

    `places` are the image positions (u, v) of source and target, None where there is none or it is a drawer.
    """

    way: Way
    words: str
    command: str
    reply: str
    places: tuple[Sequence[float] | None, Sequence[float] | None]


class Requests:
    """Makes requests about pictures in the words, and about the pairs of objects, of one split."""

    def __init__(self, split: Split = "train") -> None:
        self._split, self._grammar, self._catalog = split, Grammar(), load_catalog()

    def draw(self, still: Still, draw: random.Random, way: Way) -> Request | None:
        """A request made in some way; None where a scene is too bare for one in `TRIES`."""
        allowed = goals(still, Scene(still.visible, self._catalog), self._split)
        kinds = sorted({goal["kind"] for goal in allowed})
        for _ in range(TRIES if kinds else 0):
            kind = draw.choice(kinds)
            goal = draw.choice([goal for goal in allowed if goal["kind"] == kind])
            request = self.about({"objects": still.visible, "goal": goal, "seed": 0}, way, draw)
            if request is not None:
                return request
        return None

    def about(self, scene: Mapping[str, Any], way: Way, draw: random.Random) -> Request | None:
        """A request for the goal of a scene (see `Grammar`); None where nothing says it without doubt."""
        goal = scene["goal"]
        command = plain_command(goal, self._catalog)
        source, target = (scene["objects"].get(goal.get(role)) for role in ("source", "target"))
        places = source, target
        if way == "plain":
            return Request(way, command, command, self._grammar.reply(scene, command), places)
        make = self._grammar.rewriting if way == "rewrite" else self._grammar.context
        made = make(scene, self._split, draw)
        return None if made is None else Request(way, made.question, command, made.answer, places)


def goals(still: Still, seen: Scene, split: Split) -> list[dict[str, Any]]:
    """Everything that could be asked for in a picture (`kind`, `source`, `target`), with pairs of a split alone.

    Of a cabinet that was drawn shut every drawer may be opened; of one with an open drawer, that one closed.
    """
    stated = still.goal.get("kind")
    if stated == "open":
        return [{"kind": "open", "target": drawer} for drawer in DRAWERS]
    if stated == "close":
        return [dict(still.goal)]
    things = seen.unique()
    found: list[dict[str, Any]] = [{"kind": "pick", "source": thing.id} for thing in things if thing.graspable]
    for source, target in permutations(things, 2):
        if source.graspable:
            pairs = ({"kind": kind, "source": source.id, "target": target.id} for kind in ways_to(source, target))
            found += [goal for goal in pairs if pair_split(goal) == split]
    return found


def plain_command(goal: Mapping[str, Any], catalog: Mapping[str, Thing]) -> str:
    """The goal in the words that stage 1 was trained on: "put the carrot on the white plate"."""
    template: str = phrases()["command"][goal["kind"]][0]
    if goal["kind"] in ("open", "close"):
        return template.format(drawer=f"the {goal['target']} drawer")
    named = {role: f"the {catalog[goal[role]].name}" for role in ("source", "target") if goal.get(role)}
    return template.format(**named)
