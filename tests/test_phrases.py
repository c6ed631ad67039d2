"""The grammar's annotations are many, true, unambiguous, and their test sentences never occur in training text."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from functools import cache

import pytest

from model.data.annotate import TEMPLATES
from model.data.phrases import Annotation, Grammar
from model.data.references import Referrer
from model.data.splits import SPLITS, Split, divide, pair_split, scene_split
from model.data.things import Scene, load_catalog
from model.data.wording import lists, needs, needs_of, phrases, sentences
from sim.tasks import KINDS, goals

CATALOG = load_catalog()
GRAMMAR = Grammar()
GOALS = {kind: goals(kind) for kind in KINDS}
GRASPABLE = [thing.id for thing in CATALOG.values() if thing.graspable]


def draw_scene(draw: random.Random) -> dict:
    kind = draw.choice(KINDS)
    goal = draw.choice(GOALS[kind]).model_dump()
    named = [] if kind in ("open", "close") else [name for name in (goal["source"], goal["target"]) if name]
    extra = draw.sample([name for name in GRASPABLE if name not in named], draw.randint(0, 3))
    places = {name: (draw.uniform(0.1, 0.9), draw.uniform(0.3, 0.9)) for name in named + extra}
    return {"seed": draw.randrange(10**6), "goal": goal, "objects": places}


@cache
def corpus(split: Split, scenes: int = 2000) -> list[tuple[dict, Annotation]]:
    draw = random.Random(f"corpus {split}")
    made = []
    for _ in range(scenes):
        scene = draw_scene(draw)
        made += [(scene, annotation) for annotation in GRAMMAR.annotations(scene, split, draw, per_kind=4)]
    return made


def test_each_kind_has_two_thousand_forms() -> None:
    forms: dict[str, set] = defaultdict(set)
    for _, annotation in corpus("train"):
        forms[annotation.kind].add(annotation.form)
    counts = {kind: len(found) for kind, found in forms.items()}
    assert set(counts) == {"Caption", "QA", "CR", "CC"}
    # Captions: a list of objects is one form, so count single (template, attribute) pairs.
    counts["Caption"] = len({(form[0], word) for form in forms["Caption"] for word in form[1:]})
    assert min(counts.values()) >= 2000, counts


@pytest.mark.parametrize("split", SPLITS)
def test_replies_are_short_and_name_the_goal(split: Split) -> None:
    for scene, annotation in corpus(split, 2000 if split == "train" else 300):
        goal = scene["goal"]
        if annotation.kind in ("CR", "CC"):
            assert len(annotation.answer.split()) <= 20
            names = {role: CATALOG[name].name if name in CATALOG else name for role, name in goal.items() if name}
            assert annotation.answer in {template.format(**names) for template in TEMPLATES[goal["kind"]]}
        assert annotation.question and annotation.answer
        for text in (annotation.question, annotation.answer):
            assert "{" not in text and "  " not in text and "None" not in text and text == text.strip()
            assert not re.search(r"\b(de le|à le|de el|a el)\b", text)


def test_no_test_sentence_occurs_in_training_text() -> None:
    trained = [text for _, note in corpus("train") for text in (note.question, note.answer)]
    used = {part for _, note in corpus("train") for part in note.form}
    text = "\n".join(trained)
    held_out = [s for n in needs_of("test") + needs_of("validation") for s in n.says]
    for split in ("test", "validation"):
        for kind in KINDS:
            for place in ("command", "ask", "negative", "drawer_need", "fr", "es", "de", "zh"):
                held_out += sentences(split, place, kind) if kind in phrases()[place] else ()
        for place in (("frame",), ("drawer_frame",), ("steps", "first"), ("steps", "second"), ("caption", "all")):
            held_out += sentences(split, *place)
    assert len(held_out) > 200
    for sentence in held_out:
        assert sentence not in used
        literal = max(re.split(r"\{\w*\}", sentence), key=len).strip()
        if "{" not in sentence:
            assert sentence not in text, sentence
        elif len(literal.split()) >= 4:
            assert literal not in text, sentence
    asked = {note.question for _, note in corpus("train") if note.kind in ("CR", "CC")}
    assert not asked & {note.question for _, note in corpus("test", 300) if note.kind in ("CR", "CC")}


def test_every_list_reaches_every_split_and_no_sentence_stands_in_two() -> None:
    places = dict(lists())
    for name, items in places.items():
        where = divide(name, items, phrases()["trained"]["sentences"])
        assert set(where.values()) == set(SPLITS), name
    seen = Counter(sentence for items in places.values() for sentence in items)
    assert [s for s, n in seen.items() if n > 1] == ["Which object is {}?"]  # both times trained, as ever
    assert "Which object is {}?" in phrases()["trained"]["sentences"]


def test_a_sentence_is_one_sentence() -> None:
    glued = [text for _, texts in lists() for text in texts if re.search(r'[?.]"?, |^"', text)]
    assert glued == []


def test_dividing_is_a_function_of_the_words() -> None:
    items = [f"sentence {i}" for i in range(40)]
    where = divide("group", items)
    assert where == divide("group", reversed(items)) and where != divide("other", items)
    assert Counter(where.values()) == {"train": 26, "test": 8, "validation": 6}
    kept = divide("group", items, trained=[s for s, split in where.items() if split == "test"])
    assert all(kept[s] == "train" for s, split in where.items() if split == "test")
    assert set(divide("group", ["a", "b"]).values()) == {"train"}


def test_pairs_are_divided_whatever_is_done_with_them() -> None:
    shares = Counter(pair_split(goal.model_dump()) for goal in GOALS["near"])
    assert 0.15 < shares["test"] / sum(shares.values()) < 0.25
    pair = {"source": "carrot", "target": "blue_plate"}
    assert pair_split({"kind": "put_on", **pair}) == pair_split({"kind": "near", **pair})
    assert pair_split({"kind": "pick", "source": "carrot", "target": None}) == "train"
    held_out = [scene_split({"seed": seed, "goal": {"kind": "open", "target": "top"}}) for seed in range(400)]
    assert set(held_out) == {"train", "validation"} and 5 < held_out.count("validation") < 40


@pytest.mark.parametrize("split", SPLITS)
def test_references_fit_one_thing_only(split: Split) -> None:
    referrer, draw = Referrer(CATALOG), random.Random(1)
    kinds = Counter()
    for _ in range(300):
        scene = Scene(draw_scene(draw)["objects"], CATALOG)
        for thing in scene.things:
            others = [other for other in scene.things if other is not thing]
            for reference in referrer.references(thing, scene, split):
                kind, _, value = reference.attribute.partition(" ")
                kinds[kind] += 1
                if kind == "colour":
                    assert thing.colours[0] == value and not any(value in other.colours for other in others)
                elif kind == "category":
                    assert not any(other.category == thing.category for other in others)
                elif kind == "use":
                    assert value in thing.use + thing.further_use
                    assert not any(value in other.use + other.further_use for other in others)
                elif kind == "letter":
                    assert thing.letter == value and not any(other.letter == value for other in others)
                elif kind == "place":
                    assert thing is (scene.things[0] if value == "left" else scene.things[-1])
    assert {"name", "synonym", "use", "colour", "category", "place"} <= set(kinds)


def test_a_need_is_served_by_the_source_alone() -> None:
    served = {sentence: need for need in needs_of("train") for sentence in need.says}
    checked = 0
    for scene, note in corpus("train"):
        need = served.get(note.form[0]) if note.kind == "CC" else None
        if need is not None:
            present = set(scene["objects"]) - {scene["goal"]["target"]}
            assert present & set(need.serves) == {scene["goal"]["source"]}
            assert not set(scene["objects"]) & set(need.might)
            checked += 1
    assert checked > 300


def test_needs_cover_every_graspable_and_keep_the_answer_back() -> None:
    catalog = load_catalog(unseen=True)
    for thing in catalog.values():
        told = [sentence for need in needs() if thing.id in need.serves for sentence in need.says]
        assert not thing.graspable or len(told) >= 4, thing.id
    for need in needs():
        names = {catalog[name].name for name in need.serves}
        assert not [name for name in names for text in need.says if re.search(rf"\b{name}\b", text, re.I)], need.says[0]


def test_negative_requests_exclude_all_but_one() -> None:
    templates = {template for kind in phrases()["negative"] for template in sentences("train", "negative", kind)}
    seen = 0
    for scene, note in corpus("train"):
        if note.kind != "CC" or note.form[0] not in templates:
            continue
        goal, (_, kind, other, _) = scene["goal"], note.form
        rest = [CATALOG[name] for name in scene["objects"] if name not in (goal["source"], goal["target"])]
        rest = [thing for thing in rest if thing.graspable and thing.id != other.split()[0]]
        assert not [thing for thing in rest if kind in ("thing", thing.kind)]
        seen += 1
    assert seen > 50


def test_the_same_draw_gives_the_same_annotations_and_still_pictures_get_no_commands() -> None:
    scene = draw_scene(random.Random(5))
    first, again = (GRAMMAR.annotations(scene, "train", random.Random(3), 2) for _ in range(2))
    assert first == again
    still = {"objects": {"carrot": (0.2, 0.5), "mug": (0.7, 0.6)}}
    assert {note.kind for note in GRAMMAR.annotations(still, "test", random.Random(0), 3)} == {"Caption", "QA"}
    assert GRAMMAR.caption({"objects": {}}, "train", random.Random(0)).answer == "The table is empty."


def test_of_two_steps_the_one_is_next_that_the_picture_shows_undone() -> None:
    """A carrot lies on the blue plate: what is said about it first is over, and the reply names the second step."""
    places = {"blue_plate": [0.4, 0.5, 0.3, 0.1, 0.005], "lemon": [0.7, 0.6, 0.3, -0.1, 0.02], "carrot": [0.4, 0.5]}
    goal = {"kind": "pick", "source": "lemon", "target": None}
    told = sentences("train", "steps", "first")
    seen = Counter[bool]()
    for done in (True, False):
        places["carrot"] = [0.4, 0.49, 0.3, 0.105, 0.03] if done else [0.5, 0.8, 0.25, 0.0, 0.02]
        for seed in range(300):
            note = GRAMMAR.context({"seed": seed, "goal": goal, "objects": places}, "train", random.Random(seed))
            if note is None or note.form[0] not in told or not all(x in note.question for x in ("carrot", "lemon")):
                continue
            assert "lemon" in note.answer and "carrot" not in note.answer
            turned = note.form[0].index("{later}") < note.form[0].index("{command}")  # the second step is said first
            carrot_first = note.question.index("carrot") < note.question.index("lemon")
            assert carrot_first == (done != turned), note.question
            seen[done] += 1
    assert min(seen[True], seen[False]) > 5
