"""The widgets of the first tab and the sentences that stand beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import scenes
from app.events import Outcome
from app.exporting import stretches
from app.pilots import Pilot
from app.recording import Recording
from app.timeline import timeline
from app.views.screen import status, thoughts_hint
from app.views.widgets import picture_box, player
from app.waterfall import Waterfall
from sim.disturb import disturbances
from sim.twins import Scene

PAUSE, RESUME = "Pause", "Resume"
CHANGE = "Does it really look? Change the scene"
MANY = 20
"""So many entries of a list are shown at once."""
EXAMPLE = "Example, recorded earlier."
THOUGHTS_HINT = "What the model writes before it moves shows up here."


@dataclass(frozen=True)
class Widgets:
    """Everything on the tab that changes."""

    camera: gr.Image
    layer: gr.HTML
    status: gr.HTML
    thoughts: gr.HTML
    times: gr.HTML
    family: gr.Dropdown
    seed: gr.Number
    shuffle: gr.Button
    look: gr.CheckboxGroup
    words: gr.Textbox
    goal: gr.Markdown
    examples: gr.Dataset
    think: gr.Checkbox
    show_rings: gr.Checkbox
    show_heat: gr.Checkbox
    run: gr.Button
    stop: gr.Button
    odds: gr.Markdown
    pause: gr.Button
    step: gr.Button
    told: gr.Textbox
    tell: gr.Button
    thought: gr.Textbox
    rethink: gr.Button
    change: gr.Dropdown
    disturb: gr.Button
    video: gr.HTML
    timeline: gr.HTML
    caption: gr.Markdown
    save_video: gr.DownloadButton
    save_log: gr.DownloadButton
    export: gr.Button
    exported: gr.DownloadButton
    replayed: gr.State
    gallery: gr.Dataset


def layout(pilot: Pilot, shipped: list[Recording]) -> Widgets:
    """The widgets, filled with the first shipped rollout, so that the page says something before anything started."""
    first = shipped[0].scene() if shipped else scenes.spec("put_on", scenes.FIRST_SEED)
    with gr.Row(elem_id="stage"):
        with gr.Column(scale=3, min_width=320):
            seen = _view(shipped)
            steered = _steering(first)
        with gr.Column(scale=2, min_width=320):
            chosen = _controls(first, pilot)
    with gr.Row(elem_id="recording"):
        recorded = _recording(pilot, shipped)
    return Widgets(**seen, **chosen, **steered, **recorded)


def _view(shipped: list[Recording]) -> dict[str, Any]:
    """The camera with rings and attention over it, and what is said about it."""
    with gr.Column(elem_id="view"):
        camera = picture_box(
            value=shipped[0].poster if shipped else None,
            format="jpeg",
            show_label=False,
            interactive=False,
            buttons=[],
            elem_id="camera",
        )
        layer = gr.HTML(elem_id="camera-layer", elem_classes="layer", padding=False)
    line = gr.HTML(status("Press Run, or watch the example below"), elem_id="status", padding=False)
    with gr.Accordion("Thoughts", open=True, elem_id="thinking"):
        thoughts = gr.HTML(thoughts_hint(THOUGHTS_HINT), elem_id="thoughts", padding=False)
    with gr.Accordion("Where the time goes", open=False, elem_id="latency"):
        times = gr.HTML(Waterfall().html(), elem_id="times", padding=False)
    return {"camera": camera, "layer": layer, "status": line, "thoughts": thoughts, "times": times}


def _controls(first: Scene, pilot: Pilot) -> dict[str, Any]:
    """What to do, in which scene."""
    kind = first.family
    words = gr.Textbox(first.text, label="Instruction", lines=1, max_lines=4, elem_id="words")
    with gr.Row(elem_id="go"):
        run = gr.Button("Run", variant="primary", elem_id="run", min_width=100)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=90)
    with gr.Row(elem_id="how"):
        think = gr.Checkbox(True, label="Think aloud", container=False, elem_id="think", min_width=120)
        switch: dict[str, Any] = {"visible": pilot.points, "interactive": True, "container": False, "min_width": 130}
        show_rings = gr.Checkbox(True, label="Show where it acts", elem_id="show-rings", **switch)
        show_heat = gr.Checkbox(label="Show its attention", elem_id="show-heat", **switch)
    odds = gr.Markdown(scenes.odds(kind, pilot.name), elem_id="odds")
    examples = gr.Dataset(
        components=["textbox"],
        samples=[[text] for _, _, text in scenes.examples()],
        type="index",
        samples_per_page=MANY,
        label="Try one",
        elem_id="examples",
    )
    with gr.Row(elem_id="scene", equal_height=False):
        family = gr.Dropdown(
            list(scenes.families().items()), value=kind, label="Task", scale=3, elem_id="family", min_width=140
        )
        seed = gr.Number(first.seed, label="Scene", precision=0, scale=3, elem_id="seed", min_width=124)
        shuffle = gr.Button("Shuffle", scale=1, elem_id="shuffle", min_width=96)
    goal = gr.Markdown(goal_line(first), elem_id="goal")
    look = gr.CheckboxGroup(
        list(scenes.LOOKS.items()), value=sorted(first.vary), label="Change the look", elem_id="look"
    )
    return {
        "words": words,
        "run": run,
        "stop": stop,
        "think": think,
        "show_rings": show_rings,
        "show_heat": show_heat,
        "odds": odds,
        "examples": examples,
        "family": family,
        "seed": seed,
        "shuffle": shuffle,
        "goal": goal,
        "look": look,
    }


def _steering(first: Scene) -> dict[str, Any]:
    """What can be done while a rollout is under way."""
    with gr.Accordion("Steer it while it runs", open=False, elem_id="steer"):
        with gr.Row(elem_id="pace"):
            pause = gr.Button(PAUSE, interactive=False, elem_id="pause", min_width=90)
            step = gr.Button("Single step", interactive=False, elem_id="step", min_width=110)
        with gr.Row(elem_classes="say"):
            told = gr.Textbox(label="New instruction", lines=1, max_lines=3, scale=4, elem_id="told", min_width=200)
            tell = gr.Button("Tell it", interactive=False, scale=1, elem_id="tell", min_width=110)
        with gr.Row(elem_classes="say"):
            thought = gr.Textbox(
                label="Its thought (Pause fills in the latest)",
                lines=1,
                max_lines=4,
                scale=4,
                elem_id="thought",
                min_width=200,
            )
            rethink = gr.Button("Act on it", interactive=False, scale=1, elem_id="rethink", min_width=110)
        with gr.Row(elem_classes="say"):
            change = gr.Dropdown(changes(first), label=CHANGE, scale=4, elem_id="change", min_width=200)
            disturb = gr.Button("Do it", interactive=False, scale=1, elem_id="disturb", min_width=110)
    steering = {"pause": pause, "step": step, "told": told, "tell": tell, "thought": thought, "rethink": rethink}
    return {**steering, "change": change, "disturb": disturb}


def _recording(pilot: Pilot, shipped: list[Recording]) -> dict[str, Any]:
    """A finished rollout, the first shipped one to begin with, and others to choose from."""
    first = shipped[0] if shipped else None
    with gr.Column(scale=3, min_width=320):
        with gr.Column(elem_id="playback"):
            video = gr.HTML(elem_id="video", padding=False)
            gr.HTML(elem_id="video-layer", elem_classes="layer", padding=False)
        line = gr.HTML(first and timeline(first, "video"), elem_id="timeline", padding=False)
    with gr.Column(scale=2, min_width=320):
        weights = pilot.fingerprint if pilot.state == "ready" else None
        caption = gr.Markdown(first and caption_of(first, EXAMPLE, weights), elem_id="caption")
        here: dict[str, Any] = {"visible": first is not None, "size": "sm"}
        save_video = gr.DownloadButton("Download video", first and first.video, **here)
        save_log = gr.DownloadButton("Download log (JSONL)", first and first.log, **here)
        export = gr.Button(
            "Download as LeRobotDataset", visible=bool(first and stretches(first)), size="sm", elem_id="export"
        )
        exported = gr.DownloadButton("The dataset", visible="hidden", elem_id="exported")
        gallery = gr.Dataset(
            components=["textbox"],
            samples=[[title(recording)] for recording in shipped],
            type="index",
            samples_per_page=MANY,
            label="Recorded earlier",
            visible=bool(shipped),
            elem_id="gallery",
        )
    if first:
        video.value = player(video, first)
        video.keep_in_cache |= video.temp_files  # for visitors who come when everything else has been cleared away
    return {
        "video": video,
        "timeline": line,
        "caption": caption,
        "save_video": save_video,
        "save_log": save_log,
        "export": export,
        "exported": exported,
        "replayed": gr.State(first.id if first else ""),
        "gallery": gallery,
    }


def changes(spec: Scene) -> list[str]:
    """What can be changed in a scene while the robot works in it, in words."""
    try:
        return [change.text for change in disturbances(spec)]
    except ValueError:  # there is no room for its things: setting it up says so
        return []


def goal_line(spec: Scene) -> str:
    """What the simulator counts as success, whatever was typed."""
    return f"Judged by the scene, not by your words: success when {spec.rule}."


def title(recording: Recording) -> str:
    """A shipped rollout in a list: its words and how it ended."""
    end = recording.events()[-1]
    sign = "\u2713" if isinstance(end, Outcome) and end.success else "\u2717"
    return f"{sign} {'' if recording.about()['think'] else 'not thinking: '}{recording.scene().text}"


def caption_of(recording: Recording, lead: str, fingerprint: str | None = None) -> str:
    """A few words beside the video; `fingerprint` is that of the weights that drive now, None where that is unknown."""
    told = f"**{lead}** \u201c{plain(recording.scene().text)}\u201d\n\n{plain(recording.model())}"
    driven_by = recording.about().get("fingerprint", "")
    if driven_by and fingerprint not in (None, driven_by):
        told += f"\n\nThe weights were others ({plain(driven_by)}) than those that drive now."
    return f"{told}\n\n[Link to this rollout](?run={recording.id})"


def plain(text: str) -> str:
    """Text that Markdown must not interpret."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
