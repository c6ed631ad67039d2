"""Questions have one right answer, and it is the one given."""

import random
from pathlib import Path

import pytest

from model.data.questions import MAKERS, Catalog, Scene, Thing, caption, conversation, load_catalog, plural, third


def thing(object_id: str, category: str, colour: str, **more: object) -> Thing:
    base = {"name": object_id.replace("_", " "), "category": category, "colours": [colour], "shape": "round"}
    return Thing.of(object_id, {**base, "material": "plastic", **more})


@pytest.fixture
def catalog() -> dict[str, Thing]:
    things = [
        thing("carrot", "vegetable", "orange", taste="sweet", use=["eating"]),
        thing("lemon", "fruit", "yellow", taste="sour", use=["eating"]),
        thing("sponge", "tool", "yellow", use=["cleaning"]),
        thing("red_cube", "toy", "red"),
        thing("blue_cube", "toy", "blue"),
        thing("plate", "dish", "white"),
        thing("apple", "fruit", "red", taste="sweet"),
    ]
    return {t.id: t for t in things}


VISIBLE = {"carrot": (0.1, 0.2), "sponge": (0.5, 0.5), "red_cube": (0.9, 0.8), "blue_cube": (0.7, 0.45)}


def all_turns(catalog: Catalog, kind: str, count: int = 60) -> list[tuple[str, str]]:
    turns = [MAKERS[kind](Scene(VISIBLE, catalog), random.Random(seed)) for seed in range(count)]
    return [(turn.question, turn.answer) for turn in turns if turn is not None]


def test_presence(catalog: Catalog) -> None:
    turns = all_turns(catalog, "presence")
    for question, answer in turns:
        seen = any(catalog[name].name in question for name in VISIBLE)
        assert answer == ("yes" if seen else "no")
    assert 0.3 < sum(answer == "yes" for _, answer in turns) / len(turns) < 0.7
    assert any("a red cube" in question for question, _ in turns) and any(
        "an apple" in question for question, _ in turns
    )


def test_colour_is_never_asked_where_the_question_is_ambiguous(catalog: Catalog) -> None:
    turns = all_turns(catalog, "colour")
    assert {question.split(" the ")[1].split("?")[0].removesuffix(" have") for question, _ in turns} == {
        "carrot",
        "sponge",
    }
    assert all(answer == ("orange" if "carrot" in question else "yellow") for question, answer in turns)


def test_count(catalog: Catalog) -> None:
    numbers = {"objects": "4", "cubes": "2", "toys": "2", "fruits": "0", "dishes": "0", "carrots": "1"}
    asked = {word: answer for question, answer in all_turns(catalog, "count") for word in numbers if word in question}
    assert all(asked[word] == numbers[word] for word in asked) and {"objects", "cubes"} <= set(asked)


def test_where_and_extremes(catalog: Catalog) -> None:
    places = {"carrot": "top left", "sponge": "centre", "red cube": "bottom right", "blue cube": "right"}
    for question, answer in all_turns(catalog, "where"):
        assert any(name in question and answer == place for name, place in places.items())
    sides = {"to the left": "carrot", "to the right": "red cube", "from the camera": "carrot", "closest": "red cube"}
    for question, answer in all_turns(catalog, "extreme"):
        assert answer == next(name for words, name in sides.items() if words in question)


def test_relations(catalog: Catalog) -> None:
    names = {catalog[name].name: place for name, place in VISIBLE.items()}
    tests = {"left of": (0, -1), "right of": (0, 1), "behind": (1, -1), "in front of": (1, 1)}
    for question, answer in all_turns(catalog, "relation"):
        first, second = sorted((name for name in names if name in question), key=question.index)
        relation = answer if " or " in question else next(words for words in tests if words in question)
        axis, sign = tests[relation]
        holds = (names[first][axis] - names[second][axis]) * sign > 0
        assert holds == (answer != "no"), question


def test_use_and_property_have_one_answer(catalog: Catalog) -> None:
    assert {a for q, a in all_turns(catalog, "use") if "cleaning" in q} == {"sponge"}
    answers = dict(all_turns(catalog, "property"))
    assert answers["Which object tastes sweet?"] == "carrot" and answers["Which object is yellow?"] == "sponge"
    assert not any("toy" in question for question in answers)


def test_caption_lists_from_left_to_right(catalog: Catalog) -> None:
    answer = caption(Scene(VISIBLE, catalog), random.Random(0)).answer
    assert answer == "On the table there is a carrot, a sponge, a blue cube and a red cube."
    assert caption(Scene({}, catalog), random.Random(0)).answer == "The table is empty."


def test_conversations_are_seeded_and_do_not_repeat(catalog: Catalog) -> None:
    talk = conversation(VISIBLE, catalog, seed=3, turns=6)
    assert talk == conversation(VISIBLE, catalog, seed=3, turns=6) != conversation(VISIBLE, catalog, seed=4, turns=6)
    assert len({turn.question for turn in talk}) == 6
    kinds = {turn.kind for seed in range(40) for turn in conversation(VISIBLE, catalog, seed)}
    assert kinds == set(MAKERS)


def test_what_is_out_of_the_picture_or_unknown_is_not_asked_about(catalog: Catalog) -> None:
    scene = Scene({"carrot": (1.2, 0.5), "robot": (0.5, 0.5), "lemon": (0.5, 0.5)}, catalog)
    assert [t.id for t in scene.things] == ["lemon"]
    assert conversation({}, catalog, seed=0)


def test_borderline_places_have_no_name() -> None:
    assert third((0.34, 0.5)) is None and third((0.5, 0.9)) == "bottom" and third((0.1, 0.5)) == "left"


def test_plurals() -> None:
    assert [plural(word) for word in ("box", "battery", "toy", "furniture")] == [
        "boxes",
        "batteries",
        "toys",
        "pieces of furniture",
    ]


def test_the_catalog_of_the_repository_loads_and_a_missing_one_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        load_catalog(tmp_path / "none.yaml")
    catalog = load_catalog()
    assert catalog["carrot"].name == "carrot" and catalog["orange"].noun == "orange"
    everything = {object_id: (0.02 + 0.02 * i, 0.5) for i, object_id in enumerate(catalog)}
    for seed in range(50):
        few = dict(random.Random(seed).sample(sorted(everything.items()), 5))
        for turn in conversation(few, catalog, seed, turns=8):
            assert turn.answer and turn.question[-1] in "?." and "  " not in turn.question and "{" not in turn.question
