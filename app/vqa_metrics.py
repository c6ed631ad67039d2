"""How an answer is scored against the reference answers: exact match, relaxed accuracy, ANLS, and chosen options."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

TOLERANCE = 0.05
"""Relative error that relaxed accuracy allows."""
ANLS_THRESHOLD = 0.5
"""Normalised distance from which ANLS gives nothing."""
ARTICLES = ("a", "an", "the")
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
AROUND_NUMBERS = string.punctuation.replace("-", "")


def exact(said: str, answers: Sequence[str]) -> float:
    """1.0 if the normalised answer equals a normalised reference, else 0.0.

    Normalised as for SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250): lower case, no punctuation, no articles, single
    spaces; except that the point and the sign of a number stay, so that 3.5 is not 35.
    """
    return float(any(_normalised(said) == _normalised(answer) for answer in answers))


def relaxed(said: str, answers: Sequence[str]) -> float:
    """1.0 if a reference is met, a number within 5 % of its value, else 0.0.

    ChartQA's relaxed accuracy (Masry et al. 2022, arXiv 2203.10244, after PlotQA): where both are numbers (a percent
    sign divides by 100) and the reference is not zero, the error is relative to the reference; any other answer has to
    be equal, without regard to case.
    """
    return float(any(_close(said.strip(), answer.strip()) for answer in answers))


def anls(said: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one answer, 0.0 to 1.0 (Biten et al. 2019, arXiv 1907.00490).

    The best over the references of 1 - d, where d is the edit distance over the longer length, without regard to case;
    from d = 0.5 on nothing is given. Surrounding space counts for nothing.
    """
    return max(_similar(" ".join(said.lower().split()), " ".join(answer.lower().split())) for answer in answers)


METRICS = {"exact": exact, "relaxed": relaxed, "anls": anls}


def chosen(said: str, options: Mapping[str, str]) -> str:
    """The option's letter that an answer names, or names by its text; empty where it names none or several."""
    letters = {letter for letter in options if re.search(rf"(?<![A-Za-z0-9'’]){letter}(?![A-Za-z0-9'’])", said)}
    if "A" in letters and len(letters) > 1 and re.search(r"(?<![A-Za-z])A [a-z]", said):
        letters.remove("A")  # the article
    if len(letters) == 1:
        return letters.pop()
    texts = {letter for letter, text in options.items() if _normalised(text) == _normalised(said)}
    texts = texts or {letter for letter, text in options.items() if _within(text, said)}
    return texts.pop() if len(texts) == 1 else ""


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions from one text to the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _normalised(text: str) -> str:
    return " ".join(word for word in map(_bare, text.lower().split()) if word and word not in ARTICLES)


def _bare(word: str) -> str:
    """A word without punctuation; of a number what surrounds it goes."""
    number = NUMBER.fullmatch(word.strip(AROUND_NUMBERS))
    return number.group() if number else "".join(letter for letter in word if letter not in string.punctuation)


def _within(text: str, said: str) -> bool:
    return bool(_normalised(text)) and f" {_normalised(text)} " in f" {_normalised(said)} "


def _close(said: str, answer: str) -> bool:
    given, wanted = _number(said), _number(answer)
    if given is not None and wanted:
        return abs(given - wanted) <= TOLERANCE * abs(wanted)
    return said.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _similar(said: str, answer: str) -> float:
    longer = max(len(said), len(answer))
    distance = edit_distance(said, answer) / longer if longer else 0.0
    return 1 - distance if distance < ANLS_THRESHOLD else 0.0
