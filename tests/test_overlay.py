"""Rings and attention over the camera picture: in the right place, and told apart without colour."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from app.events import Outcome, Planned, SceneReady, ThoughtDone, ThoughtStarted, ThoughtToken
from app.overlay import attention, mentioned, rings, svg
from app.views.screen import Screen
from tests.test_recording import SPEC, jpeg

FAR = {"source": (0.25, 0.5), "target": (0.75, 0.5)}
HEAT = {"source": "0f0/000", "target": "000/008"}
SAME = {"source": (0.25, 0.5), "target": (0.26, 0.52)}


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


def test_rings_go_by_the_names_that_the_thought_uses() -> None:
    thought = "I will put the <b>carrot</b> on the white plate, then leave the carrot."
    assert mentioned(thought) == ["carrot", "white plate"]
    assert [ring.label for ring in rings(FAR, thought)] == ["carrot", "white plate"]
    assert [ring.label for ring in rings(SAME, "I will take the carrot.")] == ["carrot"]
    assert [ring.label for ring in rings(FAR, "I see discarrots.")] == ["from", "to"]


def test_attention_is_a_small_picture_strongest_where_the_digits_are() -> None:
    assert attention(None) == ""
    found = re.findall(r'class="heat" alt="" src="data:image/png;base64,([^"]+)"', attention(HEAT))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]))))
    assert pixels.shape == (2, 3, 4)
    assert pixels[0, 1, 3] > pixels[1, 2, 3] > 0 and pixels[0, 0, 3] == 0, "opacity follows attention"
    assert pixels[0, 1, 0] > pixels[0, 1, 2] and pixels[1, 2, 2] > pixels[1, 2, 0], "orange source, blue target"


def test_the_page_shows_rings_from_plan_to_end() -> None:
    screen = Screen(True)
    screen.show(SceneReady(jpeg(0), SPEC, SPEC.text))
    screen.show(ThoughtDone("I will take the carrot."))
    assert screen.layer == ""
    screen.show(Planned({"plan": 1.0}, FAR, HEAT))
    assert screen.layer == attention(HEAT) + svg(FAR, "the carrot") and ">carrot</text>" in screen.layer
    screen.show(ThoughtStarted(20))
    assert screen.layer == "", "that plan has been carried out"
    screen.show(Planned({"plan": 1.0}, FAR, HEAT))
    screen.show(Outcome(False, "it is shut", 3, 1.0))
    assert screen.layer == ""


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
