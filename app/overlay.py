"""Where the policy is about to act, as a layer over the camera picture, live and over a recorded video.

Rings and attention are read out of the action expert (`Planned.focus`, `Planned.heat`). Orange and blue of Okabe and
Ito's palette, one ring whole and one dashed, each with a word: no difference rests on colour alone.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import cache
from html import escape

import numpy as np
import PIL.Image

from app.events import Planned
from sim.objects import catalog

Focus = dict[str, tuple[float, float]]
"""u, v in [0, 1] of "source" and "target"."""

WIDTH, HEIGHT = 640, 480
RADIUS = 22
ORANGE, BLUE = "#e69f00", "#56b4e9"
SAME_PLACE = 0.05
"""Points closer than this share of the picture are one place: something to pick up, or a drawer."""
DASHES = 8
OPAQUE = 0.85
"""Opacity of the patch that is looked at most."""


@dataclass(frozen=True)
class Ring:
    """One ring around x, y [pixels of a 640 x 480 picture]."""

    label: str
    x: float
    y: float
    colour: str
    dashed: bool


def layer(planned: Planned | None, thought: str = "") -> str:
    """Attention and rings of a plan as HTML; the rings go by the names that `thought` uses. Empty without a plan."""
    return "" if planned is None else attention(planned.heat) + svg(planned.focus, thought)


def rings(focus: Focus | None, thought: str = "") -> list[Ring]:
    """The rings for what a policy points at; one where source and target coincide."""
    if not focus:
        return []
    names = [*mentioned(thought)[:2], "", ""]
    (u, v), (to_u, to_v) = focus["source"], focus["target"]
    source = Ring(names[0] or "from", u * WIDTH, v * HEIGHT, ORANGE, False)
    if abs(u - to_u) < SAME_PLACE and abs(v - to_v) < SAME_PLACE:
        return [Ring(names[0] or "here", source.x, source.y, ORANGE, False)]
    return [source, Ring(names[1] or "to", to_u * WIDTH, to_v * HEIGHT, BLUE, True)]


def mentioned(thought: str) -> list[str]:
    """Names of things on our table in the order in which a thought first uses them: what is moved, then where to."""
    return list(dict.fromkeys(_names().findall(thought.lower())))


@cache
def _names() -> re.Pattern[str]:
    longest_first = sorted({info.name for info in catalog().values()}, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b")


def svg(focus: Focus | None, thought: str = "") -> str:
    """The rings as an SVG that is laid over the picture; empty without a focus."""
    drawn = "".join(
        f'<g class="ring"><circle class="edge" cx="{ring.x:.0f}" cy="{ring.y:.0f}" r="{RADIUS}"/>'
        f'<circle cx="{ring.x:.0f}" cy="{ring.y:.0f}" r="{RADIUS}" stroke="{ring.colour}"'
        f'{f""" stroke-dasharray="{dash():.1f}" """ if ring.dashed else ""}/>'
        f'<text x="{ring.x:.0f}" y="{ring.y - RADIUS - 6:.0f}">{escape(ring.label)}</text></g>'
        for ring in rings(focus, thought)
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{drawn}</svg>' if drawn else ""


def dash() -> float:
    """Length of a dash, and of the gap behind it."""
    return 2 * 3.14159 * RADIUS / (2 * DASHES)


def attention(heat: dict[str, str] | None) -> str:
    """The attention maps as one small picture that the page stretches over the camera's; empty where there is none."""
    if not heat:
        return ""
    maps = [np.array([[int(digit, 16) for digit in row] for row in heat[name].split("/")]) for name in heat]
    strength = np.stack(maps, -1) / 15  # (rows, columns, source and target)
    colours = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (ORANGE, BLUE)])
    total = strength.sum(-1, keepdims=True)
    mixed = strength @ colours / np.maximum(total, 1e-6)
    pixels = np.concatenate([mixed, 255 * OPAQUE * strength.max(-1, keepdims=True)], -1).round().astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    return f'<img class="heat" alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
