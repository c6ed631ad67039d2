"""The widgets of the Compare tab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from app import scenes
from app.views.screen import status, thoughts_hint

SIDES = ("left", "right")
COUNTS = (1, 5, 10)
VOTES = {
    "left": "Left did better",
    "right": "Right did better",
    "equal": "No difference",
    "bad": "Both bad",
}


@dataclass(frozen=True)
class Widgets:
    """Everything on the tab that changes; tuples hold left and right, `chosen` the first and the second arm."""

    family: gr.Dropdown
    seed: gr.Number
    words: gr.Textbox
    chosen: tuple[gr.Dropdown, gr.Dropdown]
    count: gr.Radio
    blind: gr.Checkbox
    run: gr.Button
    stop: gr.Button
    status: gr.HTML
    titles: tuple[gr.HTML, gr.HTML]
    cameras: tuple[gr.Image, gr.Image]
    lines: tuple[gr.HTML, gr.HTML]
    thoughts: tuple[gr.HTML, gr.HTML]
    votes: dict[str, gr.Button]
    figures: gr.HTML
    pairs: gr.Dataset
    videos: tuple[gr.HTML, gr.HTML]
    timelines: tuple[gr.HTML, gr.HTML]
    captions: tuple[gr.Markdown, gr.Markdown]
    played: gr.State
    pending: gr.State


def layout(arms: Sequence[str], chosen: tuple[str, str]) -> Widgets:
    """The widgets, empty, with the names of the arms to choose from and two that are chosen at first."""
    with gr.Row(elem_id="compare-what", equal_height=False):
        family = gr.Dropdown(
            list(scenes.families().items()),
            value="put_on",
            label="Task",
            interactive=True,
            elem_id="compare-family",
            min_width=150,
        )
        seed = gr.Number(
            scenes.FIRST_SEED,
            label="First scene",
            precision=0,
            interactive=True,
            elem_id="compare-seed",
            min_width=110,
        )
        words = gr.Textbox(
            label="Instruction",
            placeholder="each scene's own",
            lines=1,
            scale=3,
            interactive=True,
            elem_id="compare-words",
            min_width=220,
        )
    with gr.Row(elem_id="compare-arms"):
        first, second = (
            gr.Dropdown(
                list(arms),
                value=name,
                label=label,
                interactive=True,
                elem_id=f"arm-{label.lower()}",
                min_width=200,
            )
            for name, label in zip(chosen, ("First", "Second"), strict=True)
        )
    with gr.Row(elem_id="compare-go"):
        count = gr.Radio(list(COUNTS), value=1, label="Pairs", interactive=True, elem_id="compare-count", min_width=240)
        blind = gr.Checkbox(
            label="Blind: I vote before I am told which is which", interactive=True, elem_id="blind", min_width=240
        )
        run = gr.Button("Run", variant="primary", elem_id="compare-run", min_width=90)
        stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", min_width=90)
    line = gr.HTML(
        status("Each pair: the same scene and the same random draws, once by each of the two"),
        elem_id="compare-status",
        padding=False,
    )
    titles, cameras, lines, thoughts = [], [], [], []
    with gr.Row(elem_id="arms"):
        for side, arm in zip(SIDES, chosen, strict=True):
            with gr.Column(min_width=300):
                titles.append(gr.HTML(heading(arm), padding=False))
                cameras.append(
                    gr.Image(
                        format="jpeg",
                        show_label=False,
                        interactive=False,
                        buttons=[],
                        elem_id=f"camera-{side}",
                        elem_classes="arm-camera",
                    )
                )
                lines.append(gr.HTML(status("Not started"), elem_id=f"status-{side}", padding=False))
                thoughts.append(gr.HTML(thoughts_hint(""), elem_id=f"thoughts-{side}", padding=False))
    with gr.Row(elem_id="votes"):
        votes = {
            name: gr.Button(label, interactive=False, size="sm", elem_id=f"vote-{name}", min_width=130)
            for name, label in VOTES.items()
        }
    figures = gr.HTML(elem_id="figures", padding=False)
    pairs = gr.Dataset(
        components=["textbox"] * 3,
        headers=["Scene", "First", "Second"],
        samples=[],
        type="index",
        label="Finished pairs: click one to watch it again",
        visible=False,
        elem_id="pairs",
    )
    videos, timelines, captions = [], [], []
    with gr.Row(elem_id="replays"):
        for side in SIDES:
            with gr.Column(min_width=300):
                videos.append(gr.HTML(elem_id=f"video-{side}", elem_classes="arm-video", padding=False))
                timelines.append(gr.HTML(padding=False))
                captions.append(gr.Markdown())
    return Widgets(
        family=family,
        seed=seed,
        words=words,
        chosen=(first, second),
        count=count,
        blind=blind,
        run=run,
        stop=stop,
        status=line,
        titles=(titles[0], titles[1]),
        cameras=(cameras[0], cameras[1]),
        lines=(lines[0], lines[1]),
        thoughts=(thoughts[0], thoughts[1]),
        votes=votes,
        figures=figures,
        pairs=pairs,
        videos=(videos[0], videos[1]),
        timelines=(timelines[0], timelines[1]),
        captions=(captions[0], captions[1]),
        played=gr.State([]),
        pending=gr.State(None),
    )


def heading(text: str) -> str:
    """The title over one arm."""
    return f"<h2>{escape(text)}</h2>"
