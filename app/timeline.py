"""A recorded rollout on one time axis, as HTML and SVG under its video: words, gates, arm, gripper, verdict, times.

The axis is the video's time, which stands still for the arm while there is something to read. `page.js` moves the
playhead with the video, seeks where somebody clicks, says what was said there, and lays rings and attention over the
video. Everything is drawn from the recording's log, and every curve says in words what it shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from app.events import (
    Event,
    Frame,
    Outcome,
    Planned,
    Steered,
    StepTiming,
    ThoughtDone,
    ThoughtToken,
    from_json,
)
from app.overlay import layer
from app.recording import OUTCOME_HOLD_S, Recording, reading_time
from app.steering import ORDERS
from app.waterfall import Step, Waterfall
from sim.interface import CONTROL_HZ

CROWDED = 0.03
"""Marks closer than this share of the axis would lie on each other."""
LANE = 24.0
"""Height of a curve's lane in its own units; its width is 100."""


def timeline(recording: Recording, video_id: str) -> str:
    """The timeline for the video element inside `#video_id`; empty where the log is too old to place events."""
    lines = recording.lines()[1:]
    if not lines or "video" not in lines[-1]:
        return ""
    events = [(float(line["video"]), event) for line in lines if (event := from_json(line))]
    length = events[-1][0] + OUTCOME_HOLD_S + 1 / CONTROL_HZ
    acted = [(at, event) for at, event in events if isinstance(event, Frame) and event.action]
    said = [(at, event) for at, event in events if not isinstance(event, Steered)]
    steered = [(at, event) for at, event in events if isinstance(event, Steered)]
    rows = [_row("time", _scrubber(length)), _row("words", _marks(said, length))]
    if steered:
        rows.append(_row("you", _marks(steered, length)))
    if gates := _gates(events, length):
        words = [event.gate for _, event in events if isinstance(event, ThoughtToken) and event.gate is not None]
        told = f"On average {sum(words) / len(words):.0%}."
        rows.append(_row("gate", _steps(gates, "gate", told), "action expert\u2019s share"))
    if acted:
        moves = [event.action[:3] for _, event in acted]
        turns = [event.action[3:6] for _, event in acted]
        grips = [(at / length, event.action[6]) for at, event in acted]
        holds = [(at / length, float(event.success)) for at, event in acted]
        places = [at / length for at, _ in acted]
        far, wide = f"{_largest(moves) * 100:.1f} cm", f"{_largest(turns) * 57.3:.0f}\u00b0"
        opens = _switches(grips, length, ("Open from {} s.", "Closed from {} s."))
        solves = _switches(holds, length, ("Holds from {} s.", "Does not hold from {} s."))
        rows += [
            _row(f"move {_legend('xyz')}", _curves(places, moves, f"At most {far} in a step."), f"\u00b1{far}"),
            _row(f"turn {_legend('xyz')}", _curves(places, turns, f"At most {wide} in a step."), f"\u00b1{wide}"),
            _row("gripper", _steps(grips, "gripper", opens), "open"),
        ]
        if acted[0][1].proprio:  # older logs say nothing of the rule before the end
            rows.append(_row("success", _steps(holds, "success", solves), "rule holds"))
    timed = _timed(events)
    if timed:
        slowest = max(step.total for _, step in timed)
        mean = sum(step.total for _, step in timed) / len(timed)
        told = f"{len(timed)} steps of {mean:.0f} ms on average, the slowest {slowest:.0f} ms."
        columns = _columns([(at / length, step) for at, step in timed], slowest, told)
        rows.append(_row("latency", columns, f"{slowest:.0f} ms"))
    data = {"steps": [[at, step.text] for at, step in timed], "layers": _layers(events)}
    return (
        f'<div class="timeline" data-video="{escape(video_id)}" data-length="{length:.2f}" '
        f'data-told="{escape(json.dumps(data))}" role="group" aria-label="Timeline of the video">{"".join(rows)}'
        '<p class="words" aria-live="polite">Click a marker for its words, or anywhere to go there.</p></div>'
    )


def _scrubber(length: float) -> str:
    """One handle for everything; with the keyboard, too."""
    return (
        f'<input type="range" class="scrub" min="0" max="{length:.2f}" step="{1 / CONTROL_HZ}" value="0" '
        'aria-label="Place in the video, in seconds">'
    )


def _gates(events: Sequence[tuple[float, Event]], length: float) -> list[tuple[float, float]]:
    """(place, action expert's share) of every piece of every thought, spread over the time it stands on the video."""
    spread: list[tuple[float, float]] = []
    words: list[float] = []
    for at, event in events:
        if isinstance(event, ThoughtToken) and event.gate is not None:
            words.append(event.gate)
        elif isinstance(event, ThoughtDone) and words:
            shown = reading_time(event.text)
            spread += [((at + shown * index / len(words)) / length, gate) for index, gate in enumerate(words)]
            spread.append(((at + shown) / length, 0.0))
            words = []
    return spread


def _timed(events: Sequence[tuple[float, Event]]) -> list[tuple[float, Step]]:
    """(seconds of the video, times) of every control step."""
    waterfall, at_step = Waterfall(), []
    for at, event in events:
        waterfall.add(event)
        if isinstance(event, StepTiming):
            at_step.append(at)
    return list(zip(at_step, waterfall.steps, strict=True))


def _layers(events: Sequence[tuple[float, Event]]) -> list[tuple[float, str]]:
    """(seconds of the video, `overlay.layer`) wherever that changes."""
    layers, thought = [], ""
    for at, event in events:
        if isinstance(event, ThoughtDone):
            thought = event.text
        elif isinstance(event, Planned) and (drawn := layer(event, thought)):
            layers.append((at, drawn))
        elif isinstance(event, Outcome) and layers:
            layers.append((at, ""))
    return layers


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


def _switches(points: Sequence[tuple[float, float]], length: float, sentences: tuple[str, str]) -> str:
    """When a curve of (place, value in 0..1) begins and when it rises or falls, as the first or the second sentence."""
    states = [(place, value > 0.5) for place, value in points]
    turns = states[:1] + [now for before, now in pairwise(states) if now[1] != before[1]]
    return " ".join(sentences[not up].format(f"{place * length:.1f}") for place, up in turns)


def _curves(places: Sequence[float], rows: Sequence[Sequence[float]], told: str) -> str:
    """One line per component around a common zero, scaled to the largest."""
    middle = LANE / 2
    scale = (middle - 1) / (_largest(rows) or 1)
    lines = (
        " ".join(f"{100 * x:.2f},{middle - y * scale:.2f}" for x, y in zip(places, column, strict=True))
        for column in zip(*rows, strict=True)
    )
    drawn = "".join(f'<polyline class="c{index}" points="{points}"/>' for index, points in enumerate(lines))
    return _svg(f'<path class="zero" d="M0 {middle}H100"/>{drawn}', told)


def _steps(points: Sequence[tuple[float, float]], kind: str, told: str) -> str:
    """A filled step curve of (place, value in 0..1)."""
    steps = "".join(f"H{100 * place:.2f}V{(LANE - 2) * (1 - value) + 1:.2f}" for place, value in points)
    return _svg(f'<path class="{kind}" d="M{100 * points[0][0]:.2f} {LANE}{steps}H100V{LANE}Z"/>', told)


def _columns(steps: Sequence[tuple[float, Step]], slowest: float, told: str) -> str:
    """A column per control step, its parts on top of each other."""
    bars, width = [], 60 / max(len(steps), 30)
    for place, step in steps:
        top = LANE
        for part, ms in step.parts.items():
            height = (LANE - 1) * ms / slowest
            top -= height
            bars.append(
                f'<rect class="{part}" x="{100 * place:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"/>'
            )
    return _svg("".join(bars), told)


def _svg(drawn: str, told: str) -> str:
    return f'<svg viewBox="0 0 100 {LANE}" preserveAspectRatio="none" role="img" aria-label="{told}">{drawn}</svg>'
