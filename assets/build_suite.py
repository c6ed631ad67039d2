"""Write assets/suites/tabletop-instruct.yaml: 80 tasks in sentences that no model was trained on.

Run: python assets/build_suite.py

Categories and proportions follow SimplerEnv-Instruct (InstructVLA, arXiv 2507.17520, appendix E): 50 tasks of
instruction aggregation, 30 of situated reasoning. Scenes and sentences are this project's own: sentences are of the
grammar's test split, pairs of objects of the pairs' test split, or with an object that no training scene shows.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.data.phrases import Grammar
from model.data.splits import pair_split
from model.data.things import load_catalog
from model.data.wording import phrases, sentences
from sim import objects, tasks
from sim.tasks import DRAWERS, Goal

OUT = Path(__file__).parent / "suites" / "tabletop-instruct.yaml"
FIRST_SEED, SEED_STEP, TRIALS = 1_200_000, 100, 14
AGGREGATION = 50
"""So many tasks come before those of situated reasoning."""
VARIED_SHARE = 5 / 8
"""Tasks with another table, light and camera: as many as SimplerEnv-Instruct has in unseen surroundings."""
HEADER = """\
# Written by `python assets/build_suite.py`. The first 50 tasks are instruction aggregation (verbs, languages,
# attributes, other words, unseen objects, letters), the last 30 situated reasoning (steps, common sense, tools,
# exceptions).
"""
CATALOG = load_catalog(unseen=True)
GRAMMAR = Grammar(unseen=True)
UNSEEN = [thing.id for thing in objects.catalog().values() if thing.unseen]
LETTERS = ["letter_a", "letter_l", "letter_v"]
TOOLS = ["sponge", "spoon", "marker", "screwdriver", "battery", "tape_roll", "mug"]
GRASPABLE = [thing.id for thing in CATALOG.values() if thing.graspable and thing.id not in UNSEEN]
Scene = dict[str, Any]
Said = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Design:
    """How one task is drawn: `say` returns None where the drawn scene does not lend itself to it."""

    category: str
    kind: str
    say: Callable[[Scene, random.Random], Said | None]
    extra: int = 2
    sources: list[str] | None = None
    beside: list[str] = field(default_factory=list)
    then: str | None = None
    exception: bool = False


def rewritten(*attributes: str) -> Callable[[Scene, random.Random], Said | None]:
    """An English command that points at something by one of these attributes, or by names alone."""

    def say(scene: Scene, draw: random.Random) -> Said | None:
        note = GRAMMAR.rewriting(scene, "test", draw)
        if note is None or note.form[0] not in sentences("test", "frame"):
            return None
        used = [part.split()[1] for part in note.form[2:] if len(part.split()) > 1]
        drawer = scene["goal"]["kind"] in ("open", "close")
        fits = drawer or (any(a in used for a in attributes) if attributes else set(used) <= {"name"})
        return (note.question, note.form) if fits else None

    return say


def foreign(language: str) -> Callable[[Scene, random.Random], Said | None]:
    """A command in another language."""

    def say(scene: Scene, draw: random.Random) -> Said | None:
        note = GRAMMAR.rewriting(scene, "test", draw)
        native = sentences("test", language, scene["goal"]["kind"])
        return (note.question, note.form) if note is not None and note.form[0] in native else None

    return say


def situation(*places: str) -> Callable[[Scene, random.Random], Said | None]:
    """A context: "need", "negative", "steps" (only the goal is left to do) or "drawer_need"."""

    def say(scene: Scene, draw: random.Random) -> Said | None:
        note = GRAMMAR.context(scene, "test", draw)
        if note is None:
            return None
        kind = scene["goal"]["kind"]
        lists = {
            "negative": phrases()["negative"].get(kind, []),
            "steps": phrases()["steps"]["second"],
            "both": phrases()["steps"]["first"],
            "drawer_need": phrases()["drawer_frame"],
        }
        place = next((name for name, known in lists.items() if note.form[0] in known), "need")
        return (note.question, note.form) if place in places else None

    return say


def both_steps(scene: Scene, draw: random.Random) -> Said | None:
    """Two commands, both of which have to be done."""
    first, later = (GRAMMAR.command(scene[name], scene, "test", draw) for name in ("goal", "then"))
    if first is None or later is None:
        return None
    template = draw.choice(sentences("test", "steps", "first"))
    text = template.format(command=first[0], later=later[0])
    return text[0].upper() + text[1:], (template, *first[1], *later[1])


def anything_but(scene: Scene, draw: random.Random) -> Said | None:
    """A request that several objects fulfil and one of the same kind does not."""
    excluded, kind = scene["excluded"], CATALOG[scene["goal"]["source"]].kind
    forms = [form for form in phrases()["negative"]["pick"] if "remaining" not in form]
    form = draw.choice([form for form in forms if form in sentences("test", "negative", "pick")])
    text = form.format(kind=kind, other=f"the {CATALOG[excluded].name}")
    return text[0].upper() + text[1:], (form,)


def designs() -> list[Design]:
    """The 80 tasks in their order."""
    made = [Design("verbs", kind, rewritten()) for kind in
            ("pick", "pick", "pick", "put_on", "put_on", "put_in", "stack", "near", "open", "close")]  # fmt: skip
    languages = [("fr", "pick"), ("fr", "put_on"), ("fr", "open"), ("es", "pick"), ("es", "put_in"), ("es", "near"),
                 ("de", "pick"), ("de", "put_on"), ("zh", "pick"), ("zh", "stack")]  # fmt: skip
    made += [Design(f"language {code}", kind, foreign(code)) for code, kind in languages]
    attributes = [("colour", "pick"), ("colour", "put_on"), ("colour_category", "near"), ("category", "put_in"),
                  ("shape", "pick"), ("use", "pick"), ("use", "put_on"), ("taste", "pick"), ("material", "put_on"),
                  ("use", "near")]  # fmt: skip
    made += [Design(f"attribute {name.partition('_')[0]}", kind, rewritten(name)) for name, kind in attributes]
    made += [Design("other words", kind, rewritten("synonym")) for kind in
             ("pick", "pick", "put_on", "put_in", "near", "close")]  # fmt: skip
    unseen = zip(UNSEEN, ("pick", "pick", "put_on", "put_in", "stack", "pick", "put_on"), strict=True)
    made += [Design("unseen object", kind, rewritten("name", "synonym"), sources=[name]) for name, kind in unseen]
    made += [Design("unseen object", "near", rewritten("name", "synonym"), sources=["tomato"])]
    made += [Design("letters", "pick", rewritten("letter"), sources=[name], beside=LETTERS) for name in LETTERS]
    made += [Design("letters", kind, rewritten("letter"), sources=LETTERS, beside=LETTERS) for kind in
             ("near", "near", "stack")]  # fmt: skip
    made += [Design("steps", kind, situation("steps"), extra=3) for kind in ("pick", "put_on", "put_in", "near")]
    made += [Design("steps", "open", situation("steps")), Design("steps", "close", situation("steps"))]
    made += [Design("both steps", first, both_steps, extra=1, then=then) for first, then in
             (("put_on", "pick"), ("stack", "pick"), ("put_in", "near"), ("near", "pick"))]  # fmt: skip
    made += [Design("common sense", kind, situation("need"), extra=3) for kind in
             ("pick", "pick", "pick", "pick", "put_on", "put_on", "put_in", "near")]  # fmt: skip
    made += [Design("tools", kind, situation("need"), extra=3, sources=TOOLS) for kind in ("pick", "pick", "put_on")]
    made += [Design("tools", kind, situation("drawer_need")) for kind in ("open", "close", "open")]
    kinds = ("pick", "put_on", "put_in", "pick")
    made += [Design("exceptions", kind, situation("negative"), extra=3) for kind in kinds]
    made += [Design("exceptions", "pick", anything_but, extra=1, exception=True) for _ in range(2)]
    return made


def draw_goal(design: Design, draw: random.Random, used: set[str]) -> Goal | None:
    """A goal of held-out words: a test pair, or an unseen source where the design names one."""
    if design.kind in ("open", "close"):
        return Goal(kind=design.kind, target=draw.choice(DRAWERS))
    pool = tasks.goals(design.kind)
    if design.sources is not None and design.sources[0] in UNSEEN:
        name = design.sources[0]
        like = {"lime": "lemon", "green_apple": "apple", "tomato": "orange", "orange_can": "red_can",
                "purple_cube": "red_cube", "letter_t": "letter_a", "red_mug": "mug"}[name]  # fmt: skip
        pool = [goal.model_copy(update={"source": name}) for goal in pool if goal.source == like]
        return draw.choice(pool)
    if design.sources is not None:
        pool = [goal for goal in pool if goal.source in design.sources]
    if design.category == "letters" and design.kind != "pick":
        pool = [goal for goal in pool if goal.target in LETTERS]
    fresh = [goal for goal in pool if goal.source not in used]
    pool = fresh if fresh and draw.random() < 0.7 else pool
    if design.kind != "pick" and design.category != "letters":
        pool = [goal for goal in pool if pair_split(goal.model_dump()) == "test"]
    return draw.choice(pool) if pool else None


def draw_task(design: Design, draw: random.Random, used: set[str]) -> dict[str, Any] | None:
    """One try at a task; None where the drawn scene does not fit its design."""
    goal = draw_goal(design, draw, used)
    if goal is None:
        return None
    then, also, excluded = None, [], None
    named = [name for name in (goal.source, goal.target) if name and name not in DRAWERS]
    if design.then == "pick":
        then = Goal(kind="pick", source=draw.choice([name for name in GRASPABLE if name not in named]))
    elif design.then is not None:
        fits = [g for g in tasks.goals(design.then) if not {g.source, g.target} & set(named) and g.target in GRASPABLE]
        then = draw.choice([g for g in fits if pair_split(g.model_dump()) == "test"])
    named += [name for name in ((then.source, then.target) if then else ()) if name and name not in DRAWERS]
    if design.exception:
        same = [n for n in GRASPABLE if CATALOG[n].category == CATALOG[named[0]].category and n not in named]
        if len(same) < 3:
            return None
        excluded, *others = draw.sample(same, 3)
        also = [Goal(kind="pick", source=name) for name in others]
    extra = [name for name in design.beside if name not in named]
    extra += [goal.source for goal in also if goal.source] + ([excluded] if excluded else [])
    free = [name for name in GRASPABLE if name not in named + extra]
    if design.exception:
        free = [name for name in free if CATALOG[name].category != CATALOG[named[0]].category]
    extra += draw.sample(free, max(0, design.extra - (len(extra) if design.beside else 0)))
    if goal.kind in ("open", "close"):
        extra = extra[:1]
    # Places differ from trial to trial, so what is said may use none.
    spread = {name: (0.1 + 0.8 * (i + 1) / (len(named + extra) + 1), 0.6) for i, name in enumerate(named + extra)}
    scene: Scene = {"seed": 0, "goal": goal.model_dump(), "objects": spread, "excluded": excluded}
    scene["then"] = then.model_dump() if then else None
    said = design.say(scene, draw)
    if said is None or any(" place " in f" {part} " for part in said[1]):
        return None
    task: dict[str, Any] = {"goal": _plain(goal)}
    if then is not None:
        task["then"] = _plain(then)
    if also:
        task["also"] = [_plain(goal) for goal in also]
    return {"instruction": said[0], **task, "objects": extra, "distractors": 0}


def _plain(goal: Goal) -> dict[str, Any]:
    return {name: value for name, value in goal.model_dump().items() if value is not None}


def build() -> dict[str, Any]:
    """The whole suite as it stands in the file."""
    made: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    said: set[str] = set()
    used: set[str] = set()
    for index, design in enumerate(designs()):
        draw = random.Random(f"tabletop-instruct {index}")
        tries = (draw_task(design, draw, used) for _ in range(5_000))
        task = next((task for task in tries if task and task["instruction"] not in said), None)
        if task is None:
            raise ValueError(f"No scene fits task {index} ({design.category}, {design.kind}): loosen its design.")
        said.add(task["instruction"])
        used |= {task["goal"].get("source", "")}
        if not set(GRASPABLE) - used:
            used = set()
        counts[design.category] = counts.get(design.category, 0) + 1
        name = f"{design.category} {counts[design.category]}"
        group = "aggregation" if index < AGGREGATION else "situated"
        seeds = {"start": FIRST_SEED + index * SEED_STEP, "count": TRIALS}
        task = {"name": name, "group": group, **task, "seeds": seeds}
        if index * VARIED_SHARE % 1 < VARIED_SHARE:
            task["vary"] = ["light", "texture", "camera"]
        made.append(task)
    return {
        "name": "tabletop-instruct",
        "description": "Free-form instructions: 50 tasks of instruction aggregation, then 30 of situated reasoning.",
        "success": "last",
        "tasks": made,
    }


if __name__ == "__main__":
    text = yaml.safe_dump(build(), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    OUT.write_text(HEADER + text, encoding="utf-8")
