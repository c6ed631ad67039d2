"""Strangers' pictures: what is refused is never unpacked, what is accepted comes out upright and in 8 bits."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from app import pictures
from app.bench_pictures import bomb, judged, peak_mb, saved
from app.pictures import LONG_SIDE, MAX_BYTES, open_picture

PIL.Image.init()  # every format, for writing
RED, BLUE = (200, 30, 30), (30, 30, 200)


def halves(size: tuple[int, int] = (80, 60)) -> PIL.Image.Image:
    """Red on the left, blue on the right."""
    picture = PIL.Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "no picture")
    return buffer.getvalue()


def large_webp(kind: bytes, place: int) -> bytes:
    """A header that promises the largest WebP there can be, and nothing behind it."""
    chunk = bytearray(30)
    chunk[place : place + 6] = b"\xfe\x3f\x00\xfe\x3f\x00" if kind == b"VP8X" else b"\xff\xff\xff\xff\xff\xff"
    return b"RIFF" + struct.pack("<I", 1000) + b"WEBP" + kind + struct.pack("<I", 30) + bytes(chunk) + bytes(960)


def layered(size: tuple[int, int], layers: int = 0) -> bytes:
    """A progressive JPEG, with its last layer once more and once more."""
    whole = saved(PIL.Image.new("RGB", size), "JPEG", progressive=True, subsampling=0)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * layers + whole[-2:]


def with_preview(picture: PIL.Image.Image) -> bytes:
    """A JPEG in whose head a camera has put a smaller one."""
    preview = b"Exif\0\0" + saved(picture.resize((40, 30)), "JPEG")
    whole = saved(picture, "JPEG")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(preview)) + preview + whole[2:]


def packed_bmp() -> bytes:
    """80 x 60 pixels of run lengths."""
    rows = (bytes([80, 1]) + b"\0\0") * 60 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 80, 60, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + bytes(1024) + rows


def wordy_png() -> bytes:
    """60 comments of 1 MB, packed to 1 kB each."""
    words = b"zTXtwords\0\0" + zlib.compress(bytes(1_000_000))
    comment = struct.pack(">I", len(words) - 4) + words + struct.pack(">I", zlib.crc32(words))
    whole = saved(halves(), "PNG")
    return whole[:33] + 60 * comment + whole[33:]


def refuse_to_decode(*_: object, **__: object) -> None:
    raise AssertionError("a picture was unpacked that should have been refused by its header")


HOSTILE = {
    "bomb": (bomb, "more than 25 million pixels: save it smaller"),
    "animated": (lambda: saved(halves(), "GIF", save_all=True, append_images=[halves().rotate(90)]), "is animated: "),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG .* export it as PNG"),
    "zip": (zipped, "not a picture .* choose a JPEG"),
    "empty": (lambda: b"", "not a picture"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
    "large png": (lambda: saved(PIL.Image.new("1", (4000, 2600)), "PNG"), "at most 8.5 million in this format"),
    "large webp": (lambda: large_webp(b"VP8 ", 6), "16,383 x 16,383 pixels are too many .at most 2.1 million"),
    "large lossless webp": (lambda: large_webp(b"VP8L", 1), "16,384 x 16,384 pixels"),
    "large webp with extras": (lambda: large_webp(b"VP8X", 4), "16,383 x 16,383 pixels"),
    "large layers": (lambda: layered((3000, 2000)), "progressive JPEG is too large"),
    "many layers": (lambda: layered((80, 60), 40), "progressive JPEG is too large"),
    "packed bmp": (packed_bmp, "BMP is packed"),
    "wordy png": (wordy_png, "not a picture"),
    "cut off": (lambda: with_preview(halves())[:-2], "damaged or cut off"),
    "cut off png": (lambda: saved(halves(), "PNG")[:-12], "damaged or cut off"),
    "line": (lambda: saved(PIL.Image.new("RGB", (9000, 2)), "PNG"), "too thin"),
    "heavy": (lambda: bytes(MAX_BYTES + 1), "10 MB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence_before_decoding(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sentence = HOSTILE[name]
    path = tmp_path / "picture.png"
    path.write_bytes(make())
    for method in ("load", "draft", "thumbnail"):
        monkeypatch.setattr(PIL.ImageFile.ImageFile, method, refuse_to_decode)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_of_a_kilobyte_takes_no_memory_before_it_is_refused() -> None:
    """Pillow's WebP reader makes room for the whole canvas before it tells the size: 2 GB for this one."""
    for data in (large_webp(b"VP8 ", 6), large_webp(b"VP8X", 4), bomb()):
        assert "million" in judged(data) and peak_mb(partial(judged, data)) < 5


@pytest.mark.parametrize(
    "data",
    [
        with_preview(halves()),
        layered((80, 60), 5),
        saved(halves(), "JPEG", progressive=True) + b"what a camera adds \xff\xda",
        saved(halves((1920, 1080)), "WEBP", method=0),
    ],
    ids=["preview", "layers", "more behind", "webp"],
)
def test_what_only_looks_hostile_is_taken(data: bytes) -> None:
    assert open_picture(data).shape[2] == 3


def test_the_bomb_is_small_and_pillow_refuses_it_everywhere() -> None:
    data = bomb()
    assert len(data) < 200_000
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(io.BytesIO(data))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_cut_off_anywhere_is_refused(form: str, share: float) -> None:
    whole = saved(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)), form)
    with pytest.raises(ValueError, match=r"damaged or cut off|not a picture"):
        open_picture(whole[: int(len(whole) * share)])


def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(0)
    wholes = [saved(halves(), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF")]
    for turn in range(300):
        data = np.frombuffer(wholes[turn % len(wholes)], np.uint8).copy()
        data[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
        try:
            picture = open_picture(data.tobytes())
        except ValueError as error:
            assert str(error).endswith(".")
        else:
            assert picture.dtype == np.uint8 and picture.shape[2] == 3


@pytest.mark.parametrize(
    "data",
    [
        saved(halves().convert("CMYK"), "JPEG", quality=95),
        saved(halves().quantize(8), "PNG"),
        saved(halves(), "WEBP", lossless=True),
        saved(halves(), "BMP"),
        saved(halves(), "GIF"),
        saved(halves().convert("CMYK"), "JPEG", quality=95, progressive=True),
    ],
    ids=["cmyk", "palette", "webp", "bmp", "still gif", "progressive cmyk"],
)
def test_pictures_of_every_kind_come_out_in_colour(data: bytes) -> None:
    picture = open_picture(data)
    assert picture.shape == (60, 80, 3)
    np.testing.assert_allclose(picture[30, 10], RED, atol=12)
    np.testing.assert_allclose(picture[30, 70], BLUE, atol=12)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    picture = open_picture(saved(PIL.Image.fromarray(deep), "PNG"))
    np.testing.assert_allclose(picture[0, :, 0], deep[0] / 257, atol=1)


def test_a_phones_rotation_mark_is_followed() -> None:
    mark = PIL.Image.Exif()
    mark[274] = 6  # shown rotated by 90 degrees clockwise
    picture = open_picture(saved(halves(), "JPEG", exif=mark, quality=95))
    assert picture.shape == (80, 60, 3)
    np.testing.assert_allclose(picture[10, 30], RED, atol=12)
    np.testing.assert_allclose(picture[70, 30], BLUE, atol=12)


def test_a_phones_second_view_is_no_animation() -> None:
    picture = open_picture(saved(halves(), "MPO", save_all=True, append_images=[halves().rotate(180)]))
    np.testing.assert_allclose(picture[30, 10], RED, atol=12)


def test_transparent_parts_turn_white() -> None:
    clear = PIL.Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert (open_picture(saved(clear, "PNG")) == 255).all()


def test_large_pictures_are_reduced_and_keep_their_shape() -> None:
    picture = open_picture(saved(halves((4000, 3000)), "JPEG"))
    assert picture.shape == (LONG_SIDE * 3 // 4, LONG_SIDE, 3)
    assert pictures.MAX_PIXELS > 4000 * 3000


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "1", "I;16"])
def test_reducing_strip_by_strip_is_reducing_the_whole(mode: str) -> None:
    """Odd sides, so that the last strip and the last column are cut."""
    smooth = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)).resize((2111, 1499))
    grey = np.asarray(smooth.convert("L"))
    if mode == "I;16":
        made = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
        smooth = PIL.Image.fromarray(grey)
    else:
        smooth = made = smooth.convert(mode)
    whole = smooth.convert("RGB").resize((LONG_SIDE, 682), PIL.Image.Resampling.BOX)
    picture = open_picture(saved(made, "PNG", compress_level=1))
    assert picture.shape == (682, LONG_SIDE, 3)
    assert np.abs(picture.astype(int) - np.asarray(whole).astype(int)).mean() < {"1": 20, "P": 5}.get(mode, 2)


def test_pictures_are_unpacked_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that twenty uploads at once need no more memory than one."""
    inside, most = [], [0]
    original = PIL.Image.Image.thumbnail

    def watched(picture: PIL.Image.Image, *arguments: Any, **options: Any) -> None:
        inside.append(picture)
        most[0] = max(most[0], len(inside))
        original(picture, *arguments, **options)
        time.sleep(0.01)
        inside.remove(picture)

    monkeypatch.setattr(PIL.Image.Image, "thumbnail", watched)
    data = saved(halves(), "PNG")
    with ThreadPoolExecutor(8) as threads:
        shapes = {picture.shape for picture in threads.map(open_picture, [data] * 8)}
    assert shapes == {(60, 80, 3)} and most == [1]
