"""First tab: choose a scene, say what to do, watch it happen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from app import controller, scenes
from app.events import Command, Event, Failure, Frame, SceneReady
from app.pilots import Pilot
from app.recording import Recorder, RecordingError
from app.sessions import Busy, Hold, Sessions
from app.views.layout import Widgets, caption_of, goal_line, layout
from app.views.screen import Screen, failure, status
from app.views.widgets import HIDDEN, Updates, camera_picture
from sim.tasks import Kind, SceneSpec
from sim.worker import WorkerError

log = logging.getLogger(__name__)

SIMULATOR_QUEUE = "simulator"
LOADING_POLL_S = 0.2


def build(page: gr.Blocks, pilot: Pilot, sessions: Sessions, recordings: Path) -> Widgets:
    """Lay out the tab inside `page`, which is the surrounding `gr.Blocks`, and wire it up; gives its widgets."""
    example = scenes.shipped_example()
    ui = layout(pilot, example)
    tab = Tab(ui, pilot, sessions, recordings)
    simulated: dict[str, Any] = {
        "concurrency_id": SIMULATOR_QUEUE,
        "concurrency_limit": sessions.size,
        "show_progress": "minimal",
        "show_progress_on": [ui.status],
    }
    picture: dict[str, Any] = simulated | {"api_visibility": "private", "trigger_mode": "always_last"}
    scene = [ui.family, ui.seed]
    described = [ui.words, ui.goal, ui.odds, ui.seed]

    chosen = [
        gr.on(
            [ui.family.input, ui.seed.input],
            tab.describe,
            scene,
            described,
            validator=validate_scene,
            trigger_mode="always_last",  # what is typed while an earlier choice is on its way counts too
            **HIDDEN,
        ),
        ui.shuffle.click(tab.shuffle, ui.family, described, **HIDDEN),
        ui.examples.click(tab.pick_example, ui.examples, [ui.family, *described], **HIDDEN),
    ]
    for choice in chosen:
        choice.success(tab.preview, scene, [ui.camera, ui.status], **picture)
    gr.on(
        [ui.run.click, ui.words.submit],
        tab.rollout,
        [ui.family, ui.seed, ui.words, ui.think],
        [ui.camera, ui.status, ui.thoughts, ui.run, ui.stop, ui.video, ui.caption, ui.save_video, ui.save_log],
        validator=validate,
        trigger_mode="once",
        api_name="rollout",
        api_description="Run one rollout. Inputs: task family, scene number, instruction, think aloud.",
        **simulated,
    )
    if example:  # Gradio serves a video's subtitles only when an event sets them
        page.load(lambda: gr.Video(example.video, subtitles=example.subtitles), None, ui.video, **HIDDEN)
    else:
        page.load(tab.preview, scene, [ui.camera, ui.status], **picture)
    ui.stop.click(tab.stop, None, ui.stop, queue=False, **HIDDEN)
    return ui


class Tab:
    """The handlers: each takes what the visitor chose and gives back what changes on the page."""

    def __init__(self, ui: Widgets, pilot: Pilot, sessions: Sessions, recordings: Path) -> None:
        self._ui = ui
        self._pilot = pilot
        self._sessions = sessions
        self._recordings = recordings

    def describe(self, kind: Kind, seed: float, request: gr.Request) -> Updates:
        """The words that go with a scene."""
        return self._describe(scenes.spec(kind, int(seed)), request)

    def shuffle(self, kind: Kind, request: gr.Request) -> Updates:
        """Another scene of the same family."""
        return self._describe(scenes.spec(kind, scenes.shuffled_seed()), request)

    def pick_example(self, index: int, request: gr.Request) -> Updates:
        """One of the listed scenes with its words."""
        kind, seed, words = scenes.examples()[index]
        return {self._ui.family: kind, **self._describe(scenes.spec(kind, seed, words), request)}

    def _describe(self, spec: SceneSpec, request: gr.Request) -> Updates:
        """Choosing another scene also ends the rollout in the old one."""
        self._sessions.stop(request.session_hash or "")
        ui, kind = self._ui, spec.goal.kind
        return {
            ui.seed: spec.seed,
            ui.words: spec.text,
            ui.goal: goal_line(spec),
            ui.odds: scenes.odds(kind, self._pilot.name),
        }

    def preview(self, kind: Kind, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Set the scene up and take its picture."""
        ui = self._ui
        yield {ui.status: status("Setting up the scene")}
        try:
            with self._sessions.hold(request.session_hash or "") as hold:
                hold.simulator.reset(scenes.spec(kind, int(seed)))
                yield {ui.camera: camera_picture(hold.simulator.last_jpeg), ui.status: status("Ready to run")}
        except (Busy, WorkerError, ValueError) as error:
            yield {ui.status: failure(str(error))}

    def rollout(self, kind: Kind, seed: float, words: str, think: bool, request: gr.Request) -> Iterator[Updates]:
        """Play one rollout, show it while it happens, then its recording."""
        ui, screen = self._ui, Screen(think)
        command = Command(scenes.spec(kind, int(seed), words.strip()), think, int(seed))
        recorder = Recorder(command, self._pilot.describe())
        yield {
            ui.run: gr.Button(interactive=False),
            ui.stop: gr.Button(interactive=True),
            ui.status: screen.status,
            ui.thoughts: screen.thoughts,
        }
        try:
            with self._sessions.hold(request.session_hash or "") as hold:
                yield from self._await_model(hold)
                for event in self._play(command, hold):
                    recorder.add(event)
                    screen.show(event)
                    yield self._draw(event, screen)
        except (Busy, WorkerError) as error:
            yield {ui.status: failure(str(error))}
        yield {ui.stop: gr.Button(interactive=False)}
        if recorder.started:
            yield {ui.caption: "Saving the recording\u2026"}
            yield self._save(recorder)
        yield {ui.run: gr.Button(interactive=True)}

    def stop(self, request: gr.Request) -> gr.Button:
        """Ask the running rollout to stop; it ends within one control step and says so itself."""
        self._sessions.stop(request.session_hash or "")
        return gr.Button(interactive=False)

    def _await_model(self, hold: Hold) -> Iterator[Updates]:
        if self._pilot.state == "loading":
            yield {self._ui.status: status("The model is still loading", "the rollout starts by itself")}
        while self._pilot.state == "loading" and not hold.stop.wait(LOADING_POLL_S):
            pass

    def _play(self, command: Command, hold: Hold) -> Iterator[Event]:
        """The controller's events; what nobody foresaw becomes one plain line here and a traceback in the log."""
        if self._pilot.state == "failed":
            yield Failure(f'{self._pilot.error} Run "python app.py doctor" to see what is missing.')
            return
        if hold.stop.is_set():
            yield Failure("Stopped before the model was loaded.")
            return
        try:
            policy = self._pilot.policy(hold.simulator, command.spec, command.think)
            yield from controller.run(command, hold.simulator, policy, hold.stop)
        except Exception:
            log.exception("a rollout failed")
            yield Failure("Something broke on our side; the server's log says what. Press Run to try again.")

    def _draw(self, event: Event, screen: Screen) -> Updates:
        updates: Updates = {self._ui.status: screen.status}
        if isinstance(event, SceneReady | Frame):
            updates[self._ui.camera] = camera_picture(event.jpeg)
        if not isinstance(event, Frame):
            updates[self._ui.thoughts] = screen.thoughts
        return updates

    def _save(self, recorder: Recorder) -> Updates:
        ui = self._ui
        try:
            recording = recorder.save(self._recordings)
        except RecordingError as error:
            return {ui.caption: str(error)}
        return {
            ui.video: gr.Video(recording.video, subtitles=recording.subtitles),
            ui.caption: caption_of(recording, "Your last rollout."),
            ui.save_video: gr.DownloadButton(value=recording.video, visible=True),
            ui.save_log: gr.DownloadButton(value=recording.log, visible=True),
        }


def validate_scene(kind: Kind, seed: float | None) -> list[dict[str, Any]]:
    """Refuse a scene that does not exist, beside the box it was typed into."""
    problem = scenes.seed_problem(seed)
    return [gr.validate(True, ""), gr.validate(problem is None, problem or "")]


def validate(kind: Kind, seed: float | None, words: str | None, think: bool) -> list[dict[str, Any]]:
    """Refuse bad input in the same way, before anything starts."""
    problem = scenes.words_problem(words)
    return [*validate_scene(kind, seed), gr.validate(problem is None, problem or ""), gr.validate(True, "")]
