"""A recorded rollout on one time axis, as HTML and SVG under its video: words, arm, gripper, verdict.

The axis is the video's time, which stands still for the arm while there is something to read. `page.js` moves the
playhead with the video and seeks where somebody clicks. Everything is drawn from the recording's log.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.events import Event, Frame, Outcome, Steered, ThoughtDone, from_json
from app.recording import OUTCOME_HOLD_S, Recording
from app.steering import ORDERS
from sim.interface import CONTROL_HZ

CROWDED = 0.03
"""Marks closer than this share of the axis would lie on each other."""
LANE = 24
"""Height of a curve's lane in its own units; its width is 100."""


def timeline(recording: Recording, video_id: str) -> str:
    """The timeline for the video element inside `#video_id`; empty where the log is too old to place events."""
    lines = recording.lines()[1:]
    if not lines or "video" not in lines[-1]:
        return ""
    events = [(float(line["video"]), event) for line in lines if (event := from_json(line))]
    length = events[-1][0] + OUTCOME_HOLD_S + 1 / CONTROL_HZ
    frames = [(at / length, event) for at, event in events if isinstance(event, Frame) and event.action]
    said = [(at, event) for at, event in events if not isinstance(event, Steered)]
    steered = [(at, event) for at, event in events if isinstance(event, Steered)]
    rows = [_row("words", _marks(said, length))]
    if steered:
        rows.append(_row("you", _marks(steered, length)))
    if frames:
        moves = [event.action[:3] for _, event in frames]
        turns = [event.action[3:6] for _, event in frames]
        places = [place for place, _ in frames]
        rows += [
            _row(f"move {_legend('xyz')}", _curves(places, moves), f"\u00b1{_largest(moves) * 100:.1f} cm"),
            _row(f"turn {_legend('xyz')}", _curves(places, turns), f"\u00b1{_largest(turns) * 57.3:.0f}\u00b0"),
            _row("gripper", _gripper(places, [event.action[6] for _, event in frames]), "open"),
        ]
    return (
        f'<div class="timeline" data-video="{escape(video_id)}" data-length="{length:.2f}" '
        f'role="group" aria-label="Timeline of the video">{"".join(rows)}'
        '<p class="words" aria-live="polite">Click a marker for its words, or anywhere to go there.</p></div>'
    )


def _row(name: str, lane: str, scale: str = "") -> str:
    note = f"<small>{escape(scale)}</small>" if scale else ""
    return f'<div class="row"><span class="name">{name}</span><div class="lane">{lane}{note}</div></div>'


def _marks(events: Sequence[tuple[float, Event]], length: float) -> str:
    """A button for each event that has words; those that would lie on each other share one."""
    marks: list[tuple[float, str, str, str]] = []
    for at, event in events:
        kind, sign, words = _words(event)
        if not words:
            continue
        if marks and (at - marks[-1][0]) / length < CROWDED:
            at, words = marks[-1][0], f"{marks.pop()[3]} \u00b7 {words}"
        marks.append((at, kind, sign, words))
    return "".join(
        f'<button type="button" class="mark {kind}" style="left:{100 * at / length:.2f}%" data-at="{at:.2f}" '
        f'data-words="{escape(words)}" title="{escape(words)}" '
        f'aria-label="{at:.1f} seconds: {escape(words)}">{sign}</button>'
        for at, kind, sign, words in marks
    )


def _words(event: Event) -> tuple[str, str, str]:
    """Class, sign and words of an event's mark; no words, no mark."""
    match event:
        case ThoughtDone(text=text):
            return "thought", "\u25c6", text
        case Steered(order=order, text=text, problem=problem):
            return "steered", "\u25b2", ": ".join(part for part in (ORDERS[order], text, problem) if part)
        case Outcome(success=True):
            return "success", "\u2713", "Success"
        case Outcome(stopped=stopped):
            return "missed", "\u2717", "Stopped" if stopped else "Not solved"
    return "", "", ""


def _legend(names: str) -> str:
    return "".join(f'<i class="c{index}">{name}</i>' for index, name in enumerate(names))


def _largest(rows: Sequence[Sequence[float]]) -> float:
    return max(abs(value) for row in rows for value in row)


def _curves(places: Sequence[float], rows: Sequence[Sequence[float]]) -> str:
    """One line per component around a common zero, scaled to the largest."""
    middle = LANE / 2
    scale = (middle - 1) / (_largest(rows) or 1)
    lines = (
        " ".join(f"{100 * x:.2f},{middle - y * scale:.2f}" for x, y in zip(places, column, strict=True))
        for column in zip(*rows, strict=True)
    )
    drawn = "".join(f'<polyline class="c{index}" points="{points}"/>' for index, points in enumerate(lines))
    return _svg(f'<path class="zero" d="M0 {middle}H100"/>{drawn}')


def _gripper(places: Sequence[float], opened: Sequence[float]) -> str:
    """A filled step curve: high is open."""
    steps = "".join(
        f"H{100 * place:.2f}V{(LANE - 2) * (1 - value) + 1:.2f}" for place, value in zip(places, opened, strict=True)
    )
    return _svg(f'<path class="gripper" d="M{100 * places[0]:.2f} {LANE}{steps}H100V{LANE}Z"/>')


def _svg(drawn: str) -> str:
    return f'<svg viewBox="0 0 100 {LANE}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
