"""What the page shows of one rollout, drawn from its events: the transcript and the line under the camera."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from app.events import (
    Event,
    Failure,
    Frame,
    Outcome,
    Planned,
    SceneReady,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
)
from sim.interface import CONTROL_HZ

Message = dict[str, Any]


class Screen:
    """Takes events, keeps `messages` (for gr.Chatbot) and `status` (HTML) up to date."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = status("Setting up the scene")
        self._limit = 0
        self._started = 0.0
        self._plan = ""

    def show(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case SceneReady():
                self._limit, self._started = event.spec.limit, time.monotonic()
                self.messages = [{"role": "user", "content": event.instruction}]
                self.status = status("Scene ready")
            case ThoughtStarted(step=step):
                title = "Thinking" if step == 0 else f"Thinking again, step {step}"
                self.messages.append(thought("", title, "pending"))
                self.status = status("Thinking", self._progress(step))
            case ThoughtToken(text=text):
                self.messages[-1] = thought(self.messages[-1]["content"] + text, self.messages[-1]["metadata"]["title"], "pending")
            case ThoughtDone(text=text):
                title = self.messages[-1]["metadata"]["title"].replace("Thinking again", "Thought again").replace("Thinking", "Thought")
                self.messages[-1] = thought(text, title, "done")
            case Planned(timings=timings) if timings:
                self._plan = f"planned in {sum(timings.values()):.0f} ms"
            case Frame(step=step):
                rate = step / max(time.monotonic() - self._started, 1e-3)
                pace = f"{rate:.1f} steps/s ({rate / CONTROL_HZ:.1f}\u00d7 real time)"
                self.status = status(self._progress(step), f"{step / CONTROL_HZ:.1f} s simulated", pace, self._plan)
            case Outcome():
                self.status = verdict(event)
            case Failure(message=message):
                self.status = failure(message)

    def _progress(self, step: int) -> str:
        return f"Step {step} of {self._limit}"


def thought(text: str, title: str, state: str) -> Message:
    """One collapsible thought."""
    return {"role": "assistant", "content": text, "metadata": {"title": title, "status": state}}


def status(headline: str, *details: str) -> str:
    """The line under the camera while something goes on."""
    rest = "".join(f"<span>{escape(detail)}</span>" for detail in details if detail)
    return f'<div class="status" role="status"><b>{escape(headline)}</b>{rest}</div>'


def verdict(outcome: Outcome) -> str:
    """The line under the camera when it is over, with the rule that decided."""
    kind, headline = ("success", "Success") if outcome.success else ("stopped", "Stopped") if outcome.stopped else ("missed", "Not solved")
    details = f"<span>{outcome.steps} steps</span><span>{outcome.seconds:.1f} s</span>"
    rule = f"<p>Success means: {escape(outcome.rule)}.</p>"
    return f'<div class="status outcome {kind}" role="status"><b>{headline}</b>{details}{rule}</div>'


def failure(message: str) -> str:
    """The line under the camera when it could not go on."""
    return f'<div class="status outcome failed" role="alert"><b>Could not go on</b><p>{escape(message)}</p></div>'
