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

from app.pictures import open_picture
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


def strange_pictures() -> dict[str, bytes]:
    """One file of each kind that strangers send, photographs at 1920 x 1440."""
    small = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    photo = PIL.Image.fromarray(small).resize((1920, 1440))
    deep = PIL.Image.fromarray(np.asarray(photo.convert("L").resize((1280, 960))).astype(np.uint16) * 257)
    turned = PIL.Image.Exif()
    turned[274] = 6

    def saved(picture: PIL.Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        return buffer.getvalue()

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
        "turned by EXIF": saved(photo, "JPEG", exif=turned),
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>',
        "zip by another name": archive.getvalue(),
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
    """Each strange picture: milliseconds and memory of the verdict, what it is, and whether the page says the same."""
    rows = []
    for name, data in strange_pictures().items():
        wall, cpu = [], []
        for _ in range(times):
            began, before = time.perf_counter(), time.process_time()
            verdict = judged(data)
            wall.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - before))
        problem = next(visitor.fire("picture", "input", picture=visitor.upload(data))).get("picture-problem") or ""
        rows.append(
            {
                "picture": name,
                "verdict": verdict,
                "ms": round(median(wall), 1),
                "ms of CPU": round(median(cpu), 1),
                "more MB": peak_mb(partial(judged, data)),
                "the page says the same": plainly(problem) == ("" if verdict.startswith("taken") else verdict),
            }
        )
    return rows


def judged(data: bytes) -> str:
    """The verdict on a picture: the size it is taken at, or why not."""
    try:
        height, width, _ = open_picture(data).shape
    except ValueError as error:
        return str(error)
    return f"taken, {width} x {height}"
