"""Pictures for the wall behind the table, 1024 x 512 px: soft and low in contrast, the objects are the subject."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from modelling import textures as tx

WIDTH, HEIGHT = 1024, 512
SCALE = 2  # drawn larger, then reduced: smooth edges
Draw = ImageDraw.ImageDraw
RGB = tuple[int, int, int]


def start(colour: RGB) -> tuple[Image.Image, Draw]:
    picture = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), colour)
    return picture, ImageDraw.Draw(picture)


def rect(draw: Draw, x0: float, y0: float, x1: float, y1: float, fill: RGB, radius: float = 0) -> None:
    draw.rounded_rectangle([v * SCALE for v in (x0, y0, x1, y1)], radius * SCALE, fill=fill)


def shade(colour: RGB, factor: float) -> RGB:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


def finish(picture: Image.Image, seed: int, blur: float = 1.6) -> Image.Image:
    """Reduce, soften as out of focus, and add a light fall-off with faint unevenness."""
    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))
    u, v = tx.canvas(WIDTH, HEIGHT)
    light = 1.03 - 0.16 * ((u - 0.42) ** 2 + 0.6 * (v - 0.6) ** 2) + 0.03 * (tx.noise(u, v, (5, 3), seed) - 0.5)
    return tx.image(np.asarray(small, float) * light[..., None], 85)


def kitchen() -> Image.Image:
    picture, draw = start((206, 202, 194))
    for row in range(8):
        for column in range(-1, 12):
            x = column * 92 + 46 * (row % 2)
            rect(
                draw,
                x + 2,
                96 + row * 40 + 2,
                x + 90,
                96 + row * 40 + 38,
                shade((226, 229, 226), 0.97 + 0.01 * ((row * 7 + column * 5) % 5)),
                3,
            )
    for x in range(0, WIDTH, 256):
        rect(draw, x + 4, -10, x + 252, 92, (116, 140, 130), 4)
        rect(draw, x + 22, -10, x + 234, 76, (126, 150, 140), 4)
        rect(draw, x + 112, 78, x + 144, 84, (70, 76, 74), 3)
    rect(draw, 0, 150, WIDTH, 158, (150, 152, 150))
    for x, colour in (
        (180, (188, 120, 84)),
        (236, (70, 82, 92)),
        (296, (196, 168, 92)),
        (742, (150, 158, 162)),
        (812, (120, 84, 62)),
    ):
        rect(draw, x, 158, x + 5, 196, (120, 120, 116))
        rect(draw, x - 15, 196, x + 20, 244, colour, 10)
    rect(draw, 0, 416, WIDTH, HEIGHT, (176, 146, 112))
    rect(draw, 0, 416, WIDTH, 426, (200, 172, 136))
    return finish(picture, 100)


def bookshelf() -> Image.Image:
    picture, draw = start((128, 92, 62))
    rng = np.random.default_rng(101)
    palette = [
        (150, 62, 54),
        (64, 92, 120),
        (196, 176, 130),
        (84, 112, 80),
        (206, 200, 188),
        (120, 82, 110),
        (188, 134, 66),
    ]
    for top in (14, 184, 354):
        rect(draw, 0, top, WIDTH, top + 150, (84, 60, 42))
        x = 10.0
        while x < WIDTH - 10:
            if rng.random() < 0.08:
                x += float(rng.uniform(30, 70))
                continue
            width, height = float(rng.uniform(15, 36)), float(rng.uniform(96, 140))
            colour = shade(palette[int(rng.integers(len(palette)))], float(rng.uniform(0.8, 1.08)))
            rect(draw, x, top + 150 - height, x + width, top + 150, colour, 2)
            rect(draw, x + 2, top + 150 - height * 0.8, x + width - 2, top + 150 - height * 0.72, shade(colour, 1.3))
            x += width + 1.5
        rect(draw, 0, top + 150, WIDTH, top + 170, (150, 110, 76))
    return finish(picture, 102, 2.2)


def workshop() -> Image.Image:
    picture, draw = start((196, 166, 126))
    for x in range(12, WIDTH, 24):
        for y in range(12, 440, 24):
            rect(draw, x - 2, y - 2, x + 2, y + 2, (146, 118, 86), 2)
    for k, x in enumerate(range(90, 480, 70)):
        rect(draw, x, 70, x + 22, 70 + 60 + 6 * k, ((176, 58, 48), (58, 92, 140), (204, 158, 60))[k % 3], 8)
        rect(draw, x + 8, 128 + 6 * k, x + 14, 250 + 8 * k, (150, 154, 160), 2)
    rect(draw, 600, 90, 618, 300, (120, 84, 56), 6)
    rect(draw, 566, 80, 656, 116, (92, 96, 104), 6)
    rect(draw, 720, 84, 940, 104, (140, 146, 152), 3)
    rect(draw, 720, 80, 772, 150, (170, 78, 56), 12)
    rect(draw, 700, 236, 960, 252, (120, 92, 64))
    for x, colour in ((716, (72, 110, 96)), (782, (190, 92, 64)), (848, (84, 96, 140)), (906, (200, 176, 96))):
        rect(draw, x, 184, x + 44, 236, colour, 4)
    rect(draw, 0, 440, WIDTH, HEIGHT, (126, 100, 74))
    return finish(picture, 103)


def window() -> Image.Image:
    picture, draw = start((222, 212, 196))
    rect(draw, 300, 20, 740, 400, (246, 244, 238), 4)
    for x0, x1 in ((318, 510), (530, 722)):
        rect(draw, x0, 38, x1, 382, (178, 208, 226))
        rect(draw, x0, 280, x1, 382, (148, 178, 136))
        draw.ellipse([v * SCALE for v in (x0 + 12, 200, x0 + 120, 330)], fill=(126, 162, 116))
        rect(draw, x0, 206, x1, 214, (246, 244, 238))
    rect(draw, 280, 398, 760, 418, (236, 232, 224), 3)
    for left in (200, 706):
        for fold in range(8):
            rect(
                draw, left + fold * 17, 0, left + fold * 17 + 18, 440, shade((196, 150, 128), 0.92 + 0.09 * (fold % 3))
            )
    rect(draw, 180, 0, 860, 12, (110, 84, 64))
    rect(draw, 0, 470, WIDTH, HEIGHT, (238, 234, 226))
    return finish(picture, 104, 2.4)


def bricks() -> Image.Image:
    picture, draw = start((190, 180, 168))
    rng = np.random.default_rng(105)
    for row in range(13):
        for column in range(-1, 11):
            x, y = column * 104 + 52 * (row % 2), row * 40
            rect(draw, x + 3, y + 3, x + 101, y + 37, shade((168, 98, 76), float(rng.uniform(0.86, 1.1))), 3)
    return finish(picture, 106)


def plain() -> Image.Image:
    picture, draw = start((202, 210, 206))
    rect(draw, 0, 440, WIDTH, HEIGHT, (236, 236, 230))
    rect(draw, 0, 436, WIDTH, 442, (184, 190, 186))
    return finish(picture, 107)


BACKDROPS: dict[str, Callable[[], Image.Image]] = {
    "kitchen": kitchen,
    "bookshelf": bookshelf,
    "workshop": workshop,
    "window": window,
    "bricks": bricks,
    "plain": plain,
}
