"""Ask tab: a picture (or several), questions about it, and the same model's answers as they are decoded."""

from __future__ import annotations

import logging
import re
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
LIMITS = "About anything else it guesses, and it can be wrong about what it knows."
ONE_PICTURE = "It looks at one picture at a time."
MARKUP = re.compile(r"<[A-Za-z/!?]|&#?\w+;")
CUT = " \u2026 (stopped)"


def build(opened: gr.Tab, pilot: Pilot, camera: gr.Image) -> None:
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
            with gr.Row(elem_id="more-pictures"):
                current = gr.Button("Use the robot's camera", size="sm", elem_id="use-camera", min_width=150)
                more = gr.Button("Add a picture", size="sm", visible=pilot.pictures > 1, elem_id="more", min_width=110)
            strip = gr.Gallery(
                label="Earlier pictures, in order; the one above comes last",
                columns=4,
                height=110,
                interactive=False,
                buttons=[],
                visible=False,
                elem_id="kept",
            )
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
                render_markdown=False,  # see `literal`
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
    turns, kept = gr.State([]), gr.State([])
    tab = Tab(pilot)

    answering = gr.on(
        [ask.click, question.submit],
        tab.ask,
        [picture, kept, question, turns],
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
    gr.on([clear.click, chat.clear], lambda: (*keep([]), *start_over()), None, [kept, strip, *fresh], **anew)
    picture.input(lambda path: (picture_problem(path), *start_over()), picture, [problem, *fresh], **anew)
    more.click(tab.add, [picture, kept], [kept, strip, picture, problem, *fresh], **anew)
    chosen = [picture, problem, *fresh]
    current.click(lambda frame: (frame, "", *start_over()), camera, chosen, **anew)
    examples.click(lambda index: (pictures[index], "", *start_over()), examples, chosen, **anew)
    suggestions.click(lambda index: QUESTIONS[index], suggestions, question, **HIDDEN)
    ready = lambda: (knows(pilot), gr.Button(visible=pilot.pictures > 1))  # noqa: E731
    gr.on([opened.select, question.focus, picture.change], ready, None, [known, more], **HIDDEN)


class Tab:
    """The handlers: each takes what the visitor gave and gives back what changes on the page."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self._stops: dict[str, threading.Event] = {}

    def ask(
        self, path: str | None, kept: list[str], question: str, turns: list[Turn], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Stream an answer about the `kept` pictures and the present one.

        Stop ends it with the present word, and so does closing the iterator.
        """
        question, answer = question.strip(), ""
        stop = self._stops[request.session_hash or ""] = threading.Event()
        running = gr.Button(interactive=False), gr.Button(interactive=True)
        yield conversation(turns, question, "\u2026"), gr.skip(), "", *running
        try:
            for piece in self._answer([*kept, path] if path else kept, question, turns):
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

    def add(self, path: str | None, kept: list[str]) -> tuple[Any, ...]:
        """Put the present picture aside and make room for another one."""
        most = self._pilot.pictures
        if problem := picture_problem(path):
            return *keep(kept), path, problem, *start_over()
        if path is not None and len(kept) + 1 >= most:
            return *keep(kept), path, complaint(f"This model looks at {most} pictures at most."), *start_over()
        return *keep([*kept, path] if path else kept), None, "", *start_over()

    def _answer(self, paths: Sequence[str], question: str, turns: list[Turn]) -> Iterator[str]:
        if not paths:
            raise ValueError("Choose a picture first: upload one, take one, or click one of the scenes.")
        if self._pilot.state == "loading":
            raise ValueError("The model is still loading: ask again in a few seconds.")
        if self._pilot.state == "failed":
            raise ValueError(f'{self._pilot.error} Run "python app.py doctor" to see what is missing.')
        return self._pilot.ask([open_picture(Path(path)) for path in paths], question, turns[-REMEMBERED:])


def conversation(turns: Sequence[Turn], question: str | None = None, answer: str = "") -> list[dict[str, str]]:
    """Finished turns and the one in progress as the messages of a chat."""
    said = [*turns, (question, answer)] if question is not None else turns
    roles = ("user", "assistant")
    return [{"role": role, "content": literal(text)} for turn in said for role, text in zip(roles, turn, strict=True)]


def literal(text: str) -> str:
    """Text that the chat, which reads HTML even where it reads no Markdown, shows as it stands."""
    return re.sub(r"&(?=#|[A-Za-z])", "&amp;", text).replace("<", "&lt;") if MARKUP.search(text) else text


def start_over() -> tuple[Any, ...]:
    """Another picture is another conversation."""
    return [], [], *idle()


def keep(kept: list[str]) -> tuple[list[str], gr.Gallery]:
    """The pictures put aside, and how they are shown."""
    return kept, gr.Gallery([(path, f"{number}") for number, path in enumerate(kept, 1)], visible=bool(kept))


def picture_problem(path: str | None) -> str:
    """What is wrong with an uploaded picture, as HTML; empty where nothing is."""
    try:
        if path is not None:
            open_picture(Path(path))
    except (ValueError, OSError) as error:
        return complaint(str(error))
    return ""


def complaint(sentence: str) -> str:
    """What is wrong, as HTML."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def knows(pilot: Pilot) -> str:
    """What the model has seen, in the words of its checkpoint, and what it has not, as HTML."""
    if pilot.state == "loading":
        return '<p class="note">The model is still loading: ask again in a few seconds.</p>'
    said = [pilot.describe(), LIMITS if pilot.pictures else "", ONE_PICTURE if pilot.pictures == 1 else ""]
    return f'<p class="note">{" ".join(f"<span>{escape(sentence)}</span>" for sentence in said if sentence)}</p>'


def validate(
    path: str | None, kept: list[str], question: str | None, turns: list[Turn]
) -> list[dict[str, Any]]:
    """Refuse a question that is none, beside the box it was typed into."""
    problem = scenes.question_problem(question)
    return [FINE, FINE, gr.validate(problem is None, problem or ""), FINE]


def idle() -> tuple[gr.Button, gr.Button]:
    """Ask and Stop while nothing is being answered."""
    return gr.Button(interactive=True), gr.Button(interactive=False)
