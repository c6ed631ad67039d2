"""A finished rollout on disk: what the page showed, as a video with subtitles, and the events it was drawn from.

    recordings/<id>/rollout.mp4     H.264, yuv420p, five frames per simulated second; plays in every browser
                    subtitles.vtt   the instruction, the thoughts, the outcome (WebVTT)
                    events.jsonl    one event per line, without the images
                    poster.jpg      the scene as it stood before the first step

A folder appears whole or not at all: it is written under a dotted name and then renamed. Its name is the rollout's id,
and sorts by time; `prune` keeps the newest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from app.events import (
    Command,
    Event,
    Failure,
    Frame,
    Outcome,
    SceneReady,
    Steered,
    ThoughtDone,
    from_json,
    to_json,
)
from app.steering import ORDERS
from sim.interface import CONTROL_HZ
from sim.twins import Scene

TITLE_HOLD_S = 1.0
OUTCOME_HOLD_S = 1.6
READING_CHARS_PER_S = 30
THOUGHT_HOLD_S = (1.0, 5.0)
DAMAGED = "This recording is damaged."
ENCODE_DEADLINE_S = 120
KEPT = 200
KEPT_BYTES = 1_000_000_000
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
"""What the name of a recording may look like: no dot and no slash, so it can name nothing outside its folder."""


ABANDONED_S = 3600
"""A draft as old as this was left by a page that was killed while it wrote."""


class RecordingError(RuntimeError):
    """The recording could not be written, or not be read; one plain sentence."""


@dataclass(frozen=True)
class Recording:
    """The files of one recorded rollout."""

    folder: Path

    @property
    def id(self) -> str:
        """What a link to it says after `?run=`."""
        return self.folder.name

    @property
    def video(self) -> Path:
        """The mp4."""
        return self.folder / "rollout.mp4"

    @property
    def subtitles(self) -> Path:
        """The WebVTT file that goes with the mp4."""
        return self.folder / "subtitles.vtt"

    @property
    def log(self) -> Path:
        """The events, one JSON object per line."""
        return self.folder / "events.jsonl"

    @property
    def poster(self) -> Path:
        """The first camera frame."""
        return self.folder / "poster.jpg"

    @property
    def whole(self) -> bool:
        """Whether it is there and its log says what was played, and by whom."""
        try:
            return {"model", "think"} <= self.about().keys() and any(isinstance(e, SceneReady) for e in self.events())
        except RecordingError:
            return False

    def scene(self) -> Scene:
        """The scene that was played, with the words the policy got."""
        return next(event.spec for event in self.events() if isinstance(event, SceneReady))

    def about(self) -> dict[str, Any]:
        """Who drove and how: `model` (a line), `fingerprint` of its weights, `think`, `seed` of the noise."""
        return self.lines()[0]

    def model(self) -> str:
        """The line that says who drove."""
        return str(self.about()["model"])

    def events(self) -> list[Event]:
        """What happened, with empty pictures. `RecordingError`: the log is damaged."""
        try:
            return [event for line in self.lines() if (event := from_json(line))]
        except (KeyError, TypeError, ValueError) as error:
            raise RecordingError(DAMAGED) from error

    def lines(self) -> list[dict[str, Any]]:
        """The log as it stands on disk: `about`, then one dict per event (`events.to_json`).

        Each event has its wall-clock `time` and its place in the `video`, both in seconds. `RecordingError`: the log is
        damaged, or has just been deleted.
        """
        try:
            text = self.log.read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.removesuffix("\n").split("\n")]  # texts may hold other line ends
        except (OSError, ValueError, RecursionError) as error:
            raise RecordingError(DAMAGED) from error
        if not all(isinstance(line, dict) for line in lines):
            raise RecordingError(DAMAGED)
        return lines


class Recorder:
    """Collects the events of one rollout and writes them out.

    The picture stands still while there is something to read: the instruction, each thought, the outcome.
    """

    def __init__(self, command: Command, model: str, fingerprint: str = "") -> None:
        """`model` is the line that says who drives, `fingerprint` names its weights; both go into the log."""
        about = {"type": "Recording", "model": model, "fingerprint": fingerprint}
        self._lines: list[dict[str, Any]] = [about | {"think": command.think, "seed": command.seed}]
        self._name = f"{command.spec.family}-{command.spec.seed}"
        self._frames: list[bytes] = []
        self._captions: list[tuple[float, str]] = []
        self._started = time.time()

    @property
    def started(self) -> bool:
        """Whether there is a picture to save."""
        return bool(self._frames)

    def add(self, event: Event) -> None:
        """Take the next event."""
        shows = isinstance(event, SceneReady | Frame) or (isinstance(event, Steered) and event.jpeg)
        before = len(self._frames) if shows else max(len(self._frames) - 1, 0)
        place = {"time": round(time.time() - self._started, 3), "video": before / CONTROL_HZ}
        self._lines.append(place | to_json(event))
        match event:
            case SceneReady():
                self._frames.append(event.jpeg)
                self._caption(f"\u201c{event.instruction}\u201d", TITLE_HOLD_S)
            case Frame():
                self._frames.append(event.jpeg)
            case Steered(order="instruct", text=text, problem=""):
                self._caption(f"\u201c{text}\u201d", TITLE_HOLD_S)
            case Steered(order="rethink", text=text, problem=""):
                self._caption(f"{text} (edited by the visitor)", reading_time(text))
            case Steered(order="disturb", text=text, problem="", jpeg=jpeg):
                self._frames.append(jpeg)
                self._caption(f"{ORDERS['disturb']}: {text}", TITLE_HOLD_S)
            case ThoughtDone(text=text) if text:
                self._caption(text, reading_time(text))
            case Outcome():
                self._caption(summary(event), OUTCOME_HOLD_S)
            case Failure(message=message):
                self._caption(message, OUTCOME_HOLD_S)

    def save(self, root: Path) -> Recording:
        """Write everything to a new folder under `root`.

        Raises:
            RecordingError: there is nothing to write, or the disk or ffmpeg refused.
        """
        if not self._frames:
            raise RecordingError("Nothing was recorded: the rollout ended before its first picture.")
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(self._started))}-{self._name}-{secrets.token_hex(3)}"
        draft = Recording(root / f".{name}")
        try:
            draft.folder.mkdir(parents=True)
            draft.poster.write_bytes(self._frames[0])
            draft.subtitles.write_text(self._webvtt(), encoding="utf-8")
            draft.log.write_text("".join(self.log_lines()), encoding="utf-8")
            encode(self._frames, draft.video)
            saved = Recording(draft.folder.rename(root / name))
        except (OSError, UnicodeError, subprocess.SubprocessError) as error:
            shutil.rmtree(draft.folder, ignore_errors=True)
            raise RecordingError(f"The recording could not be written: {_reason(error)}.") from error
        prune(root)
        return saved

    def log_lines(self) -> list[str]:
        """The log so far, one JSON object per line."""
        return [json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines]

    def _caption(self, text: str, hold_s: float) -> None:
        """Start a caption now and let the picture stand for `hold_s` seconds."""
        self._captions.append(((len(self._frames) - 1) / CONTROL_HZ, text))
        self._frames.extend([self._frames[-1]] * round(hold_s * CONTROL_HZ) if self._frames else [])

    def _webvtt(self) -> str:
        """Each caption stays until the next one starts."""
        ends = [start for start, _ in self._captions[1:]] + [len(self._frames) / CONTROL_HZ]
        blocks = ["WEBVTT"]
        for (start, text), end in zip(self._captions, ends, strict=True):
            inert = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            blocks.append(f"{_clock(max(start, 0))} --> {_clock(end)}\n{inert}")
        return "\n\n".join(blocks) + "\n"


def summary(outcome: Outcome) -> str:
    """The outcome in one sentence, with the rule that decided it."""
    verdict = "Success" if outcome.success else "Stopped" if outcome.stopped else "Not solved"
    steps = f"{outcome.steps} step{'s' if outcome.steps != 1 else ''}"
    return f"{verdict} after {steps}. The rule: {outcome.rule.rstrip('.')}."


def find(identifier: str, *roots: Path) -> Recording | None:
    """The recording of that id in the first root that has it whole; None for anything else a link may say."""
    if not IDENTIFIER.fullmatch(identifier):
        return None
    found = (Recording(root / identifier) for root in roots)
    return next((recording for recording in found if recording.whole), None)


def prune(root: Path, keep: int = KEPT, keep_bytes: int = KEPT_BYTES) -> None:
    """Delete the oldest recordings until at most `keep` are left and they take at most `keep_bytes`.

    Also drafts that nobody finishes any more.
    """
    for draft in root.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(draft, ignore_errors=True)
    total = 0
    newest_first = sorted((path for path in root.iterdir() if IDENTIFIER.fullmatch(path.name)), reverse=True)
    for rank, folder in enumerate(newest_first):
        with contextlib.suppress(OSError):  # somebody else may be deleting it
            total += sum(file.stat().st_size for file in folder.glob("*"))
        if rank and (rank >= keep or total > keep_bytes):  # the newest is somebody's
            shutil.rmtree(folder, ignore_errors=True)


def reading_time(text: str) -> float:
    """How long the picture stands still under a thought [s]."""
    shortest, longest = THOUGHT_HOLD_S
    return min(max(len(text) / READING_CHARS_PER_S, shortest), longest)


def encode(frames: list[bytes], target: Path) -> None:
    """Turn JPEG frames into an H.264 file; ffmpeg reads them as they are, so Python never decodes one.

    Raises OSError or subprocess.SubprocessError where the disk or ffmpeg refuses.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    command += ["-f", "image2pipe", "-c:v", "mjpeg", "-framerate", str(CONTROL_HZ), "-i", "pipe:0"]
    # JPEG is full-range YUV and may have odd sides; browsers want limited range and even sides.
    command += ["-vf", "scale=trunc(iw/2)*2:trunc(ih/2)*2:in_range=pc:out_range=tv,format=yuv420p"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-movflags", "+faststart", os.fspath(target)]
    subprocess.run(command, input=b"".join(frames), check=True, capture_output=True, timeout=ENCODE_DEADLINE_S)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "the disk refused").lower()
    if b"No space left" in (getattr(error, "stderr", None) or b""):
        return "no space left on device"
    if isinstance(error, UnicodeError):
        return "its texts hold characters that are none"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"ffmpeg took longer than {ENCODE_DEADLINE_S} s"
    return "ffmpeg refused the pictures"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{rest:06.3f}"
