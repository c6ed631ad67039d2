"""Pictures as strangers send them: how fast and in how much memory each is decided, and what the page says."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL.Image

from app.pictures import accept, open_picture
from app.visitor import Visitor, plainly


def bomb(side: int = 13_000) -> bytes:
    """A PNG of `side` x `side` black pixels, without ever holding them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side)
    body = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def saved(picture: PIL.Image.Image, form: str, **options: Any) -> bytes:
    """The file of a picture; `options` are Pillow's for that format."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> PIL.Image.Exif:
    """A camera's mark that says: shown rotated by 90 degrees clockwise."""
    mark = PIL.Image.Exif()
    mark[274] = 6
    return mark


def strange_pictures() -> dict[str, bytes]:
    """One file of each kind that strangers send, photographs at 1920 x 1440."""
    small = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    photo = PIL.Image.fromarray(small).resize((1920, 1440))
    deep = PIL.Image.fromarray(np.asarray(photo.convert("L").resize((1280, 960))).astype(np.uint16) * 257)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("a.txt", "no picture")
    whole, frame = saved(photo, "JPEG"), photo.resize((480, 360))
    return {
        "bomb, 13,000 x 13,000": bomb(),
        "cut off": whole[: len(whole) // 2],
        "animated": saved(frame, "GIF", save_all=True, append_images=[frame.rotate(90)] * 5),
        "CMYK": saved(photo.convert("CMYK"), "JPEG"),
        "16 bits": saved(deep, "PNG", compress_level=1),
        "turned by EXIF": saved(photo, "JPEG", exif=turned()),
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>',
        "zip by another name": archive.getvalue(),
    }


def large_pictures() -> dict[str, bytes]:
    """Photographs and screens of the largest sizes that are accepted, and some beyond."""
    small = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    photo, screen = small.resize((4000, 3000)), small.resize((3840, 2160))
    deep = PIL.Image.fromarray(np.asarray(screen.convert("L")).astype(np.uint16) * 257)
    return {
        "JPEG, 12 MP": saved(photo, "JPEG", quality=90),
        "JPEG, 10 MP, progressive": saved(photo.resize((3700, 2800)), "JPEG", progressive=True),
        "JPEG, 12 MP, turned by EXIF": saved(photo, "JPEG", quality=90, exif=turned()),
        "JPEG, 12 MP, CMYK": saved(photo.convert("CMYK"), "JPEG"),
        "JPEG, 24 MP": saved(small.resize((5656, 4242)), "JPEG"),
        "PNG, 8.3 MP": saved(screen, "PNG", compress_level=3),
        "PNG, 8.3 MP, transparent": saved(screen.convert("RGBA"), "PNG", compress_level=3),
        "PNG, 8.3 MP, 16 bits": saved(deep, "PNG", compress_level=1),
        "PNG, 10 MP": saved(small.resize((3650, 2740)), "PNG", compress_level=3),
        "GIF, 8.3 MP": saved(screen.quantize(64), "GIF"),
        "WebP, 2.1 MP": saved(small.resize((1920, 1080)), "WEBP", method=0),
        "WebP, 10 MP": saved(small.resize((3650, 2740)), "WEBP", method=0),
    }


def peak_mb(call: Callable[[], object]) -> float:
    """Megabytes by which the peak of resident memory rises above its present size, in a child; 0 if not on Linux."""

    def read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is needed
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = read("VmRSS")
            call()
            os.write(theirs, str(read("VmHWM") - before).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        kilobytes = int(pipe.read() or b"0")
    os.waitpid(child, 0)
    return round(kilobytes * 1024 / 1e6, 1)


def try_pictures(visitor: Visitor, times: int = 5) -> list[dict[str, Any]]:
    """Each strange and each large picture: the verdict, when it is there, when the picture is unpacked, the memory.

    Times are medians in milliseconds from the file's bytes on, by the clock and (other work left out) of the processor.
    """
    rows = []
    for name, data in (strange_pictures() | large_pictures()).items():
        verdict = judged(data)
        problem = next(visitor.fire("picture", "input", picture=visitor.upload(data))).get("picture-problem") or ""
        rows.append(
            {
                "picture": name,
                "verdict": verdict,
                "decided [ms]": typical_ms(partial(judged, data, accept), times),
                "unpacked [ms]": typical_ms(partial(judged, data), times),
                "unpacked [ms of CPU]": typical_ms(partial(judged, data), times, time.process_time),
                "more MB": peak_mb(partial(judged, data)),
                "the page says the same": plainly(problem) == ("" if verdict.startswith("taken") else verdict),
            }
        )
    return rows


def typical_ms(call: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median duration of a call."""
    spent = []
    for _ in range(times):
        began = clock()
        call()
        spent.append(1e3 * (clock() - began))
    return round(median(spent), 1)


def judged(data: bytes, judge: Callable[[bytes], Any] = open_picture) -> str:
    """The verdict on a picture: the size it is taken at, or why not."""
    try:
        taken = judge(data)
    except ValueError as error:
        return str(error)
    height, width = taken.shape[:2] if isinstance(taken, np.ndarray) else taken.size[::-1]
    return f"taken, {width} x {height}"
