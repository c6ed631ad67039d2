"""Scores of answers, on examples worked out by hand from the published definitions."""

from __future__ import annotations

import pytest

from app.vqa_metrics import anls, chosen, edit_distance, exact, relaxed


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("The red can.", ["red can"], 1),
        ("red cans", ["red can"], 0),
        (" YES\n", ["no", "yes"], 1),
        ("it's", ["its"], 1),
        ("3.5", ["35"], 0),
        ("3.5%", ["3.5"], 1),
        ("-3", ["3"], 0),
        ("1,000.", ["1,000"], 1),
        ("", ["yes"], 0),
        ("theatre", ["atre"], 0),
    ],
)
def test_exact_match_forgives_case_articles_and_punctuation(said: str, answers: list[str], score: float) -> None:
    assert exact(said, answers) == score


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("105", ["100"], 1),
        ("105.1", ["100"], 0),
        ("95", ["100"], 1),
        ("-95", ["-100"], 1),
        ("10%", ["0.1"], 1),
        ("10%", ["10"], 0),
        ("0", ["0"], 1),
        ("0.01", ["0"], 0),
        ("Blue", ["blue"], 1),
        ("the blue", ["blue"], 0),
        ("3", ["three", "3"], 1),
    ],
)
def test_relaxed_accuracy_allows_five_per_cent(said: str, answers: list[str], score: float) -> None:
    assert relaxed(said, answers) == score


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("carrot", ["Carrot"], 1),
        ("carrots", ["carrot"], 1 - 1 / 7),
        ("cat", ["dog"], 0),
        ("ab", ["ac"], 0),  # a distance of exactly one half gives nothing
        ("abc", ["abd"], 1 - 1 / 3),
        ("green can", ["bottle", "green  cans"], 0.9),
        ("", [""], 1),
    ],
)
def test_anls_is_one_minus_the_normalised_distance(said: str, answers: list[str], score: float) -> None:
    assert anls(said, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


OPTIONS = {"A": "a carrot", "B": "a mug", "C": "a red mug", "D": "nothing"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("(C) a red mug", "C"),
        ("The answer is D.", "D"),
        ("A", "A"),
        ("A mug, so B", "B"),
        ("It is the carrot", "A"),
        ("a mug", "B"),
        ("a red mug", "C"),
        ("B or C", ""),
        ("a carrot or nothing", ""),
        ("Definitely", ""),
    ],
)
def test_an_option_is_chosen_by_letter_or_by_text(said: str, letter: str) -> None:
    assert chosen(said, OPTIONS) == letter
