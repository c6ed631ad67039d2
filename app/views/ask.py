"""Ask tab: a picture, questions about it, and the same model's answers as they are decoded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import scenes
from app.pictures import open_picture
from app.pilots import Pilot, Turn
from app.views.widgets import FINE, HIDDEN, picture_box

log = logging.getLogger(__name__)

MODEL_QUEUE = "questions"
AT_ONCE = 2
REMEMBERED = 4
"""Turns the model is reminded of; more would only push the picture away."""
QUESTIONS = ("What is on the table?", "What colour is the plate?", "Is there a carrot?", "Which of these can one eat?")
LIMITS = "About anything else, photographs included, it guesses, and it can be wrong about its own table."
CUT = " \u2026 (stopped)"


def build(pilot: Pilot, camera: gr.Image) -> None:
    """Lay out the tab and wire it up; `camera` is the rollout's picture, which can be asked about."""
    pictures = scenes.example_pictures()
    with gr.Row(elem_id="ask"):
        with gr.Column(scale=2, min_width=300):
            picture = picture_box(
                sources=["upload", "webcam", "clipboard"],
                label="Picture",
                show_label=False,
                buttons=["fullscreen"],
                elem_id="picture",
            )
            problem = gr.HTML(elem_id="picture-problem", padding=False)
            current = gr.Button("Use the robot's camera", size="sm", elem_id="use-camera")
            examples = gr.Dataset(
                components=[gr.Image(visible=False, type="filepath")],
                samples=[[str(path)] for path in pictures],
                type="index",
                label="Or one of these scenes",
                elem_id="pictures",
            )
        with gr.Column(scale=3, min_width=320):
            chat = gr.Chatbot(
                height=360,
                show_label=False,
                label="Questions and answers",
                buttons=["copy", "copy_all"],
                render_markdown=False,  # whatever was typed or decoded is text
                latex_delimiters=[],
                placeholder="Choose a picture, then ask.",
                elem_id="chat",
            )
            question = gr.Textbox(label="Question", lines=1, max_lines=4, elem_id="question")
            with gr.Row(elem_id="ask-go"):
                ask = gr.Button("Ask", variant="primary", elem_id="ask-button", min_width=90)
                stop = gr.Button("Stop", interactive=False, elem_id="ask-stop", min_width=90)
                clear = gr.Button("Clear", elem_id="ask-clear", min_width=90)
            suggestions = gr.Dataset(
                components=["textbox"],
                samples=[[text] for text in QUESTIONS],
                type="index",
                label="Try one",
                elem_id="questions",
            )
            known = gr.HTML(knows(pilot), elem_id="knows", padding=False)
    turns = gr.State([])
    tab = Tab(pilot)

    answering = gr.on(
        [ask.click, question.submit],
        tab.ask,
        [picture, question, turns],
        [chat, turns, question, ask, stop],
        validator=validate,
        trigger_mode="once",
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=AT_ONCE,
        show_progress="minimal",  # the place in the queue
        show_progress_on=[known],
        api_visibility="private",
    )
    stop.click(tab.stop, None, stop, queue=False, **HIDDEN)
    anew = {"cancels": [answering], **HIDDEN}
    fresh = [chat, turns, ask, stop]
    gr.on([clear.click, chat.clear], start_over, None, fresh, **anew)
    picture.input(lambda path: (picture_problem(path), *start_over()), picture, [problem, *fresh], **anew)
    chosen = [picture, problem, *fresh]
    current.click(lambda frame: (frame, "", *start_over()), camera, chosen, **anew)
    examples.click(lambda index: (pictures[index], "", *start_over()), examples, chosen, **anew)
    suggestions.click(lambda index: QUESTIONS[index], suggestions, question, **HIDDEN)
    question.focus(lambda: knows(pilot), None, known, **HIDDEN)


class Tab:
    """The handlers: each takes what the visitor gave and gives back what changes on the page."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self._stops: dict[str, threading.Event] = {}

    def ask(self, path: str | None, question: str, turns: list[Turn], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Stream an answer. Stop ends it with the present word, and so does closing the iterator."""
        question, answer = question.strip(), ""
        stop = self._stops[request.session_hash or ""] = threading.Event()
        running = gr.Button(interactive=False), gr.Button(interactive=True)
        yield conversation(turns, question, "\u2026"), gr.skip(), "", *running
        try:
            for piece in self._answer(path, question, turns):
                answer += piece
                yield conversation(turns, question, answer), *[gr.skip()] * 4
                if stop.is_set():
                    answer += CUT
                    break
            turns = [*turns, (question, answer.strip() or "(The model said nothing.)")]
            chat = conversation(turns)
        except (ValueError, OSError) as error:
            chat = conversation(turns, question, str(error))
        except Exception:
            log.exception("a question failed")
            chat = conversation(turns, question, "Something broke on our side; the server's log says what. Ask again.")
        finally:
            self._stops.pop(request.session_hash or "", None)
        yield chat, turns, gr.skip(), *idle()

    def stop(self, request: gr.Request) -> gr.Button:
        """End the tab's answer with the present word."""
        if running := self._stops.get(request.session_hash or ""):
            running.set()
        return gr.Button(interactive=False)

    def _answer(self, path: str | None, question: str, turns: list[Turn]) -> Iterator[str]:
        if path is None:
            raise ValueError("Choose a picture first: upload one, take one, or click one of the scenes.")
        if self._pilot.state == "loading":
            raise ValueError("The model is still loading: ask again in a few seconds.")
        if self._pilot.state == "failed":
            raise ValueError(f'{self._pilot.error} Run "python app.py doctor" to see what is missing.')
        return self._pilot.ask(open_picture(Path(path)), question, turns[-REMEMBERED:])


def conversation(turns: Sequence[Turn], question: str | None = None, answer: str = "") -> list[dict[str, str]]:
    """Finished turns and the one in progress as the messages of a chat."""
    said = [*turns, (question, answer)] if question is not None else turns
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in said for role, text in zip(roles, turn, strict=True)]


def start_over() -> tuple[Any, ...]:
    """Another picture is another conversation."""
    return [], [], *idle()


def picture_problem(path: str | None) -> str:
    """What is wrong with an uploaded picture, as HTML; empty where nothing is."""
    try:
        if path is not None:
            open_picture(Path(path))
    except (ValueError, OSError) as error:
        return f'<p class="problem" role="alert">{escape(str(error))}</p>'
    return ""


def knows(pilot: Pilot) -> str:
    """What the model has seen, and what it has not, as HTML."""
    if pilot.state == "loading":
        return '<p class="note">The model is still loading; ask anyway, the answer comes then.</p>'
    return f'<p class="note">{escape(pilot.describe())} {LIMITS if pilot.answers else ""}</p>'


def validate(path: str | None, question: str | None, turns: list[Turn]) -> list[dict[str, Any]]:
    """Refuse a question that is none, beside the box it was typed into."""
    problem = scenes.question_problem(question)
    return [FINE, gr.validate(problem is None, problem or ""), FINE]


def idle() -> tuple[gr.Button, gr.Button]:
    """Ask and Stop while nothing is being answered."""
    return gr.Button(interactive=True), gr.Button(interactive=False)
