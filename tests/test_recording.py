"""A rollout on disk: playable video, readable subtitles, honest log, all or nothing."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app import recording
from app.events import (
    Command,
    Event,
    Failure,
    Frame,
    Outcome,
    SceneReady,
    Steered,
    ThoughtDone,
    ThoughtStarted,
    ThoughtToken,
)
from app.recording import Recorder, Recording, RecordingError
from sim.tasks import Goal, SceneSpec

SPEC = SceneSpec(goal=Goal(kind="close", target="middle"), seed=5, instruction='close it <script> & "co" --> now')
OUTCOME = Outcome(True, "the middle drawer is shut", 10, 3.2)


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 47), (shade, 90, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def rollout(end: Event = OUTCOME) -> list[Event]:
    events: list[Event] = [SceneReady(jpeg(0), SPEC, SPEC.text)]
    events += [ThoughtStarted(0), ThoughtToken("Push "), ThoughtToken("it."), ThoughtDone("Push\n\nit.")]
    events += [Frame(jpeg(20 * step), step, step / 5) for step in range(1, 11)]
    return [*events, end]


def recorder(events: list[Event]) -> Recorder:
    taken = Recorder(Command(SPEC, think=True, seed=5), "nano, trained on tables", "0123abcd")
    for event in events:
        taken.add(event)
    return taken


def test_a_recording_plays_in_a_browser_and_reads_back(tmp_path: Path) -> None:
    saved = recorder(rollout()).save(tmp_path)
    with av.open(str(saved.video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, float(stream.average_rate or 0)) == (64, 46, 5.0)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    holds = recording.TITLE_HOLD_S + recording.THOUGHT_HOLD_S[0] + recording.OUTCOME_HOLD_S
    assert len(pictures) == 1 + 10 + round(holds * 5)
    assert abs(int(pictures[-1][20, 20, 0]) - 200) < 8, "colours survive: full-range JPEG became limited-range video"
    assert saved.poster.read_bytes() == jpeg(0)
    assert saved.scene() == SPEC and saved.model() == "nano, trained on tables"
    kinds = [line["type"] for line in saved.lines()]
    assert kinds[:2] == ["Recording", "SceneReady"] and kinds.count("Frame") == 10 and kinds[-1] == "Outcome"


def test_subtitles_hold_the_text_and_no_markup(tmp_path: Path) -> None:
    text = recorder(rollout()).save(tmp_path).subtitles.read_text(encoding="utf-8")
    header, instruction, thought, outcome = text.strip().split("\n\n")
    assert header == "WEBVTT"
    assert instruction.splitlines()[0] == "00:00:00.000 --> 00:00:01.000"
    assert "&lt;script&gt; &amp;" in instruction and instruction.count("-->") == 1
    assert thought.splitlines() == ["00:00:01.000 --> 00:00:04.000", "Push it."]
    assert outcome.splitlines()[1] == "Success after 10 steps. The rule: the middle drawer is shut."


def test_a_failed_rollout_is_recorded_too(tmp_path: Path) -> None:
    saved = recorder(rollout(Failure("The simulator stopped."))).save(tmp_path)
    assert "The simulator stopped." in saved.subtitles.read_text(encoding="utf-8")


def test_nothing_to_record_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="Nothing was recorded"):
        recorder([Failure("The simulator did not start.")]).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["encode", "rename", "root"])
def test_a_failed_write_leaves_nothing_behind(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    root = tmp_path / "recordings"
    if stage == "encode":
        monkeypatch.setattr(recording, "encode", full)
    elif stage == "rename":
        monkeypatch.setattr(Path, "rename", full)
    else:
        root.write_text("a file, not a folder")
    with pytest.raises(RecordingError, match="could not be written: ") as caught:
        recorder(rollout()).save(root)
    assert "\n" not in str(caught.value)
    assert stage == "root" or list(root.iterdir()) == []


def test_frames_that_are_no_jpeg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="ffmpeg refused"):
        recorder([SceneReady(b"no picture", SPEC, SPEC.text), OUTCOME]).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_can_be_moved(tmp_path: Path) -> None:
    """Shipped examples are recordings that were copied into the assets."""
    saved = recorder(rollout()).save(tmp_path / "here")
    moved = Recording(Path(shutil.copytree(saved.folder, tmp_path / "there")))
    assert moved.events() == saved.events() and moved.video.is_file()


def pictures(saved: Recording) -> list[np.ndarray]:
    with av.open(str(saved.video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_log_says_where_each_event_stands_in_the_video(tmp_path: Path) -> None:
    saved = recorder(rollout()).save(tmp_path)
    shades = [picture[20, 20, 0] for picture in pictures(saved)]
    for line, event in zip(saved.lines()[1:], saved.events(), strict=True):
        if isinstance(event, Frame):
            assert abs(int(shades[round(line["video"] * 5)]) - 20 * event.step) < 8
    assert saved.about()["fingerprint"] == "0123abcd"


def test_a_changed_scene_is_a_picture_and_a_caption(tmp_path: Path) -> None:
    start, *rest = rollout()
    changed = Steered("disturb", 0, "nudge the <b>mug", jpeg=jpeg(250))
    saved = recorder([start, changed, Steered("disturb", 0, "no", "It is held."), *rest]).save(tmp_path)
    place = next(line["video"] for line in saved.lines() if line.get("order") == "disturb")
    assert abs(int(pictures(saved)[round(place * 5)][20, 20, 0]) - 250) < 8
    text = saved.subtitles.read_text(encoding="utf-8")
    assert "Scene changed: nudge the &lt;b&gt;mug" in text and "held" not in text
    told = [event for event in saved.events() if isinstance(event, Steered)]
    assert told == [Steered("disturb", 0, "nudge the <b>mug"), Steered("disturb", 0, "no", "It is held.")]


def test_interventions_are_in_log_and_subtitles(tmp_path: Path) -> None:
    start, *rest = rollout()
    told = [Steered("pause", 0), Steered("instruct", 0, "no, <shut> it"), Steered("rethink", 0, "x" * 99, "Too long.")]
    saved = recorder([start, *told, *rest]).save(tmp_path)
    assert [event for event in saved.events() if isinstance(event, Steered)] == told
    text = saved.subtitles.read_text(encoding="utf-8")
    assert "no, &lt;shut&gt; it" in text and "xxx" not in text, "what was refused did not happen"


def test_a_link_finds_its_recording_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "recordings"
    saved = recorder(rollout()).save(root)
    assert recording.find(saved.id, tmp_path / "none", root) == saved
    (tmp_path / "events.jsonl").write_text("secret")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "events.jsonl").write_text("secret")
    generator = np.random.default_rng(0)
    alphabet = [*"ab0-_./\\%2e\x00\n ~é", "..", saved.id]
    wild = ["".join(generator.choice(alphabet, generator.integers(1, 9))) for _ in range(500)]
    tricks = ["", "..", ".", ".hidden", "../recordings", str(root), f"../recordings/{saved.id}", "a" * 9999]
    for identifier in [*tricks, *wild]:
        found = recording.find(identifier, root)
        assert found is None or (found.folder.resolve().parent == root.resolve() and not found.id.startswith("."))


def test_only_the_newest_recordings_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"2026010{number}-000000-open-1-abc").mkdir()
        (tmp_path / f"2026010{number}-000000-open-1-abc" / "rollout.mp4").write_bytes(bytes(100))
    (tmp_path / ".draft").mkdir()
    recording.prune(tmp_path, keep=4)
    assert [path.name[7] for path in sorted(tmp_path.glob("2*"))] == ["2", "3", "4", "5"]
    recording.prune(tmp_path, keep_bytes=250)
    assert [path.name[7] for path in sorted(tmp_path.glob("2*"))] == ["4", "5"]
    recording.prune(tmp_path, keep_bytes=1)
    assert [path.name[7] for path in sorted(tmp_path.glob("2*"))] == ["5"], "the newest is somebody's"
    assert (tmp_path / ".draft").is_dir(), "somebody is writing it"
