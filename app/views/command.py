"""First tab: choose a scene, say what to do, watch it happen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import controller, scenes
from app.events import (
    Command,
    Event,
    Failure,
    Frame,
    Outcome,
    Planned,
    SceneReady,
    Steered,
    StepTiming,
    ThoughtStarted,
)
from app.exporting import as_lerobot, stretches
from app.pilots import Pilot, problem_when_loaded
from app.recording import Recorder, Recording, RecordingError, find
from app.sessions import Busy, Hold, Sessions
from app.timeline import timeline
from app.views.layout import EXAMPLE, PAUSE, RESUME, Widgets, caption_of, changes, goal_line, layout
from app.views.screen import Screen, failure, status
from app.views.widgets import FINE, HIDDEN, SIMULATOR_QUEUE, Updates, camera_picture, player
from sim.tasks import Variation
from sim.twins import Scene
from sim.worker import WorkerError

log = logging.getLogger(__name__)


DOWNLOAD = "() => setTimeout(() => document.getElementById('exported').click(), 200)"
"""Fetches a file that was not there when its button was pressed."""


def build(page: gr.Blocks, pilot: Pilot, sessions: Sessions, recordings: Path) -> Widgets:
    """Lay out the tab inside `page`, which is the surrounding `gr.Blocks`, and wire it up; gives its widgets."""
    shipped = scenes.shipped_examples()
    ui = layout(pilot, shipped)
    tab = Tab(ui, pilot, sessions, recordings, shipped)
    simulated: dict[str, Any] = {
        "concurrency_id": SIMULATOR_QUEUE,
        "concurrency_limit": sessions.size,
        "show_progress": "minimal",
        "show_progress_on": [ui.status],
    }
    picture: dict[str, Any] = simulated | {"api_visibility": "private", "trigger_mode": "always_last"}
    scene = [ui.family, ui.seed, ui.look]
    texts = [ui.words, ui.goal, ui.odds, ui.seed, ui.change]
    shown = [ui.camera, ui.status, ui.layer]
    replayed = [ui.video, ui.timeline, ui.caption, ui.save_video, ui.save_log, ui.export, ui.replayed]
    steering = [ui.pause, ui.step, ui.tell, ui.rethink, ui.disturb]
    switches = [ui.show_rings, ui.show_heat]

    chosen = [
        gr.on(
            [ui.family.input, ui.seed.input],
            tab.describe,
            scene,
            texts,
            validator=validate_scene,
            trigger_mode="always_last",  # what is typed while an earlier choice is on its way counts too
            **HIDDEN,
        ),
        ui.shuffle.click(tab.shuffle, [ui.family, ui.look], texts, **HIDDEN),
        ui.examples.click(tab.pick_example, [ui.examples, ui.look], [ui.family, *texts], **HIDDEN),
        ui.look.input(tab.look, scene, ui.odds, validator=validate_scene, **HIDDEN),
    ]
    for choice in chosen:
        choice.success(tab.preview, scene, shown, **picture)
    gr.on(
        [ui.run.click, ui.words.submit],
        tab.rollout,
        [*scene, ui.words, ui.think],
        [*shown, ui.thoughts, ui.times, *switches, ui.run, ui.stop, *steering, ui.thought, *replayed],
        validator=validate,
        trigger_mode="once",
        api_visibility="private",  # programs have `app.service`
        **simulated,
    )
    restored = [*scene, *texts, ui.think, *shown, ui.thoughts, *replayed]
    page.load(tab.open, None, list(dict.fromkeys(restored)), **HIDDEN)
    if not shipped:
        page.load(tab.preview, scene, shown, **picture)
    exported = ui.export.click(tab.export, ui.replayed, ui.exported, **HIDDEN)
    exported.success(None, js=DOWNLOAD)
    at_once: dict[str, Any] = {"queue": False, **HIDDEN}
    ui.gallery.click(tab.pick_shipped, ui.gallery, replayed, **at_once)
    ui.stop.click(tab.stop, None, ui.stop, **at_once)
    ui.pause.click(tab.pause, ui.pause, None, **at_once)
    ui.step.click(tab.step, None, None, **at_once)
    checked: dict[str, Any] = {"validator": validate_words, **HIDDEN}
    gr.on([ui.tell.click, ui.told.submit], tab.tell, ui.told, ui.told, **checked)
    gr.on([ui.rethink.click, ui.thought.submit], tab.rethink, ui.thought, None, **checked)
    ui.disturb.click(tab.disturb, ui.change, None, **at_once)
    return ui


class Tab:
    """The handlers: each takes what the visitor chose and gives back what changes on the page."""

    def __init__(
        self, ui: Widgets, pilot: Pilot, sessions: Sessions, recordings: Path, shipped: Sequence[Recording] = ()
    ) -> None:
        self._ui = ui
        self._pilot = pilot
        self._sessions = sessions
        self._recordings = recordings
        self._shipped = shipped
        self._drawn = {recording.id: _drawn(recording) for recording in shipped}

    def describe(self, kind: str, seed: float, look: list[Variation], request: gr.Request) -> Updates:
        """The words that go with a scene."""
        return self._describe(scenes.spec(kind, int(seed), vary=look), request)

    def look(self, kind: str, seed: float, look: list[Variation], request: gr.Request) -> str:
        """The odds of the same scene in another light, say; the visitor's words stay."""
        return str(self.describe(kind, seed, look, request)[self._ui.odds])

    def shuffle(self, kind: str, look: list[Variation], request: gr.Request) -> Updates:
        """Another scene of the same family."""
        return self._describe(scenes.spec(kind, scenes.shuffled_seed(), vary=look), request)

    def pick_example(self, index: int, look: list[Variation], request: gr.Request) -> Updates:
        """One of the listed scenes with its words."""
        kind, seed, words = scenes.examples()[index]
        return {self._ui.family: kind, **self._describe(scenes.spec(kind, seed, words, look), request)}

    def _describe(self, spec: Scene, request: gr.Request) -> Updates:
        """Choosing another scene also ends the rollout in the old one."""
        self._sessions.stop(request.session_hash or "")
        return described(self._ui, spec, self._pilot.name)

    def preview(self, kind: str, seed: float, look: list[Variation], request: gr.Request) -> Iterator[Updates]:
        """Set the scene up and take its picture."""
        ui = self._ui
        yield {ui.status: status("Setting up the scene")}
        try:
            with self._sessions.hold(request.session_hash or "") as hold:
                hold.simulator.reset(scenes.spec(kind, int(seed), vary=look))
                jpeg = hold.simulator.last_jpeg
                yield {ui.camera: camera_picture(jpeg), ui.status: status("Ready to run"), ui.layer: ""}
        except (Busy, WorkerError, ValueError) as error:
            yield {ui.status: failure(str(error))}

    def open(self, request: gr.Request) -> Updates:
        """What a page that was just opened shows: the rollout its link names, otherwise the first shipped one."""
        ui, linked = self._ui, str(request.query_params.get("run") or "")
        shipped = {ui.caption: caption_of(self._shipped[0], EXAMPLE, self._weights())} if self._shipped else {}
        if not linked:
            return shipped
        recording = find(linked, self._recordings, scenes.EXAMPLES)
        if recording is None:
            gone = "That recording is no longer here: only the newest are kept. Press Run to make a new one."
            return {**shipped, ui.status: failure(gone)}
        spec, think = recording.scene(), bool(recording.about()["think"])
        screen = Screen(think)
        for event in recording.events():
            screen.show(event)
        return {
            **described(ui, spec, self._pilot.name),
            ui.family: spec.family,
            ui.look: sorted(spec.vary),
            ui.think: think,
            ui.camera: recording.poster,
            ui.status: screen.status,
            ui.thoughts: screen.thoughts,
            **self._replay(recording, "The rollout this link leads to.", autoplay=True),
        }

    def pick_shipped(self, index: int) -> Updates:
        """Play one of the shipped rollouts."""
        return self._replay(self._shipped[index], EXAMPLE, autoplay=True)

    def export(self, run: str) -> Path:
        """The dataset of the rollout that is replayed, as a file to download."""
        recording = find(run, self._recordings, scenes.EXAMPLES)
        if recording is None:
            raise gr.Error("That recording is no longer here: only the newest are kept.")
        try:
            return as_lerobot(recording, self._recordings)
        except (ValueError, OSError) as error:
            raise gr.Error(f"The dataset could not be written: {error}") from None

    def rollout(
        self,
        kind: str,
        seed: float,
        look: list[Variation],
        words: str,
        think: bool,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Play one rollout, show it while it happens, then its recording."""
        ui, screen = self._ui, Screen(think)
        command = Command(scenes.spec(kind, int(seed), words.strip(), look), think, int(seed))
        recorder: Recorder | None = None
        yield {
            ui.run: gr.Button(interactive=False),
            **self._steerable(True),
            ui.status: screen.status,
            ui.thoughts: screen.thoughts,
            ui.times: screen.times,
            ui.layer: "",
        }
        try:
            with self._sessions.hold(request.session_hash or "") as hold:
                if self._pilot.state == "loading":
                    yield {ui.status: status("The model is still loading", "the rollout starts by itself")}
                for event in self._play(command, hold):
                    if isinstance(event, SceneReady):  # the model has been loaded by now
                        recorder = Recorder(command, self._pilot.describe(), self._pilot.fingerprint)
                    if recorder is not None:
                        recorder.add(event)
                    screen.show(event)
                    yield self._draw(event, screen)
        except (Busy, WorkerError) as error:
            yield {ui.status: failure(str(error))}
        yield self._steerable(False)
        if recorder is not None:
            yield {ui.caption: "Saving the recording\u2026"}
            yield self._save(recorder)
        yield {ui.run: gr.Button(interactive=True)}

    def stop(self, request: gr.Request) -> gr.Button:
        """Ask the running rollout to stop; it ends within one control step and says so itself."""
        self._sessions.stop(request.session_hash or "")
        return gr.Button(interactive=False)

    def pause(self, label: str, request: gr.Request) -> None:
        """Pause the rollout, or let a paused one go on; the rollout says so itself."""
        self._sessions.steer(request.session_hash or "", "resume" if label == RESUME else "pause")

    def step(self, request: gr.Request) -> None:
        """One control step, then wait."""
        self._sessions.steer(request.session_hash or "", "step")

    def tell(self, words: str, request: gr.Request) -> str:
        """Give the rollout other words; what nobody was there to hear stays in the box."""
        return "" if self._sessions.steer(request.session_hash or "", "instruct", words.strip()) else words

    def rethink(self, thought: str, request: gr.Request) -> None:
        """Let the model act on the visitor's thought instead of its own."""
        self._sessions.steer(request.session_hash or "", "rethink", thought.strip())

    def disturb(self, change: str | None, request: gr.Request) -> None:
        """Change the scene under the robot's nose."""
        self._sessions.steer(request.session_hash or "", "disturb", change or "")

    def _weights(self) -> str | None:
        """Fingerprint of the weights that drive, once they are loaded."""
        return self._pilot.fingerprint if self._pilot.state == "ready" else None

    def _steerable(self, running: bool) -> Updates:
        ui = self._ui
        steering = (ui.stop, ui.step, ui.tell, ui.rethink, ui.disturb)
        buttons = {button: gr.Button(interactive=running) for button in steering}
        return {**buttons, ui.pause: gr.Button(PAUSE, interactive=running)}

    def _play(self, command: Command, hold: Hold) -> Iterator[Event]:
        """The controller's events; what nobody foresaw becomes one plain line here and a traceback in the log."""
        if problem := problem_when_loaded(self._pilot, hold.steering.stop):
            yield Failure(problem)
            return
        try:
            policy = self._pilot.policy(hold.simulator, command.spec, command.think)
            yield from controller.run(command, hold.simulator, policy, hold.steering)
        except Exception:
            log.exception("a rollout failed")
            yield Failure("Something broke on our side; the server's log says what. Press Run to try again.")

    def _draw(self, event: Event, screen: Screen) -> Updates:
        ui = self._ui
        updates: Updates = {ui.status: screen.status}
        if isinstance(event, StepTiming):
            return {ui.times: screen.times}
        if isinstance(event, SceneReady | Frame):
            updates[ui.camera] = camera_picture(event.jpeg)
        else:
            updates[ui.thoughts] = screen.thoughts
        if isinstance(event, ThoughtStarted | Planned | Outcome | Failure):
            updates[ui.layer] = screen.layer
        if isinstance(event, Planned):
            points = gr.Checkbox(visible=event.focus is not None)  # a released model does not
            updates |= {ui.show_rings: points, ui.show_heat: points}
        if isinstance(event, Steered) and event.jpeg:
            updates[ui.camera] = camera_picture(event.jpeg)
        if isinstance(event, Steered) and event.order in ("pause", "step", "resume"):
            updates[ui.pause] = gr.Button(PAUSE if event.order == "resume" else RESUME)
        if isinstance(event, Steered) and event.order == "pause":
            updates[ui.thought] = screen.thought
        return updates

    def _save(self, recorder: Recorder) -> Updates:
        try:
            return self._replay(recorder.save(self._recordings), "Your last rollout.")
        except RecordingError as error:
            return {self._ui.caption: str(error)}

    def _replay(self, recording: Recording, lead: str, autoplay: bool = False) -> Updates:
        """A recording in the lower half of the tab."""
        ui = self._ui
        below, acted = self._drawn.get(recording.id) or _drawn(recording)
        return {
            ui.video: player(ui.video, recording, autoplay),
            ui.timeline: below,
            ui.caption: caption_of(recording, lead, self._weights()),
            ui.save_video: gr.DownloadButton(value=recording.video, visible=True),
            ui.save_log: gr.DownloadButton(value=recording.log, visible=True),
            ui.export: gr.Button(visible=acted),
            ui.replayed: recording.id,
        }


def _drawn(recording: Recording) -> tuple[str, bool]:
    """What stands below its video, and whether it holds steps to export: slow to find out, and always the same."""
    return timeline(recording, "video"), bool(stretches(recording))


def described(ui: Widgets, spec: Scene, model: str) -> Updates:
    """The words, the rule and the odds of a scene."""
    odds = scenes.odds(spec.family, model)
    if spec.vary:
        odds += " Measured with the usual light, table and camera."
    offered = changes(spec)
    change = gr.Dropdown(offered, value=offered[0] if offered else None, interactive=bool(offered))
    return {ui.seed: spec.seed, ui.words: spec.text, ui.goal: goal_line(spec), ui.odds: odds, ui.change: change}


def validate_scene(kind: str, seed: float | None, *others: Any) -> list[dict[str, Any]]:
    """Refuse a scene that does not exist, beside the box it was typed into."""
    problem = scenes.seed_problem(seed)
    return [FINE, gr.validate(problem is None, problem or ""), *[FINE] * len(others)]


def validate_words(words: str | None) -> dict[str, Any]:
    """Refuse words that are none, or too many, in the same way."""
    problem = scenes.words_problem(words)
    return gr.validate(problem is None, problem or "")


def validate(
    kind: str, seed: float | None, look: list[Variation], words: str | None, think: bool
) -> list[dict[str, Any]]:
    """Refuse bad input before anything starts."""
    return [*validate_scene(kind, seed, look), validate_words(words), FINE]
