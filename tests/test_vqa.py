"""Sets of questions: the shipped one, files of others, broken files, and runs that stop half way."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app.cli as cli
from app.vqa import BRIEFLY, SHIPPED, answer_all, read_items, table
from sim.evaluate import wilson
from sim.interface import Image
from tests.test_recording import jpeg
from tests.test_remote import served

PICTURE = base64.b64encode(jpeg(0)).decode()
HEAD = "index\timage\tquestion\tanswer\tA\tB\tcategory"
ROWS = [
    f"1\t{PICTURE}\tWhat is it?\t['a cup', 'mug']\t\t\tname",
    "2\t1\tHow many?\t100\t\t\tcount",
    "3\t1\tWhich one?\tB\tred\tblue\tchoice",
    "4\t1\tHow many now?\t4\t\t\tcount",
]


class Parrot:
    """Answers each question with what a test wants it to say."""

    name, pictures = "parrot", 1

    def __init__(self, **said: str) -> None:
        self.said, self.asked = said, Counter[str]()

    def ask(self, image: Image | Sequence[Image], question: str, **_: Any) -> Iterator[str]:
        assert all(np.asarray(each).shape == (47, 64, 3) for each in image)
        self.asked[question] += 1
        first = question.split("\n")[0]
        if self.said.get(first) == "BREAK":
            raise ValueError("The model lost its thread.")
        yield from self.said.get(first, "no idea")

    def describe(self) -> str:
        return "a parrot"

    def fingerprint(self) -> str:
        return "f" * 64


RIGHT = {"What is it?": "A mug.", "How many?": "103", "Which one?": "the blue one", "How many now?": "5"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, ROWS)


def written(folder: Path, rows: Sequence[str], head: str = HEAD) -> Path:
    path = folder / "set.tsv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def test_answers_are_scored_per_category_with_intervals(file: Path, tmp_path: Path) -> None:
    report = answer_all(Parrot(**RIGHT), file, "parrot", json_path=tmp_path / "out.json", progress=False)  # type: ignore[arg-type]
    by_name = {category.name: category for category in report.categories}
    assert {name: category.questions for name, category in by_name.items()} == {"choice": 1, "count": 2, "name": 1}
    assert by_name["count"].scores["exact"].mean == 0 and by_name["count"].scores["relaxed"].mean == 0.5
    assert by_name["choice"].scores["anls"].mean == by_name["name"].scores["exact"].mean == 1
    assert by_name["count"].scores["anls"].mean == pytest.approx((2 / 3 + 0) / 2)
    relaxed = report.overall.scores["relaxed"]
    assert (relaxed.low, relaxed.high) == wilson(2, 4) and relaxed.mean == 0.5
    assert report.overall.most_frequent == 0.75, "one of the two counts, and both others"
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["overall"]["questions"] == 4 and [answer["said"] for answer in kept["answers"]] == list(RIGHT.values())
    assert len(list(table(report))) == 2 + 3 + 1


def test_a_model_at_an_address_is_asked_alike(file: Path, tmp_path: Path) -> None:
    from app.remote import RemoteEngine

    with served(Parrot(**RIGHT)) as address:
        there = answer_all(RemoteEngine(address), file, "parrot", workers=2, progress=False)
    assert there == answer_all(Parrot(**RIGHT), file, "parrot", progress=False)  # type: ignore[arg-type]


def test_options_and_the_wish_for_a_short_answer_are_in_the_prompt(file: Path) -> None:
    parrot = Parrot()
    answer_all(parrot, file, "parrot", brief=True, limit=3, progress=False)  # type: ignore[arg-type]
    assert f"How many?\n{BRIEFLY}" in parrot.asked
    assert "Which one?\nA. red\nB. blue\nAnswer with the letter of the right option." in parrot.asked
    answer_all(parrot, file, "parrot", limit=2, progress=False)  # type: ignore[arg-type]
    assert parrot.asked["How many?"] == 1 and "How many now?" not in parrot.asked


def test_a_run_that_stopped_goes_on_where_it_was(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(ValueError, match=r"set\.tsv, row 4: The model lost its thread"):
        answer_all(Parrot(**{**RIGHT, "Which one?": "BREAK"}), file, "parrot", json_path=out, progress=False)  # type: ignore[arg-type]
    kept = out.with_suffix(".answers.jsonl")
    kept.write_text(kept.read_text() + '{"index": "4", "sa')  # as if killed while writing
    with pytest.raises(ValueError, match="holds answers of another model"):
        answer_all(Parrot(), file, "another", json_path=out, progress=False)  # type: ignore[arg-type]
    again = Parrot(**RIGHT)
    report = answer_all(again, file, "parrot", json_path=out, progress=False)  # type: ignore[arg-type]
    assert again.asked["What is it?"] == 0 and sum(again.asked.values()) == 2
    assert report == answer_all(Parrot(**RIGHT), file, "parrot", progress=False)  # type: ignore[arg-type]
    assert out.exists() and not kept.exists()


@pytest.mark.parametrize(
    ("head", "row", "sentence"),
    [
        (HEAD, None, "holds no question"),
        ("index\timage\tquestion", f"1\t{PICTURE}\twhat?", "no column 'answer'"),
        (HEAD, f"1\t{PICTURE}\twhat?\tcup\t\t", "row 2: it does not have as many cells"),
        (HEAD, f"1\t{PICTURE}\t \tcup\t\t\tx", "row 2: the column 'question' is empty"),
        (HEAD, "1\t7\twhat?\tcup\t\t\tx", "row 2: there is no picture in the row with the index '7'"),
        (HEAD, f"1\t{'?' * 99}\twhat?\tcup\t\t\tx", "row 2: the picture is no base64"),
        (HEAD, f"1\t{PICTURE}\twhat?\t[1, oops]\t\t\tx", r"row 2: '\[1, oops\]' begins like a list"),
        (HEAD, f"1\t{PICTURE}\twhat?\t[]\t\t\tx", r"row 2: '\[\]' begins like a list"),
        (HEAD, f"1\t{PICTURE}\twhat?\tC\tred\tblue\tx", "row 2: the answer 'C' is none of the options A, B"),
        (HEAD, f"1\t{PICTURE}\ta?\tcup\t\t\tx\n1\t{PICTURE}\tb?\tcup\t\t\tx", "row 3: the index '1' stands in an"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_row(tmp_path: Path, head: str, row: str | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_items(written(tmp_path, [row] if row else [], head))


def test_a_broken_picture_is_named_by_its_row(tmp_path: Path) -> None:
    path = written(tmp_path, [f"1\t{base64.b64encode(bytes(99)).decode()}\twhat?\tcup\t\t\tx"])
    with pytest.raises(ValueError, match=r"set\.tsv, row 2: This is not a picture"):
        answer_all(Parrot(), path, "parrot", progress=False)  # type: ignore[arg-type]


def test_the_command_asks_scores_and_writes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load", lambda name: Parrot(**RIGHT))
    monkeypatch.setattr(sys, "argv", ["app.py", "evaluate", "--suite", str(file), "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "generalist (ffffffff) on set: 4 questions" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["model"] == "generalist (ffffffff)"
    for arguments, sentence in [
        (["--suite", "none.tsv"], "There is no file none.tsv"),
        (["--suite", "vqa", "--model", "expert"], "expert is no model"),
        (["--suite", "vqa", "--steps", "3"], "A set of questions takes"),
    ]:
        monkeypatch.setattr(sys, "argv", ["app.py", "evaluate", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        assert sentence in capsys.readouterr().err


def test_the_shipped_set_is_balanced_held_out_and_small() -> None:
    items = read_items(SHIPPED)
    kinds = Counter(item.category for item in items)
    assert len(items) >= 300 and len(kinds) >= 14 and min(kinds.values()) >= 10
    assert SHIPPED.stat().st_size < 2_000_000
    yes_no = Counter(item.answers for item in items if item.answers in (("yes",), ("no",)))
    assert 0.35 < yes_no[("yes",)] / sum(yes_no.values()) < 0.65
