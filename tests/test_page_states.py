"""The first tab's handlers without a browser: a model that is loading, one that failed, a disk that is full."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import scenes
from app.controller import Simulator, ThinkingPolicy
from app.page import build, model_badge
from app.pilots import Expert, State, Turn
from app.sessions import Sessions
from app.views.command import Tab, validate
from app.views.layout import Widgets, layout, plain
from sim.interface import Image, Observation
from sim.tasks import SceneSpec
from tests.test_controller import FakeSimulator
from tests.test_recording import jpeg
from tests.test_sessions import FakePool

REQUEST = SimpleNamespace(session_hash="tab")


class DrawnSimulator(FakeSimulator):
    """Frames that are pictures."""

    def _look(self) -> Observation:
        observation = super()._look()
        self.last_jpeg = jpeg(self.steps)
        return observation


class DrawnPool(FakePool):
    def lease(self) -> FakeSimulator:
        self.out.append(DrawnSimulator())
        return self.out[-1]


class FakePilot:
    """A model in whatever state a test wants. Asked, it repeats the question word by word."""

    answers = True

    def __init__(self, state: State = "ready", error: str | None = None) -> None:
        self.name, self.state, self.error = "nano", state, error

    def describe(self) -> str:
        return "nano, trained on <tables>"

    def policy(self, simulator: Simulator, spec: SceneSpec, think: bool) -> ThinkingPolicy:
        return Expert(simulator, spec, think)

    def ask(self, image: Image, question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        self.asked = (image.shape, question, list(history))
        yield from (f"{word} " for word in question.split())


def tab(pilot: FakePilot, recordings: Path) -> tuple[Tab, Widgets, Sessions]:
    sessions = Sessions(DrawnPool(), size=1)
    with gr.Blocks():
        widgets = layout(pilot, None)
    return Tab(widgets, pilot, sessions, recordings), widgets, sessions


def rollout(handlers: Tab, words: str = "open it") -> Iterator[dict[Any, Any]]:
    return handlers.rollout("open", 3, words, True, REQUEST)  # type: ignore[arg-type]


def said(updates: list[dict[Any, Any]], widget: gr.blocks.Block) -> list[Any]:
    return [update[widget] for update in updates if widget in update]


def test_run_waits_for_a_model_that_is_still_loading(tmp_path: Path) -> None:
    pilot = FakePilot("loading")
    handlers, widgets, _ = tab(pilot, tmp_path)
    updates = []
    for update in rollout(handlers):
        updates.append(update)
        if "still loading" in str(update.get(widgets.status)):
            threading.Timer(0.1, setattr, (pilot, "state", "ready")).start()
    lines = said(updates, widgets.status)
    assert "still loading" in lines[1] and "Success" in lines[-1]
    assert len(list(tmp_path.iterdir())) == 1


def test_stop_works_while_waiting_for_the_model(tmp_path: Path) -> None:
    handlers, widgets, sessions = tab(FakePilot("loading"), tmp_path)
    updates = []
    for update in rollout(handlers):
        updates.append(update)
        if "still loading" in str(update.get(widgets.status)):
            handlers.stop(REQUEST)  # type: ignore[arg-type]
    assert "Stopped before the model was loaded" in said(updates, widgets.status)[-1]
    assert sessions.holding == 0


def test_a_model_that_failed_says_why_and_what_mends_it(tmp_path: Path) -> None:
    pilot = FakePilot("failed", "The model could not be loaded: no <file>.")
    handlers, widgets, _ = tab(pilot, tmp_path)
    updates = list(rollout(handlers))
    line = said(updates, widgets.status)[-1]
    assert said(updates, widgets.caption) == [], "the example's caption stays"
    for text in (line, model_badge(pilot)):
        assert "no &lt;file&gt;" in text and "app.py doctor" in text


def test_the_badge_names_the_model_and_its_training() -> None:
    assert "nano, trained on &lt;tables&gt;" in model_badge(FakePilot())
    assert "loading" in model_badge(FakePilot("loading"))


def test_a_recording_that_cannot_be_written_costs_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "recordings"
    blocked.write_text("a file, not a folder")
    handlers, widgets, sessions = tab(FakePilot(), blocked)
    updates = list(rollout(handlers))
    assert "Success" in said(updates, widgets.status)[-1]
    assert said(updates, widgets.caption)[-1].startswith("The recording could not be written")
    assert said(updates, widgets.video) == [] and sessions.holding == 0


def test_a_bug_becomes_a_plain_line_and_frees_the_simulator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class BuggyPilot(FakePilot):
        def policy(self, simulator: Simulator, spec: SceneSpec, think: bool) -> ThinkingPolicy:
            raise KeyError("secret detail")

    handlers, widgets, sessions = tab(BuggyPilot(), tmp_path)
    line = said(list(rollout(handlers)), widgets.status)[-1]
    assert "Something broke on our side" in line and "secret" not in line
    assert "secret detail" in caplog.text and sessions.holding == 0


def test_leaving_in_the_middle_stops_and_frees_the_simulator(tmp_path: Path) -> None:
    """Gradio closes the generator when the tab goes."""
    handlers, widgets, sessions = tab(FakePilot(), tmp_path)
    running = rollout(handlers)
    while widgets.camera not in next(running):
        pass
    assert sessions.holding == 1
    running.close()  # type: ignore[attr-defined]
    assert sessions.holding == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["öffne die Schublade", "把胡萝卜放在盘子上", "<b>pick</b>", "x" * 500])
def test_words_of_any_script_are_accepted(words: str) -> None:
    assert all(verdict["is_valid"] for verdict in validate("open", 3, words, True))


@pytest.mark.parametrize("words", ["", None, "\n\t", "!!", "x" * 501])
def test_bad_words_are_refused_with_a_reason(words: str | None) -> None:
    verdict = validate("open", 3, words, True)[2]
    assert not verdict["is_valid"] and verdict["message"]


@pytest.mark.parametrize("seed", [None, -1, 2_000_000, 1.5])
def test_scenes_that_do_not_exist_are_refused(seed: float | None) -> None:
    assert not validate("open", seed, "open it", True)[1]["is_valid"]


def test_typed_text_never_becomes_markup() -> None:
    assert plain("a<b> *c* [d](e)") == "a&#60;b&#62; &#42;c&#42; &#91;d&#93;&#40;e&#41;"


def test_odds_come_from_the_evaluation_or_say_that_there_is_none(tmp_path: Path) -> None:
    assert "not measured yet" in scenes.odds("put_on", str(tmp_path))
    row = {"name": "put_on", "successes": 14, "episodes": 20, "wilson_low": 0.481, "wilson_high": 0.855}
    (tmp_path / "evaluation.json").write_text(json.dumps({"tasks": [row]}))
    told = scenes.odds("put_on", str(tmp_path))
    assert told == "Put on: solved 14 of 20 unseen scenes (95 % interval 48\u201386 %)."
    assert "not measured yet" in scenes.odds("stack", str(tmp_path))
    assert "expert" in scenes.odds("stack", "expert")


def test_only_the_rollout_is_a_public_endpoint(tmp_path: Path) -> None:
    page = build(FakePilot(), Sessions(DrawnPool(), size=1), tmp_path)
    assert list(page.get_api_info()["named_endpoints"]) == ["/rollout"]
