"""The widgets of the first tab and the sentences that stand beside them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app import scenes
from app.pilots import Pilot
from app.recording import Recording
from app.views.screen import status, thoughts_hint
from sim.twins import Scene

THOUGHTS_HINT = "What the model writes before it moves shows up here."


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


def layout(pilot: Pilot, example: Recording | None) -> Widgets:
    """The widgets, filled with the shipped example, so that the page says something before anything has started."""
    first = example.scene() if example else scenes.spec("put_on", scenes.FIRST_SEED)
    kind, seed = first.family, first.seed
    with gr.Row(elem_id="stage"):
        with gr.Column(scale=3, min_width=320):
            camera = gr.Image(
                example and example.poster,
                format="jpeg",
                show_label=False,
                interactive=False,
                buttons=[],
                elem_id="camera",
            )
            line = gr.HTML(status("Press Run, or watch the example below"), elem_id="status", padding=False)
            with gr.Accordion("Thoughts", open=True):
                thoughts = gr.HTML(thoughts_hint(THOUGHTS_HINT), elem_id="thoughts", padding=False)
        with gr.Column(scale=2, min_width=320):
            words = gr.Textbox(first.text, label="Instruction", lines=1, max_lines=4, autofocus=True, elem_id="words")
            with gr.Row(elem_id="go"):
                run = gr.Button("Run", variant="primary", elem_id="run", min_width=100)
                stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=90)
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
                family = gr.Dropdown(
                    list(scenes.families().items()), value=kind, label="Task", scale=3, elem_id="family", min_width=150
                )
                seed_box = gr.Number(seed, label="Scene", precision=0, scale=2, elem_id="seed", min_width=100)
                shuffle = gr.Button("Shuffle", scale=0, elem_id="shuffle", min_width=104)
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
            told = caption_of(example, "Example, recorded earlier.") if example else ""
            caption = gr.Markdown(told, elem_id="caption")
            video_file, log_file, there = example and example.video, example and example.log, example is not None
            save_video = gr.DownloadButton("Download video", value=video_file, visible=there, size="sm")
            save_log = gr.DownloadButton("Download log (JSONL)", value=log_file, visible=there, size="sm")
    return Widgets(
        camera=camera,
        status=line,
        thoughts=thoughts,
        words=words,
        run=run,
        stop=stop,
        think=think,
        odds=odds,
        examples=examples,
        family=family,
        seed=seed_box,
        shuffle=shuffle,
        goal=goal,
        video=video,
        caption=caption,
        save_video=save_video,
        save_log=save_log,
    )


def goal_line(spec: Scene) -> str:
    """What the simulator counts as success, whatever was typed."""
    return f"Judged by the scene, not by your words: success when {spec.rule}."


def caption_of(recording: Recording, lead: str) -> str:
    """A few words beside the video."""
    return f"**{lead}** \u201c{plain(recording.scene().text)}\u201d\n\n{plain(recording.model())}"


def plain(text: str) -> str:
    """Text that Markdown must not interpret."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
