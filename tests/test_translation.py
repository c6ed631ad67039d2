"""The page in Chinese: every text of the interface has a translation, and none that is left has lost its English."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app import page
from app.page import CHINESE
from app.sessions import Sessions
from app.views.benchmark import published_tables, tables
from tests.test_page_states import DrawnPool, FakePilot

ROOT = Path(__file__).resolve().parents[1]
DICTIONARY: dict[str, str] = json.loads(CHINESE.read_text(encoding="utf-8"))
SPOKEN_TO_THE_MODEL = {"examples", "questions", "gallery", "words", "pictures"}
"""Elements whose texts are instructions, questions and names of recordings: the model reads English."""
PROPERTIES = ("label", "info", "placeholder", "title")
SHOWN_BY = {"status", "failure", "complaint", "thoughts_hint", "heading", "Busy", "ValueError", "_Refused", "Failure",
            "WorkerError", "RecordingError"}  # fmt: skip
"""What is called with a text that visitors read."""
TELLS = re.compile(r"views/(?!benchmark)|scenes\.py")
"""Where functions return such texts."""
SPEAKING = [*sorted((ROOT / "app" / "views").glob("*.py")),
            *(ROOT / "app" / f"{name}.py" for name in ("pictures", "pilots", "sessions", "scenes"))]  # fmt: skip


class Texts(HTMLParser):
    """Text nodes and readable attributes of a piece of HTML, but for what is marked as not to be translated."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._kept: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if self._kept or given.get("translate") == "no" or tag in ("code", "cite"):
            self._kept.append(tag)
        else:
            names = ("aria-label",) if "aria-label" in given else ("title", "alt", "placeholder")
            self.found += [given[name] or "" for name in names if name in given]

    def handle_endtag(self, tag: str) -> None:
        if self._kept:
            self._kept.pop()

    def handle_data(self, data: str) -> None:
        if not self._kept:
            self.found.append(data)


def in_html(text: str) -> list[str]:
    """Texts of a piece of HTML or Markdown, without the visitor's words in quotation marks."""
    parser = Texts()
    plain = re.sub(r"\[(.+?)\]\(.+?\)|\*\*(.+?)\*\*|\n\n", r"<p>\1\2</p>", text)
    parser.feed(re.sub("\u201c.*?\u201d", "", plain))
    return parser.found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recordings = tmp_path_factory.mktemp("recordings")
    return page.build(FakePilot(), Sessions(DrawnPool(), size=1), recordings).get_config_file()


def on_the_page(config: dict[str, Any]) -> Iterator[str]:
    """Texts of the page as it is built, before anything happens."""
    for component in config["components"]:
        props, kind = component["props"], component["type"]
        yield from (props[name] for name in PROPERTIES if isinstance(props.get(name), str))
        value = props.get("value")
        if kind in ("button", "downloadbutton", "html", "markdown") and isinstance(value, str):
            yield from in_html(value)
        if props.get("elem_id") not in SPOKEN_TO_THE_MODEL:
            yield from (choice[0] for choice in props.get("choices") or [] if not choice[0].startswith("SimplerEnv: "))
            yield from props.get("headers") or []


def in_the_source(path: Path) -> Iterator[str]:
    """Texts that a module hands to what shows them, with {} for what changes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in SHOWN_BY:
                yield from (text for argument in node.args for text in written(argument))
            elif called == "Button" and node.args:
                yield from written(node.args[0])
        elif isinstance(node, ast.Return) and node.value is not None and TELLS.search(path.as_posix()):
            yield from written(node.value)


def written(node: ast.expr) -> Iterator[str]:
    """The texts an expression may be; an f-string's values become {}."""
    match node:
        case ast.Constant(value=str(text)):
            yield from in_html(text)
        case ast.JoinedStr(values=parts):
            whole = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)  # type: ignore[misc]
            yield from in_html(whole)
        case ast.IfExp(body=first, orelse=second):
            yield from [*written(first), *written(second)]
        case ast.BinOp(left=first, right=second):
            yield from [*written(first), *written(second)]


def pattern(key: str) -> re.Pattern[str]:
    """As `app/translate.js` reads a key of the dictionary."""
    number = r"([\d.,]+|\{\})"  # in the source {} may be one
    return re.compile(re.escape(key).replace(r"\{\}", "(.+?)").replace(r"\{n\}", number), re.DOTALL)


PATTERNS = [pattern(key) for key in DICTIONARY]


def translated(text: str) -> bool:
    """Whether a text, or each of its sentences, is in the dictionary."""
    text = " ".join(text.split())
    if not re.search(r"[A-Za-z]{2}", text.replace("{}", "")):
        return True
    if any(found.fullmatch(text) for found in PATTERNS):
        return True
    sentences = re.split(r"(?<=[.!?:]) ", text)
    return len(sentences) > 1 and all(translated(sentence) for sentence in sentences)


def missing(texts: Iterator[str] | list[str]) -> list[str]:
    return sorted({text.strip() for text in texts if not translated(text)})


NAMES = {FakePilot().describe(), "SimplerEnv", "SimplerEnv-Instruct", "WidowX", "ANLS"}


def test_every_text_of_the_page_has_a_translation(config: dict[str, Any]) -> None:
    assert [text for text in missing(on_the_page(config)) if text not in NAMES] == []


def test_every_text_of_the_tables_has_a_translation() -> None:
    labels = re.compile(r' aria-label="[^"]*"')
    for html in (tables("nano"), published_tables()):
        assert [text for text in missing(in_html(labels.sub("", html))) if text not in NAMES] == []


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: path.name)
def test_every_message_has_a_translation(path: Path) -> None:
    assert missing(in_the_source(path)) == []


@pytest.mark.parametrize("key", DICTIONARY)
def test_a_translation_uses_what_changes_and_is_chinese(key: str) -> None:
    translation = DICTIONARY[key]
    named = [int(number) for number in re.findall(r"\{(\d)\}", translation)]
    count = key.count("{}") + key.count("{n}")
    assert set(named) <= set(range(count)) if named else translation.count("{}") == count
    assert re.search(r"[\u4e00-\u9fff]", translation) or not re.search(r"[A-Za-z]{2}", re.sub(r"\{n?\}", "", key))
