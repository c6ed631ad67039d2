"""First tab: choose a scene, say what to do, watch it happen."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image

from app import controller, scenes
from app.events import Command, Event, Failure, Frame, SceneReady
from app.pilots import Pilot
from app.recording import Recorder, Recording, RecordingError
from app.sessions import Busy, Hold, Sessions
from app.views.screen import Screen, failure, status, thoughts_hint
from sim.tasks import SceneSpec, rule
from sim.worker import WorkerError

log = logging.getLogger(__name__)

SIMULATOR_QUEUE = "simulator"
LOADING_POLL_S = 0.2
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Widgets:
    """Everything on the tab that changes."""

    camera: gr.Image
    status: gr.HTML
    family: gr.Dropdown
    seed: gr.Number
    shuffle: gr.Button
    words: gr.Textbox
    goal: gr.Markdown
    examples: gr.Dataset
    think: gr.Checkbox
    run: gr.Button
    stop: gr.Button
    odds: gr.Markdown
    thoughts: gr.HTML
    video: gr.Video
    caption: gr.Markdown
    save_video: gr.DownloadButton
    save_log: gr.DownloadButton


def build(pilot: Pilot, sessions: Sessions, recordings: Path) -> None:
    """Lay out the tab inside the surrounding `gr.Blocks` and wire it up."""
    example = scenes.shipped_example()
    ui = layout(pilot, example)
    tab = Tab(ui, pilot, sessions, recordings)
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    simulated: dict[str, Any] = {
        "concurrency_id": SIMULATOR_QUEUE,
        "concurrency_limit": sessions.size,
        "show_progress": "minimal",
        "show_progress_on": [ui.status],
    }
    picture: dict[str, Any] = simulated | {"api_visibility": "private", "trigger_mode": "always_last"}
    scene = [ui.family, ui.seed]
    described = [ui.words, ui.goal, ui.odds, ui.seed]

    gr.on([ui.family.input, ui.seed.input], tab.describe, scene, described, **hidden).success(
        tab.preview, scene, [ui.camera, ui.status], **picture
    )
    ui.shuffle.click(tab.shuffle, ui.family, described, **hidden).success(
        tab.preview, scene, [ui.camera, ui.status], **picture
    )
    ui.examples.click(tab.pick_example, ui.examples, [ui.family, *described], **hidden).success(
        tab.preview, scene, [ui.camera, ui.status], **picture
    )
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
    if not example:
        gr.on(None, tab.preview, scene, [ui.camera, ui.status], **picture)  # on page load
    ui.stop.click(tab.stop, None, ui.stop, queue=False, **hidden)


def layout(pilot: Pilot, example: Recording | None) -> Widgets:
    """The widgets, filled with the shipped example, so that the page says something before anything has started."""
    first = example.scene() if example else scenes.spec("put_on", scenes.FIRST_SEED)
    kind, seed = first.goal.kind, first.seed
    with gr.Row(elem_id="stage"):
        with gr.Column(scale=3, min_width=320):
            camera = gr.Image(
                example and example.poster, format="jpeg", show_label=False, interactive=False, buttons=[], elem_id="camera"
            )
            line = gr.HTML(status("Press Run, or watch the example below"), elem_id="status", padding=False)
            with gr.Accordion("Thoughts", open=True):
                thoughts = gr.HTML(thoughts_hint("What the model writes before it moves shows up here."), elem_id="thoughts", padding=False)
        with gr.Column(scale=2, min_width=320):
            words = gr.Textbox(first.text, label="Instruction", lines=1, max_lines=4, autofocus=True, elem_id="words")
            with gr.Row(elem_id="go"):
                run = gr.Button("Run", variant="primary", elem_id="run")
                stop = gr.Button("Stop", interactive=False, elem_id="stop")
                think = gr.Checkbox(True, label="Think aloud", container=False, elem_id="think", min_width=150)
            odds = gr.Markdown(scenes.odds(kind, pilot.name), elem_id="odds")
            examples = gr.Dataset(
                components=["textbox"],
                samples=[[text] for _, _, text in scenes.examples()],
                type="index",
                label="Try one",
                elem_id="examples",
            )
            with gr.Row(elem_id="scene", equal_height=False):
                family = gr.Dropdown(list(scenes.FAMILIES.items()), value=kind, label="Task", elem_id="family", min_width=140)
                seed_box = gr.Number(seed, label="Scene", precision=0, elem_id="seed", min_width=120)
                shuffle = gr.Button("Shuffle", elem_id="shuffle", min_width=110)
            goal = gr.Markdown(goal_line(first), elem_id="goal")
    with gr.Row(elem_id="recording"):
        with gr.Column(scale=3, min_width=320):
            video = gr.Video(
                example and example.video,
                subtitles=example and example.subtitles,
                show_label=False,
                interactive=False,
                buttons=[],
                elem_id="video",
            )
        with gr.Column(scale=2, min_width=320):
            caption = gr.Markdown(caption_of(example, "Example, recorded earlier.") if example else "", elem_id="caption")
            save_video = gr.DownloadButton("Download video", value=example and example.video, visible=bool(example), size="sm")
            save_log = gr.DownloadButton("Download log (JSONL)", value=example and example.log, visible=bool(example), size="sm")
    return Widgets(
        camera, line, family, seed_box, shuffle, words, goal, examples, think, run, stop, odds, thoughts, video, caption,
        save_video, save_log,
    )  # fmt: skip


class Tab:
    """The handlers: each takes what the visitor chose and gives back what changes on the page."""

    def __init__(self, ui: Widgets, pilot: Pilot, sessions: Sessions, recordings: Path) -> None:
        self._ui = ui
        self._pilot = pilot
        self._sessions = sessions
        self._recordings = recordings

    def describe(self, kind: str, seed: float | None) -> Updates:
        """The words that go with a scene."""
        if problem := scenes.seed_problem(seed):
            raise gr.Error(problem, duration=5)
        return self._describe(scenes.spec(kind, int(seed or 0)))

    def shuffle(self, kind: str) -> Updates:
        """Another scene of the same family."""
        return self._describe(scenes.spec(kind, scenes.shuffled_seed()))

    def pick_example(self, index: int) -> Updates:
        """One of the listed scenes with its words."""
        kind, seed, words = scenes.examples()[index]
        return {self._ui.family: kind, **self._describe(scenes.spec(kind, seed, words))}

    def _describe(self, spec: SceneSpec) -> Updates:
        ui, kind = self._ui, spec.goal.kind
        return {
            ui.seed: spec.seed,
            ui.words: spec.text,
            ui.goal: goal_line(spec),
            ui.odds: scenes.odds(kind, self._pilot.name),
        }

    def preview(self, kind: str, seed: float, request: gr.Request) -> Iterator[Updates]:
        """Set the scene up and take its picture."""
        ui = self._ui
        yield {ui.status: status("Setting up the scene")}
        try:
            with self._sessions.hold(request.session_hash or "") as hold:
                hold.simulator.reset(scenes.spec(kind, int(seed)))
                yield {ui.camera: picture(hold.simulator.last_jpeg), ui.status: status("Ready to run")}
        except (Busy, WorkerError, ValueError) as error:
            yield {ui.status: failure(str(error))}

    def rollout(self, kind: str, seed: float, words: str, think: bool, request: gr.Request) -> Iterator[Updates]:
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
        yield {ui.stop: gr.Button(interactive=False), ui.caption: "Saving the recording\u2026"}
        yield {ui.run: gr.Button(interactive=True), **self._save(recorder)}

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
            yield Failure(f"{self._pilot.error} Run `python app.py doctor` to see what is missing.")
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
            updates[self._ui.camera] = picture(event.jpeg)
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


def validate(kind: str, seed: float | None, words: str | None, think: bool) -> list[dict[str, Any]]:
    """Refuse bad input beside the box it was typed into, before anything starts."""
    bad_seed, bad_words = scenes.seed_problem(seed), scenes.words_problem(words)
    fine = gr.validate(True, "")
    return [fine, gr.validate(not bad_seed, bad_seed or ""), gr.validate(not bad_words, bad_words or ""), fine]


def goal_line(spec: SceneSpec) -> str:
    """What the simulator counts as success, whatever was typed."""
    return f"Judged by the scene, not by your words: success when {rule(spec.goal)}."


def caption_of(recording: Recording, lead: str) -> str:
    """A few words beside the video."""
    return f"**{lead}** \u201c{plain(recording.scene().text)}\u201d\n\n{plain(recording.model())}"


def plain(text: str) -> str:
    """Text that Markdown must not interpret."""
    return "".join(f"&#{ord(character)};" if not character.isalnum() and character != " " else character for character in text)


def picture(jpeg: bytes) -> PIL.Image.Image:
    """A camera frame for gr.Image."""
    return PIL.Image.open(io.BytesIO(jpeg))
