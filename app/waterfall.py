"""Where the time of each control step went, as bars: live for the latest steps, and as a lane of the timeline."""

from __future__ import annotations

from dataclasses import dataclass

from app.events import Event, Planned, StepTiming
from sim.interface import CONTROL_HZ

PARTS = {
    "think": "think",
    "latent": "latent",
    "flow": "flow",
    "policy": "other",
    "simulator": "simulator",
    "render": "render",
    "encode": "encode",
}
"""In the order in which they happen, and their names on the page; "other" is what else the policy did."""
SHOWN = 8
"""Steps on the page: one plan of the nano and what it leads to."""
NOTABLE_MS = 1.0


@dataclass(frozen=True)
class Step:
    """One control step: milliseconds per part, those that took none left out."""

    step: int
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Milliseconds from the picture to the next one."""
        return sum(self.parts.values())

    @property
    def text(self) -> str:
        """The step in one line."""
        named = ", ".join(f"{PARTS[part]} {ms:.0f}" for part, ms in self.parts.items())
        return f"step {self.step}, {self.total:.0f} ms: {named}"


class Waterfall:
    """Takes events and keeps every step's times."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._plan: dict[str, float] = {}

    def add(self, event: Event) -> None:
        """Take the next event; only plans and timings count."""
        if isinstance(event, Planned):
            self._plan = event.timings
        elif isinstance(event, StepTiming):
            self.steps.append(Step(event.step, _parts(self._plan, event)))
            self._plan = {}

    def html(self) -> str:
        """The latest steps, one row each, and the pace of all; rows keep their place, so that nothing jumps."""
        shown = self.steps[-SHOWN:]
        longest = max((step.total for step in shown), default=1.0)
        rows = "".join(_row(step, longest) for step in shown) + '<div class="row"></div>' * (SHOWN - len(shown))
        latest = {part: ms for step in shown for part, ms in step.parts.items()}
        told = {part: f"{latest[part]:.0f} ms" if part in latest else "\u2013" for part in PARTS}
        legend = "".join(f'<span><i class="{part}"></i>{PARTS[part]} {ms}</span>' for part, ms in told.items())
        return f'<div class="waterfall"><p>{self.pace()}</p>{rows}<p class="legend">{legend}</p></div>'

    def pace(self) -> str:
        """The effective rate of control beside the simulated one."""
        if not self.steps:
            return "Where each control step\u2019s time goes."
        seconds = sum(step.total for step in self.steps) / 1e3
        simulated = len(self.steps) / CONTROL_HZ
        rate = len(self.steps) / max(seconds, 1e-6)
        pace = f"{rate:.1f} steps/s, the robot\u2019s clock has {CONTROL_HZ}"
        return f"{simulated:.1f} s simulated in {seconds:.1f} s: {pace}"


def _parts(plan: dict[str, float], timing: StepTiming) -> dict[str, float]:
    latent, flow = plan.get("plan", 0.0), plan.get("flow", 0.0)
    parts = {
        "think": plan.get("think", 0.0),
        "latent": latent,
        "flow": flow,
        "policy": timing.policy_ms - latent - flow,
        "simulator": timing.simulator_ms - timing.render_ms - timing.encode_ms,
        "render": timing.render_ms,
        "encode": timing.encode_ms,
    }
    return {part: ms for part, ms in parts.items() if ms >= (NOTABLE_MS if part == "policy" else 1e-3)}


def _row(step: Step, longest: float) -> str:
    bars = "".join(f'<i class="{part}" style="width:{100 * ms / longest:.2f}%"></i>' for part, ms in step.parts.items())
    return (
        f'<div class="row" title="{step.text}"><span>step {step.step}</span>'
        f'<span class="bar" role="img" aria-label="{step.text}">{bars}</span><span>{step.total:.0f} ms</span></div>'
    )
