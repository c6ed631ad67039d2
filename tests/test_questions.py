"""Questions have one right answer, and it is the one given."""

import random
from pathlib import Path

import pytest

from model.data.questions import MAKERS, Turn, caption, conversation, third
from model.data.things import Catalog, Scene, Thing, load_catalog, plural


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
    assert all(("carrot" in question) != ("sponge" in question) for question, _ in turns) and turns
    assert all(answer == ("orange" if "carrot" in question else "yellow") for question, answer in turns)


def test_count(catalog: Catalog) -> None:
    numbers = {"cubes": "2", "toys": "2", "fruits": "0", "dishes": "0", "carrots": "1", "red": "1", "white": "0"}
    asked = {word: answer for question, answer in all_turns(catalog, "count") for word in numbers if word in question}
    assert all(asked[word] == numbers[word] for word in asked) and {"cubes", "white"} <= set(asked)
    everything = [a for q, a in all_turns(catalog, "count") if q == "How many objects are on the table?"]
    assert everything and set(everything) == {"4"}


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
    for question, answer in answers.items():
        assert "toy" not in question
        truths = {"sweet": "carrot", "yellow": "sponge", "orange": "carrot", "vegetable": "carrot", "tool": "sponge"}
        assert all(answer == truth for word, truth in truths.items() if word in question)
    assert {"carrot", "sponge"} <= set(answers.values())


def test_caption_lists_from_left_to_right(catalog: Catalog) -> None:
    answer = caption(Scene(VISIBLE, catalog), random.Random(0)).answer
    assert answer == "On the table there is a carrot, a sponge, a blue cube and a red cube."
    assert caption(Scene({}, catalog), random.Random(0)).answer == "The table is empty."


def test_conversations_are_seeded_and_do_not_repeat(catalog: Catalog) -> None:
    talk = conversation(VISIBLE, catalog, seed=3, turns=6)
    assert talk == conversation(VISIBLE, catalog, seed=3, turns=6) != conversation(VISIBLE, catalog, seed=4, turns=6)
    assert len({turn.question for turn in talk}) == 6
    kinds = {turn.kind for seed in range(40) for turn in conversation(VISIBLE, catalog, seed)}
    assert kinds >= set(MAKERS) - {"letter", "compare", "purpose"}  # nothing here bears a letter or has a known size


def asked(kind: str, *names: str) -> list[Turn]:
    """Many questions of a kind on these objects of the repository, from left to right."""
    scene = Scene({name: ((i + 1) / (len(names) + 1), 0.5) for i, name in enumerate(names)}, load_catalog())
    turns = [MAKERS[kind](scene, random.Random(seed), "train") for seed in range(80)]
    return [turn for turn in turns if turn is not None]


def test_what_is_edible_for_cleaning_or_to_drink() -> None:
    turns = asked("purpose", "apple", "sponge", "bottle", "battery")
    assert {(w, t.answer) for t in turns for w in ("eat", "clean", "drink") if w in t.question} == {
        ("eat", "apple"), ("clean", "sponge"), ("drink", "bottle"),
    }  # fmt: skip
    for turn in asked("fitness", "apple", "sponge"):
        eat = not any(word in turn.question for word in ("clean", "wipe"))
        assert turn.answer == ("yes" if eat == ("apple" in turn.question) else "no")
    assert not asked("purpose", "marker", "battery")


def test_letters_are_read_off_blocks_that_colour_tells_apart() -> None:
    turns = asked("letter", "letter_a", "letter_v", "apple")
    assert {(("red" in t.question), t.answer) for t in turns} == {(True, "A"), (False, "V")}
    assert {t.answer for t in asked("letter", "letter_a", "letter_v", "red_cube")} == {"V"}  # a red block without one


def test_comparisons_and_colours_of_two() -> None:
    for turn in asked("compare", "carrot", "plum", "bottle"):
        sizes = {"carrot": 0.1248, "plum": 0.0364, "bottle": 0.0362}
        if "longer" in turn.question:
            assert turn.answer == "carrot"
        elif "taller" in turn.question:
            assert turn.answer == "bottle" or "bottle" not in turn.question
        elif "shorter" in turn.question:
            assert sizes[turn.answer] < 0.04
    for turn in asked("same", "banana", "lemon", "plum"):
        assert turn.answer == ("no" if "plum" in turn.question else "yes")


def test_any_is_answered_both_ways() -> None:
    turns = asked("any", "banana", "sponge")
    answers = {turn.answer for turn in turns}
    assert answers == {"yes", "no"}
    for turn in turns:
        truths = {"fruit": "yes", "to eat": "yes", "yellow": "yes", "toy": "no", "drink": "no", "red": "no"}
        assert all(turn.answer == truth for word, truth in truths.items() if word in turn.question), turn


def test_splits_ask_in_different_words(catalog: Catalog) -> None:
    forms = {
        split: {t.form for seed in range(60) for t in conversation(VISIBLE, catalog, seed, 6, split)}
        for split in ("train", "validation", "test")
    }
    assert not forms["train"] & forms["test"] and not forms["train"] & forms["validation"]
    assert len(forms["test"]) > 10


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
