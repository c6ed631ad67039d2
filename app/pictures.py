"""A stranger's picture, checked before it is decoded: what is refused is refused by its header, in one sentence.

A picture of 164 kB can unpack to gigabytes, and opening one in an exotic format starts code that nobody here needs.
So only five formats are looked at, and nothing is unpacked before its byte and pixel counts are known.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from sim.interface import Image

MAX_BYTES = 10_000_000
MAX_PIXELS = 25_000_000
"""A phone's JPEG has 12 or 24 million, and is never unpacked at more than twice `LONG_SIDE`."""
MAX_PIXELS_UNPACKED = 10_000_000
"""Of the other formats, which can only be unpacked whole: 40 MB."""
MIN_SIDE = 8
LONG_SIDE = 960
"""Larger pictures are reduced to this. Half of 1920 and just below a quarter of 4000, the usual widths of JPEGs, which
can be unpacked at those scales."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
READABLE = "a JPEG, PNG, WebP, GIF or BMP"
SNIFF_BYTES = 1024
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow itself refuses at twice this number, wherever it is used
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
    picture = _identified(source)
    if max(picture.size) / min(picture.size) > LONG_SIDE / MIN_SIDE or min(picture.size) < MIN_SIDE:
        raise ValueError(f"A picture of {_size(picture)} is too thin to see anything: choose another one.")
    if picture.format not in ("JPEG", "MPO") and picture.width * picture.height > MAX_PIXELS_UNPACKED:
        most = f"at most {MAX_PIXELS_UNPACKED // 1_000_000} million, {MAX_PIXELS // 1_000_000} as JPEG"
        raise ValueError(f"{_size(picture)} pixels are too many ({most}): save it smaller.")
    with _unpacking:
        return _unpacked(picture)


def _unpacked(picture: PIL.Image.Image) -> Image:
    """The pixels of a picture whose header promises nothing bad."""
    try:
        # Phones store a second view behind a still picture (MPO), which is no animation.
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise _Refused("This picture is animated: save one of its frames as PNG or JPEG and use that.")
        if picture.mode.startswith("I;16"):
            picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        # A gap of 1: a JPEG is unpacked at the smallest scale that still has LONG_SIDE, a quarter of the work or less.
        picture.thumbnail((LONG_SIDE, LONG_SIDE), PIL.Image.Resampling.HAMMING, reducing_gap=1.0)
        return np.asarray(_flattened(PIL.ImageOps.exif_transpose(picture)))
    except _Refused:
        raise
    except DAMAGE:
        raise ValueError("This picture is damaged or cut off: open it elsewhere, save it anew and try again.") from None


class _Refused(ValueError):
    """A verdict of ours, not a decoder's complaint."""


def _identified(source: Path | bytes) -> PIL.Image.Image:
    """The picture with its header read and nothing decoded."""
    length = len(source) if isinstance(source, bytes) else source.stat().st_size
    if length > MAX_BYTES:
        raise ValueError(f"This file has {length / 1e6:.0f} MB (at most {MAX_BYTES // 1_000_000}): save it smaller.")
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        return PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.Image.DecompressionBombError:
        most = MAX_PIXELS // 1_000_000
        raise ValueError(f"This picture has more than {most} million pixels: save it smaller.") from None
    except DAMAGE:
        if b"<svg" in data[:SNIFF_BYTES].lower():
            raise ValueError("This is an SVG drawing, not a picture: export it as PNG and use that.") from None
        raise ValueError(f"This is not a picture that can be read here: choose {READABLE}.") from None


def _flattened(picture: PIL.Image.Image) -> PIL.Image.Image:
    """RGB on white, where parts were transparent."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _size(picture: PIL.Image.Image) -> str:
    return f"{picture.width:,} x {picture.height:,}"
