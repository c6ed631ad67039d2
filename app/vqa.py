"""Questions about pictures, asked and scored: the shipped set, or any file in VLMEvalKit's TSV form.

A file has a line of names and then one question a line, separated by tabs: `index`, `image` (the picture's file as
base64, or the index of the row that holds it), `question`, `answer` (a text, or a list of equally good ones in square
brackets), perhaps `A`, `B`, ... (options; the answer is then a letter), `category` and `hint`.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
import json
import os
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from app.pictures import open_picture
from app.vqa_metrics import METRICS, chosen

if TYPE_CHECKING:
    from app.remote import RemoteEngine
    from model.engine import Engine

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "suites" / "vqa.tsv"
COLUMNS = ("index", "image", "question", "answer")
REFERENCE_LENGTH = 64
"""A shorter text in the column `image` is the index of another row, in VLMEvalKit as here."""
BRIEFLY = "Answer with a single word or a short phrase."
CHOOSE = "Answer with the letter of the right option."
ALL = "all"


@dataclass(frozen=True)
class Item:
    """One question. `images` are picture files as base64; with `options`, `answers` holds their letters."""

    row: int
    index: str
    images: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    options: dict[str, str]
    category: str

    def prompt(self, brief: bool) -> str:
        """What the model reads: the question as it stands, its options, and (`brief`) the wish for a short answer."""
        listed = [f"{letter}. {text}" for letter, text in self.options.items()]
        wish = CHOOSE if listed else BRIEFLY if brief else ""
        return "\n".join(line for line in (self.question, *listed, wish) if line)


@dataclass(frozen=True)
class Answer:
    """What was said to one question, and its scores (0 to 1) by the names of `METRICS`."""

    index: str
    category: str
    question: str
    answers: list[str]
    said: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Score:
    """A mean score with its 95 % Wilson interval, which is wider than need be where scores may lie between 0 and 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Category:
    """One row of the result. `most_frequent` is what always giving the category's commonest answer would score."""

    name: str
    questions: int
    scores: dict[str, Score]
    most_frequent: float


@dataclass(frozen=True)
class VqaReport:
    """The result of `answer_all`; `overall` weighs every question the same."""

    model: str
    suite: str
    brief: bool
    overall: Category
    categories: list[Category]
    answers: list[Answer]

    @classmethod
    def load(cls, path: Path) -> VqaReport:
        """Read what `answer_all` wrote. Raises ValueError for anything else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            overall, *categories = [
                Category(**{**row, "scores": {name: Score(**score) for name, score in row["scores"].items()}})
                for row in [content.pop("overall"), *content.pop("categories")]
            ]
            answers = [Answer(**answer) for answer in content.pop("answers")]
            return cls(overall=overall, categories=categories, answers=answers, **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no scored answers ({type(error).__name__}: {error}).") from None


def read_items(path: Path) -> list[Item]:
    """All questions of a file. Raises `ValueError` naming the row that is wrong, `OSError` where there is no file."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(enumerate(csv.DictReader(file, delimiter="\t"), 2))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is no table of tab-separated text ({error}).") from None
    if not rows:
        raise ValueError(f"{path.name} holds no question: it needs a line of names and then one question a line.")
    absent = [name for name in COLUMNS if name not in rows[0][1]]
    if absent:
        raise ValueError(f"{path.name} has no column {absent[0]!r} (needed: {', '.join(COLUMNS)}).")
    pictures = {cells["index"]: cells["image"] or "" for _, cells in rows}
    items = []
    for number, cells in rows:
        try:
            items.append(_item(number, cells, pictures))
        except ValueError as error:
            raise ValueError(f"{path.name}, row {number}: {error}.") from None
    repeated = [index for index, count in Counter(item.index for item in items).items() if count > 1]
    if repeated:
        second = [item.row for item in items if item.index == repeated[0]][1]
        raise ValueError(f"{path.name}, row {second}: the index {repeated[0]!r} stands in an earlier row too.")
    return items


def _item(row: int, cells: dict[str, str | None], pictures: dict[str | None, str]) -> Item:
    if None in cells or None in cells.values():
        raise ValueError("it does not have as many cells as the line of names")
    text = {name: (value or "").strip() for name, value in cells.items()}
    for name in COLUMNS:
        if not text[name]:
            raise ValueError(f"the column {name!r} is empty")
    options = {letter: text[letter] for letter in string.ascii_uppercase if text.get(letter)}
    answers = _listed(text["answer"])
    if options and not set(answers) <= set(options):
        raise ValueError(f"the answer {text['answer'][:40]!r} is none of the options {', '.join(options)}")
    images = []
    for image in _listed(text["image"]):
        if len(image) <= REFERENCE_LENGTH:
            if len(pictures.get(image, "")) <= REFERENCE_LENGTH:
                raise ValueError(f"there is no picture in the row with the index {image[:40]!r}")
            image = pictures[image]
        try:
            base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the picture is no base64") from None
        images.append(image)
    question = "\n".join(part for part in (text.get("hint", ""), text["question"]) if part)
    return Item(row, text["index"], tuple(images), question, tuple(answers), options, text.get("category") or ALL)


def _listed(text: str) -> list[str]:
    """A cell's texts: one, or those of a list in square brackets."""
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    try:
        values = ast.literal_eval(text)
        if not values or not all(isinstance(value, str | int | float) for value in values):
            raise ValueError
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{text[:40]!r} begins like a list of texts and is none") from None
    return [str(value) for value in values]


def answer_all(
    engine: Engine | RemoteEngine,
    path: Path,
    model: str,
    *,
    brief: bool = False,
    limit: int | None = None,
    workers: int = 1,
    json_path: Path | None = None,
    progress: bool = True,
) -> VqaReport:
    """Ask every question of a file (the first `limit`) and score the answers.

    Args:
        engine: whatever answers, loaded or at an address; it is asked as the Ask tab asks it, each question alone.
        model: what the report calls it; an unfinished run goes on only under the same name.
        brief: ask for short answers, which large models give only when asked.
        workers: questions asked at the same time.
        json_path: where the report goes. Finished answers are kept beside it in `<name>.answers.jsonl` until the run is
            complete, and are not asked for again.

    Raises:
        ValueError: the file, or a picture in it, is not as it should be, or the model cannot answer; names the row.
    """
    items = read_items(path)[:limit]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    head = {"model": model, "suite": path.name, "sha256": digest, "brief": brief}
    kept = json_path.with_suffix(".answers.jsonl") if json_path else None
    finished = _resume(kept, head) if kept else {}
    todo = [item for item in items if item.index not in finished]
    with (
        ThreadPoolExecutor(workers) as threads,
        tqdm(total=len(items), initial=len(items) - len(todo), unit="question", disable=not progress) as bar,
    ):
        try:
            for future in as_completed([threads.submit(_answer, engine, path, item, brief) for item in todo]):
                answer = future.result()
                finished[answer.index] = answer
                if kept:
                    with kept.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(answer)) + "\n")
                bar.update()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    report = summarise(model, path.stem, brief, [finished[item.index] for item in items])
    if json_path and kept:
        partial = json_path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, json_path)
        kept.unlink()
    return report


def _answer(engine: Engine | RemoteEngine, path: Path, item: Item, brief: bool) -> Answer:
    try:
        pictures = [open_picture(base64.b64decode(image)) for image in item.images]
        said = "".join(engine.ask(pictures, item.prompt(brief))).strip()
    except ValueError as error:
        raise ValueError(f"{path.name}, row {item.row}: {error}") from None
    counted = chosen(said, item.options) if item.options else said
    scores = {name: metric(counted, item.answers) for name, metric in METRICS.items()}
    return Answer(item.index, item.category, item.question, list(item.answers), said, scores)


def _resume(kept: Path, head: dict[str, object]) -> dict[str, Answer]:
    """Answers of an unfinished run of the same model and file; begins the journal where there is none."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    if lines and json.loads(lines[0]) != head:
        raise ValueError(f"{kept} holds answers of another model or file: delete it, or choose another --json.")
    whole = [line for line in lines[1:] if line.endswith("}")]  # a killed run may leave half a line
    kept.write_text("".join(line + "\n" for line in [json.dumps(head), *whole]), encoding="utf-8")
    return {answer.index: answer for answer in (Answer(**json.loads(line)) for line in whole)}


def summarise(model: str, suite: str, brief: bool, answers: Sequence[Answer]) -> VqaReport:
    """Means and intervals of finished answers, per category and over all."""
    names = sorted({answer.category for answer in answers})
    categories = [_category(name, [answer for answer in answers if answer.category == name]) for name in names]
    return VqaReport(model, suite, brief, _category(ALL, answers), categories, list(answers))


def _category(name: str, answers: Sequence[Answer]) -> Category:
    from sim.evaluate import wilson

    count = len(answers)
    totals = {metric: sum(answer.scores[metric] for answer in answers) for metric in METRICS}
    scores = {metric: Score(total / count, *wilson(total, count)) for metric, total in totals.items()}
    per_category = [
        Counter(answer.answers[0].lower() for answer in answers if answer.category == category).most_common(1)[0][1]
        for category in {answer.category for answer in answers}
    ]
    return Category(name, count, scores, sum(per_category) / count)


def table(report: VqaReport) -> Iterator[str]:
    """The report as lines for standard output."""
    yield f"{report.model} on {report.suite}: {report.overall.questions} questions, mean and 95 % interval"
    yield f"{'category':<16}{'questions':>10}{'exact match':>22}{'relaxed':>22}{'ANLS':>22}{'commonest answer':>18}"
    for row in [*report.categories, report.overall]:
        scores = (f"{score.mean:.1%} ({score.low:.0%} - {score.high:.0%})" for score in row.scores.values())
        yield f"{row.name:<16}{row.questions:>10}" + "".join(f"{score:>22}" for score in scores) + (
            f"{row.most_frequent:>18.1%}"
        )
