"""A stranger's picture, decided on before it is unpacked: what is refused is refused in one sentence.

A picture of 164 kB can unpack to gigabytes, and opening one in an exotic format starts code that nobody here needs.
So only five formats are looked at, nothing is unpacked before its byte and pixel counts are known, and how many pixels
a format may have is what it can unpack within 50 MB.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import PIL.PngImagePlugin

from sim.interface import Image

MAX_BYTES = 10_000_000
MAX_PIXELS = 25_000_000
"""A phone's JPEG has 12 or 24 million, and is never unpacked at more than twice `LONG_SIDE`."""
MAX_PIXELS_UNPACKED = 8_500_000
"""Of formats that can only be unpacked whole, at 4 bytes a pixel: a 4K screen fits."""
MAX_PIXELS_WEBP = 2_100_000
"""Its decoder holds every pixel five times, at 4 bytes; a screen of 1920 x 1080 fits."""
WEBP_SIZES = {b"VP8 ": (48, 64, 14, 0), b"VP8L": (8, 22, 14, 1), b"VP8X": (32, 56, 24, 1)}
"""Where a WebP's first chunk, by kind, says width and height: bits into it, how many bits, and what to add."""
MAX_LAYERS, MAX_LAYERED_BYTES = 40, 32_000_000
"""Of a JPEG in layers (progressive), which come one after the other and are held unpacked, at 2 bytes a sample."""
MIN_SIDE = 8
LONG_SIDE = 960
"""Larger pictures are reduced to this. Half of 1920 and just below a quarter of 4000, the usual widths of JPEGs, which
can be unpacked at those scales."""
STRIP = 64
"""Rows that are converted at once."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
READABLE = "a JPEG, PNG, WebP, GIF or BMP"
GREY = ("1", "L", "I;16", "I;16B", "I;16L")
SNIFF_BYTES = 1024
START_OF_SCAN, END_OF_JPEG, END_OF_PNG = b"\xff\xda", b"\xff\xd9", b"IEND\xaeB`\x82"
CUT_OFF = "This picture is damaged or cut off: open it elsewhere, save it anew and try again."
ORIENTATION = 0x0112
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow itself refuses at twice this number, wherever it is used
PIL.PngImagePlugin.MAX_TEXT_MEMORY = 1_000_000  # of comments, which a PNG can hold packed
PIL.Image.init()  # the readers take 0.1 s to import; the first stranger should not wait for that
_unpacking = threading.Lock()
"""Pictures are unpacked one at a time, so that many at once need no more memory than one."""
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""What Pillow's decoders raise on bytes that are not what they claim to be."""


def open_picture(source: Path | bytes) -> Image:
    """Read a picture file into an upright (H, W, 3) uint8 RGB array with sides of at most `LONG_SIDE`.

    CMYK and 16-bit pictures are converted, a camera's rotation mark is followed, transparency turns white.

    Raises:
        ValueError: the file is too large, no picture, moving, or damaged; one sentence that says what to do.
        OSError: the file cannot be read at all.
    """
    picture = accept(source)
    with _unpacking:
        try:
            return _unpacked(picture)
        except DAMAGE:
            raise ValueError(CUT_OFF) from None


def accept(source: Path | bytes) -> PIL.ImageFile.ImageFile:
    """Decide on a picture file by what can be seen without unpacking it; raises as `open_picture`.

    What is accepted can still turn out to be damaged in its middle.
    """
    length = len(source) if isinstance(source, bytes) else source.stat().st_size
    if length > MAX_BYTES:
        raise ValueError(f"This file has {length / 1e6:.0f} MB (at most {MAX_BYTES // 1_000_000}): save it smaller.")
    data = source if isinstance(source, bytes) else source.read_bytes()
    picture = _identified(data)
    if max(picture.size) / min(picture.size) > LONG_SIDE / MIN_SIDE or min(picture.size) < MIN_SIDE:
        size = f"{picture.width:,} x {picture.height:,}"
        raise ValueError(f"A picture of {size} is too thin to see anything: choose another one.")
    if picture.format not in ("JPEG", "MPO"):  # Pillow itself refused those that are too large
        _check_size(*picture.size, MAX_PIXELS_UNPACKED)
    # Phones store a second view behind a still picture (MPO), which is no animation.
    if picture.format != "MPO" and _is_animated(picture):
        raise ValueError("This picture is animated: save one of its frames as PNG or JPEG and use that.")
    if picture.format in ("JPEG", "MPO"):
        _check_jpeg(picture, data)
    if picture.format == "BMP" and picture.tile[0].codec_name == "bmp_rle":  # Pillow takes seconds for one
        raise ValueError("This BMP is packed: save it as PNG and use that.")
    if picture.format == "PNG" and data.rfind(END_OF_PNG) < 0:
        raise ValueError(CUT_OFF)
    return picture


def _identified(data: bytes) -> PIL.ImageFile.ImageFile:
    """The picture with its header read and nothing decoded."""
    if data[:4] + data[8:16] in (b"RIFFWEBP" + kind for kind in WEBP_SIZES):
        _check_webp(data)
    try:
        return PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.Image.DecompressionBombError:
        most = MAX_PIXELS // 1_000_000
        raise ValueError(f"This picture has more than {most} million pixels: save it smaller.") from None
    except DAMAGE:
        if b"<svg" in data[:SNIFF_BYTES].lower():
            raise ValueError("This is an SVG drawing, not a picture: export it as PNG and use that.") from None
        raise ValueError(f"This is not a picture that can be read here: choose {READABLE}.") from None


def _check_webp(data: bytes) -> None:
    """`ValueError` where a WebP is too large. Pillow's reader makes room for all of it before it tells the size."""
    across, down, bits, more = WEBP_SIZES[data[12:16]]
    chunk = int.from_bytes(data[20:30], "little")
    width, height = ((chunk >> place) % (1 << bits) + more for place in (across, down))
    _check_size(width, height, MAX_PIXELS_WEBP)


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        most = f"at most {limit / 1e6:.1f} million in this format, {MAX_PIXELS // 1_000_000} as JPEG"
        raise ValueError(f"{width:,} x {height:,} pixels are too many ({most}): save it smaller.")


def _is_animated(picture: PIL.Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))  # looks for a second frame, and may find rubbish
    except DAMAGE:
        raise ValueError(CUT_OFF) from None


def _check_jpeg(picture: PIL.Image.Image, data: bytes) -> None:
    """`ValueError` where a JPEG has no end, or layers that would take too much memory or too long."""
    start = 2
    while data[start : start + 1] == b"\xff" and data[start : start + 2] != START_OF_SCAN:
        start += 2 + int.from_bytes(data[start + 2 : start + 4])  # a preview in an earlier segment has ends of its own
    if data.rfind(END_OF_JPEG, start) < 0:
        raise ValueError(CUT_OFF)
    sampling: list[tuple[int, int]] = [(across, down) for _, across, down, _ in picture.layer]  # type: ignore[attr-defined]
    if "progressive" not in picture.info and data[start + 4 : start + 5] == bytes([len(sampling)]):
        return  # everything in one go
    most = max(across for across, _ in sampling) * max(down for _, down in sampling)
    samples = picture.width * picture.height * sum(across * down for across, down in sampling) / max(most, 1)
    layers = data.count(START_OF_SCAN, start, data.find(END_OF_JPEG, start))
    if 2 * samples > MAX_LAYERED_BYTES or layers > MAX_LAYERS:
        raise ValueError("This progressive JPEG is too large: save it smaller, or without progressive layers.")


def _unpacked(picture: PIL.Image.Image) -> Image:
    """The pixels of a picture that was accepted."""
    # A JPEG is unpacked at the smallest scale that still has LONG_SIDE: a quarter of the work or less. One in layers
    # needs memory for these, too, and may get a little smaller.
    wanted = LONG_SIDE * 2 / 3 if "progressive" in picture.info else LONG_SIDE
    share = min(1.0, wanted / max(picture.size))
    picture.draft(None, (max(1, int(picture.width * share)), max(1, int(picture.height * share))))
    small = _reduced(picture)
    small.thumbnail((LONG_SIDE, LONG_SIDE), PIL.Image.Resampling.HAMMING)
    small.getexif()[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
    return np.asarray(PIL.ImageOps.exif_transpose(small).convert("RGB"))


def _reduced(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Grey or RGB with a long side of at most twice `LONG_SIDE`; by strips, so that no conversion needs much memory."""
    factor = max(1, max(picture.size) // LONG_SIDE)
    grey = picture.mode in GREY and "transparency" not in picture.info
    small = PIL.Image.new("L" if grey else "RGB", (-(-picture.width // factor), -(-picture.height // factor)))
    rows = -(-STRIP // factor) * factor
    for top in range(0, picture.height, rows):
        strip = _flattened(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        small.paste(strip.reduce(factor), (0, top // factor))
    return small


def _flattened(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Grey or RGB in 8 bits, on white where parts were transparent."""
    if picture.mode.startswith("I;16"):
        picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("L" if picture.mode in GREY else "RGB")
    picture = picture.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
