"""The timeline under a video: drawn from the log, placed in the video's time, inert to what was typed."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from app.events import (
    Frame,
    Outcome,
    Planned,
    Steered,
    StepTiming,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
)
from app.timeline import timeline
from tests.test_recording import OUTCOME, recorder, rollout


def drawn(tmp_path: Path, *extra: Steered, end: Outcome = OUTCOME) -> str:
    start, *rest = rollout(end)
    moving = []
    for event in rest:
        if isinstance(event, Frame):
            action = (0.01, -0.02, 0, 0, 0, 0.1, float(event.step < 5))
            event = Frame(event.jpeg, event.step, event.sim_time, action, (0.0,) * 8, event.step == 10)
        moving.append(event)
    return timeline(recorder([start, *extra, *moving]).save(tmp_path), "video")


def test_thoughts_interventions_and_verdict_are_marks_at_their_place(tmp_path: Path) -> None:
    html = drawn(tmp_path, Steered("instruct", 0, '"><script>alert(1)</script>'))
    marks = re.findall(r'class="mark (\w+)" style="left:([\d.]+)%" data-at="([\d.]+)" data-words="([^"]*)"', html)
    assert [kind for kind, *_ in marks] == ["thought", "success", "steered"]
    length = float(re.findall(r'data-length="([\d.]+)"', html)[0])
    for _, left, at, _ in marks:
        assert abs(float(left) - 100 * float(at) / length) < 0.1 and 0 <= float(left) <= 100
    assert "<script" not in html and "New instruction: &quot;&gt;&lt;script" in marks[2][3]


def test_the_arms_curves_and_their_scale_come_from_the_actions(tmp_path: Path) -> None:
    html = drawn(tmp_path)
    assert 'class="gripper"' in html and 'class="success"' in html
    assert html.count("<polyline") == 6 and "±2.0 cm" in html and "±6°" in html
    points = re.findall(r'class="c1" points="([^"]*)"', html)[0].split()
    assert len(points) == 10 and len({point.split(",")[1] for point in points}) == 1


def test_every_curve_says_in_words_what_it_shows(tmp_path: Path) -> None:
    html = drawn(tmp_path)
    told = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', html)
    assert len(told) == html.count("<svg") == 4
    assert told[:2] == ["At most 2.0 cm in a step.", "At most 6\u00b0 in a step."]
    assert re.fullmatch(r"Open from [\d.]+ s\. Closed from [\d.]+ s\.", told[2])
    assert re.fullmatch(r"Does not hold from [\d.]+ s\. Holds from [\d.]+ s\.", told[3])


def test_gates_times_rings_and_attention_are_on_the_axis_too(tmp_path: Path) -> None:
    start, _, _, _, _, *rest = rollout()
    thought = [ThoughtStarted(0), ThoughtToken("the ", 0.2), ThoughtToken("carrot", 0.9), ThoughtDone("the carrot")]
    plan = Planned({"think": 100.0, "plan": 20.0, "flow": 10.0}, {"source": (0.2, 0.2), "target": (0.8, 0.8)})
    saved = recorder([start, *thought, plan, rest[0], StepTiming(1, 35.0, 40.0, 30.0, 4.0), *rest[1:]]).save(tmp_path)
    html = timeline(saved, "video")
    assert 'class="gate"' in html and 'type="range"' in html
    told = json.loads(unescape(re.findall(r'data-told="([^"]*)"', html)[0]))
    ((at, text),) = told["steps"]
    assert text == "step 1, 175 ms: think 100, latent 20, flow 10, other 5, simulator 6, render 30, encode 4"
    assert at == next(line["video"] for line in saved.lines() if line["type"] == "StepTiming")
    (begin, drawn_layer), (end, nothing) = told["layers"]
    assert ">carrot</text>" in drawn_layer and nothing == "" and begin < end
    plain = drawn(tmp_path)
    assert 'class="gate"' not in plain and "latency" not in plain, "a log without them has no such lanes"


def test_the_verdict_is_a_sign_and_a_word_and_no_colour_alone(tmp_path: Path) -> None:
    assert "✗" in drawn(tmp_path, end=Outcome(False, "it is shut", 10, 3.0)) and "Not solved" in drawn(
        tmp_path, end=Outcome(False, "it is shut", 10, 3.0)
    )


def test_a_log_without_places_gets_no_timeline(tmp_path: Path) -> None:
    saved = recorder(rollout()).save(tmp_path)
    saved.log.write_text(re.sub(r'"video": [\d.]+, ', "", saved.log.read_text()))
    assert timeline(saved, "video") == ""


def test_marks_that_would_lie_on_each_other_share_one(tmp_path: Path) -> None:
    html = drawn(tmp_path, Steered("pause", 0), Steered("step", 0), Steered("resume", 0))
    assert 'data-words="Paused · Single step · Resumed"' in html and html.count("mark steered") == 1
