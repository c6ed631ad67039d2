"""What the page shows of one rollout, drawn from its events: status line, rings, times, log of thoughts and orders."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape

from app import overlay
from app.events import (
    Event,
    Failure,
    Frame,
    Outcome,
    Planned,
    SceneReady,
    Steered,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
)
from app.steering import ORDERS
from app.waterfall import Waterfall
from sim.interface import CONTROL_HZ


@dataclass
class Entry:
    """One paragraph of the log: words with the action expert's share in each, where it is known."""

    step: int
    words: list[tuple[str, float | None]] = field(default_factory=list)
    order: str = ""
    """What the visitor did; empty for a thought."""


class Screen:
    """Takes events and keeps what the page shows up to date: `status`, `thoughts`, `layer` and `times`, all HTML."""

    def __init__(self, think: bool, paced: bool = True) -> None:
        """Not `paced` leaves out the control rate, which says nothing where two rollouts share the machine."""
        self.status = status("Setting up the scene")
        self.thought = ""
        """The latest whole thought."""
        self._off = "" if think else "Thinking is off: straight from the picture to the action."
        self._log: list[Entry] = []
        self._planned: Planned | None = None
        self._waterfall = Waterfall()
        self._paced = paced
        self._writing = self._paused = False
        self._limit = 0
        self._since = (0, 0.0)
        self._plan = ""

    def show(self, event: Event) -> None:
        """Take the next event."""
        self._waterfall.add(event)
        match event:
            case SceneReady():
                self._limit, self._since = event.spec.limit, (0, time.monotonic())
                self.status = status("Scene ready")
            case ThoughtStarted(step=step):
                self._log.append(Entry(step))
                self._writing, self._planned = True, None  # what the last plan aimed at has been done
                self.status = status("Thinking", self._progress(step))
            case ThoughtToken(text=text, gate=gate):
                self._log[-1].words.append((text, gate))
            case ThoughtDone(text=text):
                self._writing, self.thought = False, text
            case Planned(timings=timings):
                self._planned = event
                if timings:
                    self._plan = f"planned in {sum(timings.values()):.0f} ms"
            case Frame(step=step):
                self.status = status(*self._pace(step), self._plan)
            case Steered(order="pause" | "step" | "resume" as order, step=step):
                self._paused, self._since = order != "resume", (step, time.monotonic())
                self.status = status("Paused" if self._paused else "Moving", f"before step {step + 1}")
            case Steered(order=order, step=step, text=text, problem=problem) if text:
                note = f"{ORDERS[order]}, refused" if problem else ORDERS[order]
                self._log.append(Entry(step, [(problem or text, None)], note))
                if order == "rethink" and not problem:
                    self.thought = text
            case Outcome():
                self.status, self._planned = verdict(event), None
            case Failure(message=message):
                self.status, self._planned = failure(message), None

    @property
    def layer(self) -> str:
        """Where the policy is about to act and what it attends to, to be laid over the camera."""
        return overlay.layer(self._planned, self.thought)

    @property
    def times(self) -> str:
        """Where the time of the latest control steps went."""
        return self._waterfall.html()

    @property
    def thoughts(self) -> str:
        """Every thought and order so far with its step; whatever was typed or decoded is shown as text."""
        if not self._log:
            return thoughts_hint(self._off)
        last = self._log[-1]
        lines = [
            f'<p><span class="when">step {entry.step}</span>'
            + (f'<span class="order">{escape(entry.order)}:</span> ' if entry.order else "")
            + f'<span class="{"writing" if self._writing and entry is last else ""}">{_words(entry)}</span>'
            + f"{_share(entry)}</p>"
            for entry in self._log
        ]
        gated = any(gate is not None for entry in self._log for _, gate in entry.words)
        return _scrolling("".join(lines), busy=self._writing) + (GATE_LEGEND if gated else "")

    def _pace(self, step: int) -> tuple[str, ...]:
        """Headline and details after a control step; the rate leaves out what went before a pause."""
        simulated = f"{step / CONTROL_HZ:.1f} s simulated"
        if self._paused:
            return "Paused", self._progress(step), simulated
        first, since = self._since
        rate = (step - first) / max(time.monotonic() - since, 1e-3)
        pace = f"{rate:.1f} steps/s ({rate / CONTROL_HZ:.1f}\u00d7 real time)" if self._paced else ""
        return "Moving", self._progress(step), simulated, pace

    def _progress(self, step: int) -> str:
        return f"Step {step} of {self._limit}"


GATE_LEGEND = (
    '<p class="gate-legend"><i style="--gate: 0"></i>language expert <i style="--gate: 1"></i>action expert: '
    "whose weights each word came from</p>"
)


def _words(entry: Entry) -> str:
    """The words, with a strip of colour under those whose gate is known."""
    return "".join(
        escape(text)
        if gate is None
        else f'<span class="gated" style="--gate: {gate:.2f}" title="action expert {gate:.0%}">{escape(text)}</span>'
        for text, gate in entry.words
    )


def _share(entry: Entry) -> str:
    """The action expert's share in all the words, for those who do not see the strip."""
    gates = [gate for _, gate in entry.words if gate is not None]
    return f' <span class="heard">action expert {sum(gates) / len(gates):.0%}</span>' if gates else ""


def thoughts_hint(text: str) -> str:
    """The empty thoughts panel."""
    return _scrolling(f'<p class="hint">{escape(text)}</p>')


def _scrolling(log: str, busy: bool = False) -> str:
    """A panel whose height does not depend on how much is in it; while `busy` a screen reader waits for the rest."""
    return (
        f'<div class="thoughts" tabindex="0"><div role="log" aria-label="Thoughts" aria-busy="{str(busy).lower()}">'
        f"{log}</div></div>"
    )


def status(headline: str, *details: str) -> str:
    """The line under the camera while something goes on; screen readers are told the headline when it changes."""
    rest = "".join(f"<span>{escape(detail)}</span>" for detail in details if detail)
    return f'<div class="status"><b role="status">{escape(headline)}</b>{rest}</div>'


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
    return f'<div class="status outcome {kind}"><b role="status">{headline}</b>{details}{rule}</div>'


def failure(message: str) -> str:
    """The line under the camera when it could not go on."""
    return f'<div class="status outcome failed" role="alert"><b>Could not go on</b><p>{escape(message)}</p></div>'
