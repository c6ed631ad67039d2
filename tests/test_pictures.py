"""Strangers' pictures: what is refused is never unpacked, what is accepted comes out upright and in 8 bits."""

from __future__ import annotations

import io
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from app import pictures
from app.bench_pictures import bomb
from app.pictures import LONG_SIDE, MAX_BYTES, open_picture

PIL.Image.init()  # every format, for writing
RED, BLUE = (200, 30, 30), (30, 30, 200)


def halves(size: tuple[int, int] = (80, 60)) -> PIL.Image.Image:
    """Red on the left, blue on the right."""
    picture = PIL.Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def saved(picture: PIL.Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "no picture")
    return buffer.getvalue()


def refuse_to_decode(*_: object, **__: object) -> None:
    raise AssertionError("a picture was unpacked that should have been refused by its header")


HOSTILE = {
    "bomb": (bomb, "more than 25 million pixels: save it smaller"),
    "animated": (lambda: saved(halves(), "GIF", save_all=True, append_images=[halves().rotate(90)]), "is animated: "),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG .* export it as PNG"),
    "zip": (zipped, "not a picture .* choose a JPEG"),
    "empty": (lambda: b"", "not a picture"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
    "large png": (lambda: saved(PIL.Image.new("1", (4000, 2600)), "PNG"), "at most 10 million, 25 as JPEG"),
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
    monkeypatch.setattr(PIL.Image.Image, "thumbnail", refuse_to_decode)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


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
    ],
    ids=["cmyk", "palette", "webp", "bmp", "still gif"],
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
