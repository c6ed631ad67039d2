"""Rings over the camera picture: in the right place, told apart without colour, the same on page and in recordings."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from app.events import Outcome, Planned, SceneReady, ThoughtDone, ThoughtStarted, ThoughtToken
from app.overlay import drawn, rings, svg
from app.views.screen import Screen
from tests.test_recording import SPEC, jpeg

FAR = {"source": (0.25, 0.5), "target": (0.75, 0.5)}
SAME = {"source": (0.25, 0.5), "target": (0.26, 0.52)}


def camera() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), (128, 128, 128)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_source_and_target_differ_in_word_and_line_and_one_place_is_one_ring() -> None:
    source, target = rings(FAR)
    assert (source.label, source.x, source.y, source.dashed) == ("from", 160, 240, False)
    assert (target.label, target.x, target.dashed) == ("to", 480, True)
    assert [ring.label for ring in rings(SAME)] == ["here"] and rings(None) == []


def test_the_svg_is_well_formed_and_says_the_same() -> None:
    root = ElementTree.fromstring(svg(FAR))
    assert [text.text for text in root.iter("text")] == ["from", "to"]
    circles = [circle.attrib for circle in root.iter("circle") if "stroke" in circle.attrib]
    assert [float(circle["cx"]) for circle in circles] == [160, 480]
    assert ["stroke-dasharray" in circle for circle in circles] == [False, True]
    assert svg(None) == ""


def test_a_marked_frame_changes_around_the_points_only() -> None:
    plain = camera()
    before, after = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (plain, drawn(plain, FAR)))
    changed = np.abs(after - before).max(axis=2) > 30
    assert after.shape == before.shape and drawn(plain, None) == plain
    assert changed[200:280, 130:190].any() and changed[200:280, 450:510].any()
    assert not changed[:, 260:400].any() and not changed[300:].any()
    assert not changed[236:244, 156:164].any(), "what it points at stays visible"


def test_the_page_shows_rings_from_plan_to_end() -> None:
    screen = Screen(True)
    screen.show(SceneReady(jpeg(0), SPEC, SPEC.text))
    assert screen.rings == ""
    screen.show(Planned({"plan": 1.0}, FAR))
    assert screen.rings == svg(FAR)
    screen.show(Outcome(False, "it is shut", 3, 1.0))
    assert screen.rings == ""


def test_the_gate_is_a_strip_under_each_word_where_the_model_gives_one() -> None:
    screen = Screen(True)
    for event in (ThoughtStarted(0), ThoughtToken("push <it> ", 0.25), ThoughtToken("shut", 0.75), ThoughtDone("x")):
        screen.show(event)
    strips = re.findall(r"--gate: ([\d.]+)\" title=\"action expert (\d+)%", screen.thoughts)
    assert strips == [("0.25", "25"), ("0.75", "75")]
    assert "push &lt;it&gt;" in screen.thoughts and "gate-legend" in screen.thoughts
    plain = Screen(True)
    for event in (ThoughtStarted(0), ThoughtToken("push")):
        plain.show(event)
    assert "gate" not in plain.thoughts
