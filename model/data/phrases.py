"""A grammar that writes the paper's four kinds of annotation from a scene's ground truth (appendix on VLA-IT data).

Caption, question answering (QA), command rewriting (CR) and context creation (CC). What it says is true and fits one
thing only: a command points at an object so that no other object there could be meant, a situation is served by one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

from model.data.annotate import TemplateAnnotator
from model.data.questions import conversation
from model.data.references import Reference, Referrer
from model.data.splits import TRAIN, Split, pair_split
from model.data.things import (
    DRAWERS,
    Catalog,
    Scene,
    Thing,
    catalog_of,
    listed,
    load_catalog,
    rests,
    ways_to,
    with_article,
)
from model.data.wording import needs_of, phrases, sentences

Kind = Literal["Caption", "QA", "CR", "CC"]
LANGUAGES = ("fr", "es", "de", "zh")
FOREIGN_SHARE, NAME_SHARE = 0.3, 0.3
"""Shares of rewritten commands in another language, and of English references by plain name."""
TRIES = 12
PAIR_SHARE = 0.6
"""Of the other steps in training, those that bring one thing to another."""


@dataclass(frozen=True)
class Annotation:
    """A question (for a caption: the request for one) and its answer.

    `answer` of CR and CC is the robot's reply: one next action, in the words of `model.data.annotate`. `form` names
    the templates and attributes that the question (of a caption: the answer) was made from.
    """

    kind: Kind
    question: str
    answer: str
    form: tuple[str, ...] = ()


class Grammar:
    """Annotations of scenes. `unseen` adds the objects that training scenes never show."""

    def __init__(self, unseen: bool = False) -> None:
        catalog = load_catalog(unseen=unseen)
        self._catalog = catalog
        self._catalogs: dict[Split, Catalog] = {}
        self._referrer = Referrer(catalog)
        self._replies = TemplateAnnotator({thing.id: thing.name for thing in catalog.values()})

    def annotations(
        self, scene: Mapping[str, Any], split: Split, draw: random.Random, per_kind: int = 1
    ) -> list[Annotation]:
        """Different annotations of one scene, up to `per_kind` of QA, CR and CC each, after one caption.

        Args:
            scene: `objects`, id -> (u, v, ...) in 0..1 of everything on the table, and for CR and CC `goal` and `seed`
                as in an episode's scene.
        """
        made = [self.caption(scene, split, draw)]
        makers = [self.question] if "goal" not in scene else [self.question, self.rewriting, self.context]
        for make in makers:
            found: dict[str, Annotation] = {}
            for _ in range(2 * per_kind):
                annotation = make(scene, split, draw)
                if annotation is not None and len(found) < per_kind:
                    found.setdefault(annotation.question, annotation)
            made += found.values()
        return made

    def caption(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> Annotation:
        """What lies on the table; the arm is not mentioned."""
        seen = Scene(scene["objects"], self._catalog)
        question = draw.choice(sentences(split, "caption", "describe"))
        told = [self._describe(self._of(split)[thing.id], draw) for thing in seen.things]
        if "goal" in scene and scene["goal"]["kind"] in ("open", "close"):
            told.append(("a cabinet with three drawers", "cabinet"))
        if not told:
            return Annotation("Caption", question, "The table is empty.", ("empty",))
        texts, attributes = [text for text, _ in told], [attribute for _, attribute in told]
        if len(told) > 1 and draw.random() < 0.4:
            template = draw.choice(sentences(split, "caption", "pair"))
            answer = template.format(first=texts[0], last=texts[-1])
            attributes = [attributes[0], attributes[-1]]
        else:
            template = draw.choice(sentences(split, "caption", "all"))
            answer = template.format(things=listed(texts))
        return Annotation("Caption", question, answer[0].upper() + answer[1:], (template, *attributes))

    def question(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> Annotation | None:
        """One short question about the picture."""
        turn = conversation(scene["objects"], self._of(split), draw.getrandbits(32), 1, split)[0]
        if turn.kind == "caption":
            return None
        return Annotation("QA", turn.question, turn.answer, (turn.form, turn.question))

    def rewriting(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> Annotation | None:
        """The command in other words; None where nothing names its objects without doubt."""
        said = None
        if draw.random() < FOREIGN_SHARE:
            said = self._foreign(scene, split, draw)
        else:
            command = self.command(scene["goal"], scene, split, draw)
            if command is not None:
                text, form = command
                frame = draw.choice(sentences(split, "frame"))
                said = _sentence(frame.format(command=text)), (frame, *form)
        return self._reply("CR", scene, said)

    def context(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> Annotation | None:
        """A need, a negative request or a two-step request from which the command follows; None where none does."""
        drawer = scene["goal"]["kind"] in ("open", "close")
        makers = [self._drawer_need, self._steps] if drawer else [self._need, self._need, self._negative, self._steps]
        draw.shuffle(makers)
        said = next((said for make in makers if (said := make(scene, split, draw)) is not None), None)
        return self._reply("CC", scene, said)

    def reply(self, scene: Mapping[str, Any], said: str) -> str:
        """What the robot answers to a request for the goal of a scene."""
        return self._replies.reply(scene, said)

    # ---- parts

    def _of(self, split: Split) -> Catalog:
        if split not in self._catalogs:
            self._catalogs[split] = catalog_of(self._catalog, split)
        return self._catalogs[split]

    def _reply(
        self, kind: Kind, scene: Mapping[str, Any], said: tuple[str, tuple[str, ...]] | None
    ) -> Annotation | None:
        return None if said is None else Annotation(kind, said[0], self.reply(scene, said[0]), said[1])

    def _describe(self, thing: Thing, draw: random.Random) -> tuple[str, str]:
        """An indefinite description and the attribute it uses."""
        ways = {"name": thing.name}
        if thing.noun != thing.colours[0]:
            ways["colour"] = f"{thing.colours[0]} {thing.noun}"
        if thing.material != "organic" and " and " not in thing.material:
            ways["material"] = f"{thing.name} made of {thing.material}"
        if len(thing.colours) > 1 and thing.noun not in thing.colours:
            ways["colours"] = f"{thing.colours[0]} and {thing.colours[1]} {thing.noun}"
        if thing.taste and thing.edible and " " not in thing.taste:
            ways["taste"] = f"{thing.taste} {thing.name}"
        for synonym in thing.synonyms:
            if not synonym.startswith("the "):
                ways[f"synonym {synonym}"] = synonym
        way = draw.choice(sorted(ways))
        return with_article(ways[way]), f"{thing.id} {way}"

    def _refer(self, object_id: str, scene: Mapping[str, Any], split: Split, draw: random.Random) -> Reference | None:
        seen = Scene(scene["objects"], self._catalog)
        thing = self._catalog[object_id]
        found = self._referrer.references(thing, seen, split)
        if not found:
            return None
        return found[0] if draw.random() < NAME_SHARE else draw.choice(found)

    def command(
        self, goal: Mapping[str, Any], scene: Mapping[str, Any], split: Split, draw: random.Random, plain: bool = False
    ) -> tuple[str, tuple[str, ...]] | None:
        """An English command without frame, with its form; `plain` uses names alone."""
        template = draw.choice(sentences(split, "command", goal["kind"]))
        if goal["kind"] in ("open", "close"):
            drawer = self._drawer(goal["target"], split, draw)
            return template.format(drawer=drawer), (template, drawer)
        slots, form = {}, [template]
        for role in ("source", "target"):
            if goal.get(role) is None:
                continue
            name = Reference(f"the {self._catalog[goal[role]].name}", "name")
            reference = name if plain else self._refer(goal[role], scene, split, draw)
            if reference is None:
                return None
            slots[role] = reference.text
            form.append(f"{goal[role]} {reference.attribute} {reference.template}".strip())
        return template.format(**slots), tuple(form)

    def _drawer(self, name: str, split: Split, draw: random.Random) -> str:
        return draw.choice(sentences(split, "drawer", name))

    def _foreign(
        self, scene: Mapping[str, Any], split: Split, draw: random.Random
    ) -> tuple[str, tuple[str, ...]] | None:
        goal, language = scene["goal"], draw.choice(LANGUAGES)
        template = draw.choice(sentences(split, language, goal["kind"]))
        if goal["kind"] in ("open", "close"):
            drawer = phrases()["drawer_names"][language][goal["target"]]
            return _contract(template.format(drawer=drawer)), (template, drawer)
        slots = {}
        for role in ("source", "target"):
            if goal.get(role) is not None:
                slots[role] = (self._catalog[goal[role]].names or {})[language]
        return _contract(template.format(**slots)), (template, *slots.values())

    def _need(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> tuple[str, tuple[str, ...]] | None:
        goal = scene["goal"]
        rest = set(scene["objects"]) - {goal.get("target")}
        told = [
            sentence
            for need in needs_of(split)
            if rest & set(need.serves) == {goal["source"]} and not set(scene["objects"]) & set(need.might)
            for sentence in need.says
        ]
        if not told:
            return None
        need, ask = draw.choice(told), draw.choice(sentences(split, "ask", goal["kind"]))
        form = [need, ask]
        if goal.get("target") is not None:
            target = self._refer(goal["target"], scene, split, draw)
            if target is None:
                return None
            ask = ask.format(target=target.text)
            form.append(f"{goal['target']} {target.attribute} {target.template}".strip())
        return f"{need} {ask}", tuple(form)

    def _negative(
        self, scene: Mapping[str, Any], split: Split, draw: random.Random
    ) -> tuple[str, tuple[str, ...]] | None:
        """A {kind}, but not {other}: where `other` is the only further thing of the kind."""
        goal = scene["goal"]
        source = self._catalog[goal["source"]]
        candidates = [
            self._catalog[name]
            for name in scene["objects"]
            if name in self._catalog and name not in (source.id, goal.get("target")) and self._catalog[name].graspable
        ]
        same = [thing for thing in candidates if thing.category == source.category]
        if len(same) == 1:
            kind, other = source.kind, same[0]
        elif len(candidates) == 1 and goal["kind"] != "stack":
            kind, other = "thing", candidates[0]
        else:
            return None
        template = draw.choice(sentences(split, "negative", goal["kind"]))
        excluded = self._refer(other.id, scene, split, draw)
        target = self._refer(goal["target"], scene, split, draw) if goal.get("target") is not None else None
        if excluded is None or (goal.get("target") is not None and target is None):
            return None
        text = template.format(kind=kind, other=excluded.text, target=target.text if target else "")
        form = [template, kind, f"{other.id} {excluded.attribute}", target.attribute if target else ""]
        return _sentence(text), tuple(form)

    def _steps(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> tuple[str, tuple[str, ...]] | None:
        """The goal as the next of two steps; the other one is about a further object.

        In training it may also be the second of two, where the picture shows that the first is done.
        """
        goal = scene["goal"]
        command = self.command(goal, scene, split, draw)
        over = self._over(scene, split) if split == TRAIN else []
        other = draw.choice(over) if over else self._other(scene, split, draw)
        further = self.command(other, scene, split, draw, plain=True) if other is not None else None
        if command is None or further is None:
            return None
        order = draw.choice(("first", "second"))
        template = draw.choice(sentences(split, "steps", order))
        first, later = (further, command) if over and order == "first" else (command, further)
        text = template.format(command=first[0], later=later[0], done=later[0])
        return _sentence(text), (template, *command[1], *further[1])

    def _other(self, scene: Mapping[str, Any], split: Split, draw: random.Random) -> dict[str, Any] | None:
        """A goal about things that the scene's own is not about; outside training, to pick one of them up."""
        goal = scene["goal"]
        own = (goal.get("source"), goal.get("target"))
        others = [name for name in scene["objects"] if name in self._catalog and name not in own]
        graspable = [name for name in others if self._catalog[name].graspable]
        if not graspable:
            if goal["kind"] not in ("open", "close"):
                return None
            other_drawers = [drawer for drawer in DRAWERS if drawer != goal.get("target")]
            return {"kind": goal["kind"], "target": draw.choice(other_drawers)}
        source = draw.choice(graspable)
        pairs = [
            {"kind": kind, "source": source, "target": target}
            for target in (others if split == TRAIN else [])
            if target != source
            for kind in ways_to(self._catalog[source], self._catalog[target])
        ]
        pairs = [pair for pair in pairs if pair_split(pair) == split]
        return draw.choice(pairs) if pairs and draw.random() < PAIR_SHARE else {"kind": "pick", "source": source}

    def _over(self, scene: Mapping[str, Any], split: Split) -> list[dict[str, Any]]:
        """Goals that the picture shows to be done already, about things that the scene's own goal does not move."""
        goal, places = scene["goal"], scene["objects"]
        known = [self._catalog[name] for name in places if name in self._catalog and name != goal.get("source")]
        return [
            {"kind": kind, "source": source.id, "target": target.id}
            for source, target in permutations(known, 2)
            if source.graspable and source.id != goal.get("target") and rests(places[source.id], places[target.id])
            for kind in ways_to(source, target)
            if kind != "near" and pair_split({"source": source.id, "target": target.id}) == split
        ]

    def _drawer_need(
        self, scene: Mapping[str, Any], split: Split, draw: random.Random
    ) -> tuple[str, tuple[str, ...]] | None:
        goal = scene["goal"]
        need = draw.choice(sentences(split, "drawer_need", goal["kind"]))
        frame = draw.choice(sentences(split, "drawer_frame"))
        drawer = self._drawer(goal["target"], split, draw)
        return frame.format(need=_sentence(need.format(drawer=drawer))), (frame, need, drawer)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


CONTRACTIONS: tuple[tuple[str, str], ...] = (
    (r"\bde le\b", "du"), (r"\bà le\b", "au"), (r"\bde el\b", "del"), (r"\ba el\b", "al"),
)  # fmt: skip
"""French and Spanish merge preposition and article."""


def _contract(text: str) -> str:
    for pattern, merged in CONTRACTIONS:
        text = re.sub(pattern, merged, text)
    return text
