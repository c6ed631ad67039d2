"""The first tab's handlers without a browser: a model that is loading, one that failed, a disk that is full."""

from __future__ import annotations

import gc
import json
import random
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import scenes
from app.controller import Simulator, ThinkingPolicy
from app.events import Failure, Planned, Steered, ThoughtDone, ThoughtStarted, ThoughtToken
from app.page import build, model_badge
from app.pilots import Expert, State, Turn
from app.recording import Recording
from app.sessions import Sessions
from app.views.command import Tab, validate, validate_words
from app.views.layout import Widgets, layout, plain
from app.views.screen import Screen
from sim.disturb import Disturbance
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

    def disturb(self, change: Disturbance) -> Observation:
        observation = super().disturb(change)
        self.last_jpeg = jpeg(200)
        return observation


class DrawnPool(FakePool):
    def lease(self) -> FakeSimulator:
        self.out.append(DrawnSimulator())
        return self.out[-1]


class FakePilot:
    """A model in whatever state a test wants. Asked, it repeats the question word by word."""

    pictures = 1
    points = True
    fingerprint = "0123abcd"

    def __init__(self, state: State = "ready", error: str | None = None) -> None:
        self.name, self.state, self.error = "nano", state, error

    def start(self) -> None:
        self.started = True

    def retry(self) -> None:
        self.retried = True

    def describe(self) -> str:
        return "nano, trained on <tables>"

    def policy(self, simulator: Simulator, spec: SceneSpec, think: bool) -> ThinkingPolicy:
        return Expert(simulator, spec, think)

    def ask(self, image: Image | Sequence[Image], question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        self.asked = ([each.shape for each in image], question, list(history))
        yield from (f"{word} " for word in question.split())


def tab(pilot: FakePilot, recordings: Path) -> tuple[Tab, Widgets, Sessions]:
    sessions = Sessions(DrawnPool(), size=1)
    with gr.Blocks():
        widgets = layout(pilot, [])
    return Tab(widgets, pilot, sessions, recordings), widgets, sessions


def rollout(handlers: Tab, words: str = "open it") -> Iterator[dict[Any, Any]]:
    return handlers.rollout("open", 3, [], words, True, REQUEST)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("leave", ["stop", "close the tab"])
def test_stop_lets_go_of_policy_and_simulator_within_one_control_step(leave: str, tmp_path: Path) -> None:
    class Watched(FakePilot):
        def policy(self, simulator: Simulator, spec: SceneSpec, think: bool) -> ThinkingPolicy:
            policy = Expert(simulator, spec, think)
            self.simulator, self.made = simulator, weakref.ref(policy)
            return policy

    pilot = Watched()
    handlers, widgets, sessions = tab(pilot, tmp_path)
    running, steps = rollout(handlers), -1
    for update in running:
        if steps < 0 and "Step 2" in str(update.get(widgets.status)):
            steps = pilot.simulator.steps  # type: ignore[attr-defined]
            if leave == "stop":
                handlers.stop(REQUEST)  # type: ignore[arg-type]
            else:
                sessions.stop(REQUEST.session_hash)
                running.close()  # type: ignore[attr-defined]
    assert steps == 2 and pilot.simulator.steps <= steps + 1  # type: ignore[attr-defined]
    gc.collect()
    assert pilot.made() is None and sessions.holding == 0


@pytest.mark.parametrize("words", ["öffne die Schublade", "把胡萝卜放在盘子上", "<b>pick</b>", "x" * 500])
def test_words_of_any_script_are_accepted(words: str) -> None:
    assert all(verdict["is_valid"] for verdict in validate("open", 3, [], words, True))


@pytest.mark.parametrize("words", ["", None, "\n\t", "!!", "x" * 501])
def test_bad_words_are_refused_with_a_reason(words: str | None) -> None:
    verdict = validate("open", 3, [], words, True)[3]
    assert not verdict["is_valid"] and verdict["message"]


@pytest.mark.parametrize("seed", [None, -1, 2_000_000, 1.5])
def test_scenes_that_do_not_exist_are_refused(seed: float | None) -> None:
    assert not validate("open", seed, [], "open it", True)[1]["is_valid"]


def test_typed_text_never_becomes_markup() -> None:
    assert plain("a<b> *c* [d](e)") == "a&#60;b&#62; &#42;c&#42; &#91;d&#93;&#40;e&#41;"


def test_odds_come_from_the_evaluation_or_say_that_there_is_none(tmp_path: Path) -> None:
    assert "not measured yet" in scenes.odds("put_on", str(tmp_path))
    row = {"name": "put_on", "successes": 14, "episodes": 20, "wilson_low": 0.481, "wilson_high": 0.855}
    (tmp_path / "evaluation.json").write_text(json.dumps({"tasks": [row]}))
    told = scenes.odds("put_on", str(tmp_path))
    assert told == "Put on: solved 14 of 20 unseen scenes (95 % interval 48\u201386 %)."
    assert "not measured yet" in scenes.odds("stack", str(tmp_path))
    free = {"episodes": 3, "tasks": [{"successes": 1}, {"successes": 0}, {"successes": 1}]}
    (tmp_path / "instruct-on.json").write_text(json.dumps(free))
    assert scenes.odds("put_on", str(tmp_path)) == f"{told} Of 3 unseen requests in free words it solved 2."
    assert "expert" in scenes.odds("stack", "expert")


def test_only_the_rollout_is_a_public_endpoint(tmp_path: Path) -> None:
    page = build(FakePilot(), Sessions(DrawnPool(), size=1), tmp_path)
    assert list(page.get_api_info()["named_endpoints"]) == [
        "/list_scenes", "/run_rollout", "/evaluate_pair", "/ask_image"
    ]  # fmt: skip


def test_pause_step_and_resume_are_followed_said_and_recorded(tmp_path: Path) -> None:
    handlers, widgets, _ = tab(FakePilot(), tmp_path)
    updates, labels = [], []
    for update in rollout(handlers):
        updates.append(update)
        if len(updates) == 3:
            handlers.pause("Pause", REQUEST)  # type: ignore[arg-type]
        if label := update.get(widgets.pause):
            labels.append(label.value)
            if label.value == "Resume" and labels.count("Resume") == 1:
                assert "Paused" in update[widgets.status] and update[widgets.thought].startswith("Scripted expert")
                handlers.step(REQUEST)  # type: ignore[arg-type]
            elif label.value == "Resume":
                handlers.tell("shut it", REQUEST)  # type: ignore[arg-type]
                handlers.rethink("I will shut it", REQUEST)  # type: ignore[arg-type]
                handlers.pause("Resume", REQUEST)  # type: ignore[arg-type]
    assert labels == ["Pause", "Resume", "Resume", "Pause", "Pause"]
    assert "Success" in said(updates, widgets.status)[-1]
    log = said(updates, widgets.thoughts)[-1]
    assert "New instruction:" in log and "Thought edited, refused:" in log and "does not act on thoughts" in log
    (recording,) = (Recording(folder) for folder in tmp_path.iterdir())
    orders = [event.order for event in recording.events() if isinstance(event, Steered)]
    assert orders == ["pause", "step", "instruct", "rethink", "resume"]


def test_the_scene_is_changed_on_demand_and_the_camera_shows_it(tmp_path: Path) -> None:
    handlers, widgets, _ = tab(FakePilot(), tmp_path)
    cameras, told, asked = 0, "", False
    for update in rollout(handlers):
        if "Step 2" in str(update.get(widgets.status)) and not asked:
            handlers.disturb("change the light", REQUEST)  # type: ignore[arg-type]
            asked = True
        told = str(update.get(widgets.thoughts, told))
        if "Scene changed" in told and widgets.camera in update:
            cameras += 1
    assert "change the light" in told and cameras >= 2, "one picture of the change, others of the steps after it"
    (recording,) = (Recording(folder) for folder in tmp_path.iterdir())
    assert [event.order for event in recording.events() if isinstance(event, Steered)] == ["disturb"]


def test_switches_for_where_it_looks_go_where_the_model_does_not_say(tmp_path: Path) -> None:
    screen, (handlers, widgets, _) = Screen(True), tab(FakePilot(), tmp_path)
    for focus, visible in (({"source": (0.5, 0.5), "target": (0.5, 0.5)}, True), (None, False)):
        drawn = handlers._draw(Planned({"flow": 1.0}, focus), screen)
        assert [drawn[switch].visible for switch in (widgets.show_rings, widgets.show_heat)] == [visible] * 2


def test_words_for_a_rollout_that_is_not_there_stay_in_the_box(tmp_path: Path) -> None:
    handlers, _, _ = tab(FakePilot(), tmp_path)
    assert handlers.tell("shut it", REQUEST) == "shut it"  # type: ignore[arg-type]
    assert not validate_words("  ")["is_valid"]


def opened(handlers: Tab, **query: str) -> dict[Any, Any]:
    return handlers.open(SimpleNamespace(session_hash="tab", query_params=query))  # type: ignore[arg-type]


def test_a_link_brings_back_scene_words_mode_and_recording(tmp_path: Path) -> None:
    handlers, widgets, _ = tab(FakePilot(), tmp_path)
    list(handlers.rollout("close", 7, ["light"], "shut *it*", False, REQUEST))  # type: ignore[arg-type]
    (folder,) = tmp_path.iterdir()
    later = FakePilot()
    later.fingerprint = "other"
    handlers, widgets, sessions = tab(later, tmp_path)
    page = opened(handlers, run=folder.name)
    assert page[widgets.family] == "close" and page[widgets.seed] == 7 and page[widgets.look] == ["light"]
    assert page[widgets.words] == "shut *it*" and page[widgets.think] is False
    assert page[widgets.camera] == folder / "poster.jpg" and "Success" in page[widgets.status]
    assert " autoplay " in page[widgets.video] and 'data-video="video"' in page[widgets.timeline]
    assert "weights were others (0123abcd)" in page[widgets.caption] and f"?run={folder.name}" in page[widgets.caption]
    assert "usual light" in page[widgets.odds] and sessions.holding == 0


@pytest.mark.parametrize("link", ["gone-1", "../secret", "/etc/passwd", "a" * 5000, "<b>"])
def test_a_link_that_leads_nowhere_says_so(link: str, tmp_path: Path) -> None:
    handlers, widgets, _ = tab(FakePilot(), tmp_path)
    assert list(opened(handlers, run=link)) == [widgets.status]
    assert "no longer here" in opened(handlers, run=link)[widgets.status]


def test_shipped_rollouts_play_at_a_click(tmp_path: Path) -> None:
    shipped = scenes.shipped_examples()
    with gr.Blocks():
        widgets = layout(FakePilot(), shipped)
    handlers = Tab(widgets, FakePilot(), Sessions(DrawnPool(), size=1), tmp_path, shipped)
    for index, recording in enumerate(shipped):
        assert plain(recording.scene().text) in handlers.pick_shipped(index)[widgets.caption]
    assert opened(handlers)[widgets.caption].startswith("**Example")


def test_five_hundred_wild_instructions_break_no_page(tmp_path: Path) -> None:
    generator = random.Random(0)
    parts = ["<script>", "<new_token_0>", "<|im_end|>", "](x)"]
    parts += ["**", "`", "$$", "\x00", "\x1b[2J", "\u202e", "&lt;", '"', "'"]
    parts += ["把胡萝卜", "ضع", "🥕", "\ud7ff", "-->", "{{x}}", "a" * 50, "\n\n", "%s", "\\"]
    for _ in range(500):
        words = "".join(generator.choices(parts, k=generator.randint(1, 8)))
        screen = Screen(True)
        for event in (ThoughtStarted(0), ThoughtToken(words), ThoughtToken(words, 0.5), ThoughtDone(words)):
            screen.show(event)
        screen.show(Steered("instruct", 1, words))
        screen.show(Failure(words))
        for html in (screen.thoughts, screen.status):
            assert "<script" not in html and html.count("<") == len(re.findall(r"</?(?:div|p|span|b|i)[ >]", html))
        assert not re.search(r"[<>*_`\[\]()$\\]", plain(words))
