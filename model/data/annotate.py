"""Annotators write what a demonstration lacks: the sentence in which the robot says what it is about to do."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol

from model.data.things import DRAWERS, load_catalog

TEMPLATES: dict[str, tuple[str, ...]] = {
    "pick": ("I will pick up the {source}.", "I will grasp the {source} and lift it.", "I will take the {source}."),
    "put_on": (
        "I will pick up the {source} and put it on the {target}.",
        "I will move the {source} onto the {target}.",
        "I will place the {source} on the {target}.",
    ),
    "put_in": (
        "I will pick up the {source} and put it in the {target}.",
        "I will move the {source} into the {target}.",
        "I will place the {source} in the {target}.",
    ),
    "stack": (
        "I will stack the {source} on the {target}.",
        "I will pick up the {source} and put it on top of the {target}.",
        "I will place the {source} on top of the {target}.",
    ),
    "near": (
        "I will move the {source} near the {target}.",
        "I will pick up the {source} and put it next to the {target}.",
        "I will place the {source} beside the {target}.",
    ),
    "open": (
        "I will open the {target} drawer.",
        "I will pull the {target} drawer open.",
        "I will pull out the {target} drawer.",
    ),
    "close": (
        "I will close the {target} drawer.",
        "I will push the {target} drawer shut.",
        "I will push the {target} drawer in.",
    ),
}
"""Replies per task family. The object's own name is in each, however the instruction paraphrases it."""


class Annotator(Protocol):
    """Writes the reply of an episode; a language model may stand behind it as well as templates."""

    def reply(self, scene: Mapping[str, Any], instruction: str) -> str:
        """One first-person sentence naming the action and its objects. The same scene gets the same sentence."""


class TemplateAnnotator:
    """Replies from templates and the scene's goal. `names` maps object ids to names; by default the catalog's."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = {thing.id: thing.name for thing in load_catalog().values()} if names is None else names

    def reply(self, scene: Mapping[str, Any], instruction: str) -> str:
        """See `Annotator.reply`. Raises ValueError for a task family without templates."""
        goal = scene["goal"]
        if goal["kind"] not in TEMPLATES:
            raise ValueError(f"No reply templates for the task family {goal['kind']!r}; known: {', '.join(TEMPLATES)}.")
        draw = random.Random(f"{goal['kind']} {scene['seed']}")
        template = draw.choice(TEMPLATES[goal["kind"]])
        return template.format(source=self._name(goal.get("source")), target=self._name(goal.get("target")))

    def _name(self, object_id: str | None) -> str:
        # A drawer's name ("top") is its id.
        return self._names.get(object_id or "", object_id or "")


def names() -> list[str]:
    """What replies can be about: every thing's name, and the drawers."""
    return [*(thing.name for thing in load_catalog().values()), *DRAWERS]


def sample_replies() -> list[str]:
    """Replies in which every template has had every thing's name in both its places, though not every pair."""
    things = names()[: -len(DRAWERS)]
    return [
        template.format(source=source, target=target)
        for kind, templates in TEMPLATES.items()
        for template in templates
        for source, target in zip(things, DRAWERS if kind in ("open", "close") else things[::-1], strict=False)
    ]
