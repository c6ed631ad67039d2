"""What the page shows of one rollout, drawn from its events: the line under the camera and the thoughts."""

from __future__ import annotations

import time
from html import escape

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


class Screen:
    """Takes events and keeps what the page shows up to date: `status` and `thoughts`, both HTML."""

    def __init__(self, think: bool) -> None:
        self.status = status("Setting up the scene")
        self._off = "" if think else "Thinking is off: straight from the picture to the action."
        self._thoughts: list[tuple[int, str]] = []
        self._writing = False
        self._limit = 0
        self._started = 0.0
        self._plan = ""

    def show(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case SceneReady():
                self._limit, self._started = event.spec.limit, time.monotonic()
                self.status = status("Scene ready")
            case ThoughtStarted(step=step):
                self._thoughts.append((step, ""))
                self._writing = True
                self.status = status(self._progress(step), "thinking")
            case ThoughtToken(text=text):
                step, words = self._thoughts[-1]
                self._thoughts[-1] = (step, words + text)
            case ThoughtDone():
                self._writing = False
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

    @property
    def thoughts(self) -> str:
        """Every thought so far with the step it was written at; whatever was typed or decoded is shown as text."""
        if not self._thoughts:
            return thoughts_hint(self._off)
        last = len(self._thoughts) - 1
        lines = [
            f'<p><span class="when">step {step}</span><span class="{"writing" if self._writing and i == last else ""}">'
            f"{escape(words)}</span></p>"
            for i, (step, words) in enumerate(self._thoughts)
        ]
        return f'<div class="thoughts" role="log">{"".join(lines)}</div>'

    def _progress(self, step: int) -> str:
        return f"Step {step} of {self._limit}"


def thoughts_hint(text: str) -> str:
    """The empty thoughts panel."""
    return f'<div class="thoughts"><p class="hint">{escape(text)}</p></div>'


def status(headline: str, *details: str) -> str:
    """The line under the camera while something goes on."""
    rest = "".join(f"<span>{escape(detail)}</span>" for detail in details if detail)
    return f'<div class="status" role="status"><b>{escape(headline)}</b>{rest}</div>'


def verdict(outcome: Outcome) -> str:
    """The line under the camera when it is over, with the rule that decided."""
    kind, headline = "missed", "Not solved"
    if outcome.success:
        kind, headline = "success", "Success"
    elif outcome.stopped:
        kind, headline = "stopped", "Stopped"
    details = "".join(
        f"<span>{part}</span>"
        for part in (
            f"{outcome.steps} steps",
            f"{outcome.steps / CONTROL_HZ:.1f} s simulated",
            f"{outcome.seconds:.1f} s elapsed",
        )
    )
    rule = f"<p>Success means: {escape(outcome.rule)}.</p>"
    return f'<div class="status outcome {kind}" role="status"><b>{headline}</b>{details}{rule}</div>'


def failure(message: str) -> str:
    """The line under the camera when it could not go on."""
    return f'<div class="status outcome failed" role="alert"><b>Could not go on</b><p>{escape(message)}</p></div>'
