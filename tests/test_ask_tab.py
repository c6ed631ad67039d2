"""The Ask tab's handlers without a browser: several turns, stopping, bad pictures, models that cannot answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest

from app.pilots import Scripted, Turn
from app.views import ask
from app.views.ask import Tab, picture_problem, validate
from tests.test_page_states import FakePilot
from tests.test_recording import jpeg

REQUEST: Any = SimpleNamespace(session_hash="tab")
OTHER: Any = SimpleNamespace(session_hash="other")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.jpg"
    path.write_bytes(jpeg(0))
    return str(path)


def last(updates: list[Any]) -> tuple[str, list[Turn]]:
    """The last message of the chat and the turns the page remembers."""
    chat, turns, *_ = updates[-1]
    return chat[-1]["content"], turns


def test_an_answer_grows_word_by_word_and_is_remembered(picture: str) -> None:
    updates = list(Tab(FakePilot()).ask(picture, [], " is it red? ", [], REQUEST))
    answers = [chat[-1]["content"].strip() for chat, *_ in updates]
    assert answers == ["…", "is", "is it", "is it red?", "is it red?"]
    assert updates[-1][0][0] == {"role": "user", "content": "is it red?"}
    assert last(updates)[1] == [("is it red?", "is it red?")]
    assert updates[-1][3].interactive and not updates[-1][4].interactive


def test_the_model_is_reminded_of_the_last_turns_only(picture: str) -> None:
    pilot = FakePilot()
    turns = [(f"question {i}", f"answer {i}") for i in range(9)]
    updates = list(Tab(pilot).ask(picture, [], "and now?", turns, REQUEST))
    assert pilot.asked == ([(47, 64, 3)], "and now?", turns[-ask.REMEMBERED :])
    assert len(updates[-1][0]) == 20, "the chat shows them all"


def test_stop_keeps_the_words_so_far_and_reaches_only_its_own_tab(picture: str) -> None:
    tab = Tab(FakePilot())
    running = tab.ask(picture, [], "one two three four", [], REQUEST)
    updates = [next(running), next(running)]
    tab.stop(OTHER)
    updates.append(next(running))
    tab.stop(REQUEST)
    updates += list(running)
    said, turns = last(updates)
    assert said == "one two  … (stopped)" and turns == [("one two three four", said)]
    tab.stop(REQUEST)  # nothing runs: harmless


@pytest.mark.parametrize(
    ("pilot", "sentence"),
    [
        (FakePilot("loading"), "still loading"),
        (FakePilot("failed", "No weights."), 'No weights. Run "python app.py doctor"'),
        (Scripted(), "answers no questions"),
    ],
)
def test_what_cannot_answer_says_so_and_remembers_nothing(pilot: Any, sentence: str, picture: str) -> None:
    said, turns = last(list(Tab(pilot).ask(picture, [], "what is it?", [], REQUEST)))
    assert sentence in said and turns == []


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("is <b>it</b> red & big?", "is &lt;b>it&lt;/b> red & big?"),
        ("5 < 6 & 7 > 2", "5 < 6 & 7 > 2"),
        ("&lt; is no sign", "&amp;lt; is no sign"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
    ],
)
def test_what_is_typed_is_shown_as_it_stands(typed: str, shown: str) -> None:
    assert ask.conversation([(typed, typed)])[0]["content"] == ask.conversation([], "", typed)[1]["content"] == shown


def test_no_picture_and_bad_pictures_are_said_plainly(tmp_path: Path) -> None:
    bad = tmp_path / "picture.png"
    bad.write_text("no picture")
    assert "Choose a picture first" in last(list(Tab(FakePilot()).ask(None, [], "what?", [], REQUEST)))[0]
    assert "not a picture" in last(list(Tab(FakePilot()).ask(str(bad), [], "what?", [], REQUEST)))[0]
    assert "not a picture" in picture_problem(str(bad)) and "not a picture" not in picture_problem(None)


def test_a_bug_becomes_a_plain_line(picture: str, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakePilot):
        def ask(self, *_: Any, **__: Any) -> Any:
            raise KeyError("secret")

    said, _ = last(list(Tab(Buggy()).ask(picture, [], "what?", [], REQUEST)))
    assert "Something broke" in said and "secret" not in said and "secret" in caplog.text


@pytest.mark.parametrize("question", ["", None, "?!", "x" * 501])
def test_questions_that_are_none_are_refused(question: str | None) -> None:
    assert not validate(None, [], question, [])[2]["is_valid"]


def test_several_pictures_are_asked_about_in_order_where_the_model_can(picture: str, tmp_path: Path) -> None:
    pilot = FakePilot()
    pilot.pictures = 3
    tab, other = Tab(pilot), tmp_path / "other.png"
    PIL.Image.new("RGB", (20, 10)).save(other)
    kept, shown, box, problem, *_ = tab.add(picture, [])
    assert (kept, box, problem, shown.visible) == ([picture], None, "", True)
    assert tab.add(None, kept)[0] == kept, "an empty box adds nothing"
    list(tab.ask(str(other), kept, "which?", [], REQUEST))
    assert pilot.asked[0] == [(47, 64, 3), (10, 20, 3)]
    list(tab.ask(None, kept, "which?", [], REQUEST))
    assert pilot.asked[0] == [(47, 64, 3)]
    full = tab.add(str(other), [picture, picture])
    assert full[0] == [picture, picture] and full[2] == str(other) and "3 pictures at most" in full[3]
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    assert tab.add(str(bad), [])[0] == [] and "not a picture" in tab.add(str(bad), [])[3]


def test_the_tab_says_what_the_model_has_seen_and_what_not() -> None:
    pilot = FakePilot()
    assert "nano, trained on &lt;tables&gt;" in ask.knows(pilot) and "it guesses" in ask.knows(pilot)
    assert "one picture at a time" in ask.knows(pilot)
    pilot.pictures = 4
    assert "one picture" not in ask.knows(pilot)
    assert "it guesses" not in ask.knows(Scripted())
