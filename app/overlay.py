"""Where the policy is about to act, as rings over the camera picture: an SVG on the page, pixels in a recording.

The points are read out of the action expert (`Planned.focus`). Orange and blue of Okabe and Ito's palette, one ring
whole and one dashed, each with a word: no difference rests on colour alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

Focus = dict[str, tuple[float, float]]
"""u, v in [0, 1] of "source" and "target"."""

WIDTH, HEIGHT = 640, 480
RADIUS = 22
ORANGE, BLUE, INK = "#e69f00", "#56b4e9", "#111827"
SAME_PLACE = 0.05
"""Points closer than this share of the picture are one place: something to pick up, or a drawer."""
DASHES = 8


@dataclass(frozen=True)
class Ring:
    """One ring around x, y [pixels of a 640 x 480 picture]."""

    label: str
    x: float
    y: float
    colour: str
    dashed: bool


def rings(focus: Focus | None) -> list[Ring]:
    """The rings for what a policy points at; one where source and target coincide."""
    if not focus:
        return []
    (u, v), (to_u, to_v) = focus["source"], focus["target"]
    source = Ring("from", u * WIDTH, v * HEIGHT, ORANGE, False)
    if abs(u - to_u) < SAME_PLACE and abs(v - to_v) < SAME_PLACE:
        return [Ring("here", source.x, source.y, ORANGE, False)]
    return [source, Ring("to", to_u * WIDTH, to_v * HEIGHT, BLUE, True)]


def svg(focus: Focus | None) -> str:
    """The rings as an SVG that is laid over the picture; empty without a focus."""
    drawn = "".join(
        f'<g class="ring"><circle class="edge" cx="{ring.x:.0f}" cy="{ring.y:.0f}" r="{RADIUS}"/>'
        f'<circle cx="{ring.x:.0f}" cy="{ring.y:.0f}" r="{RADIUS}" stroke="{ring.colour}"'
        f'{f""" stroke-dasharray="{dash():.1f}" """ if ring.dashed else ""}/>'
        f'<text x="{ring.x:.0f}" y="{ring.y - RADIUS - 6:.0f}">{escape(ring.label)}</text></g>'
        for ring in rings(focus)
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{drawn}</svg>' if drawn else ""


def dash() -> float:
    """Length of a dash, and of the gap behind it."""
    return 2 * 3.14159 * RADIUS / (2 * DASHES)


def drawn(jpeg: bytes, focus: Focus | None) -> bytes:
    """A camera frame with the rings in it."""
    if not focus:
        return jpeg
    picture = PIL.Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = picture.width / WIDTH
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(max(8, round(18 * scale)))
    for ring in rings(focus):
        x, y, radius = ring.x * scale, ring.y * scale, RADIUS * scale
        draw.circle((x, y), radius + 2 * scale, outline=INK, width=max(1, round(6 * scale)))
        box, step = (x - radius, y - radius, x + radius, y + radius), 360 / DASHES
        for part in range(DASHES):
            length = step / 2 if ring.dashed else step + 1
            draw.arc(box, part * step, part * step + length, fill=ring.colour, width=max(1, round(3 * scale)))
        where = (x, y - radius - 6 * scale)
        draw.text(where, ring.label, "white", font, "mb", stroke_width=max(1, round(2 * scale)), stroke_fill=INK)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
