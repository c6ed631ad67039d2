"""The timeline under a video: drawn from the log, placed in the video's time, inert to what was typed."""

from __future__ import annotations

import re
from pathlib import Path

from app.events import Frame, Outcome, Steered
from app.timeline import timeline
from tests.test_recording import OUTCOME, recorder, rollout


def drawn(tmp_path: Path, *extra: Steered, end: Outcome = OUTCOME) -> str:
    start, *rest = rollout(end)
    moving = []
    for event in rest:
        if isinstance(event, Frame):
            event = Frame(event.jpeg, event.step, event.sim_time, (0.01, -0.02, 0, 0, 0, 0.1, float(event.step < 5)))
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
    assert html.count("<polyline") == 6 and "±2.0 cm" in html and "±6°" in html
    points = re.findall(r'class="c1" points="([^"]*)"', html)[0].split()
    assert len(points) == 10 and len({point.split(",")[1] for point in points}) == 1


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
