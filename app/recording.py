"""A finished rollout on disk: what the page showed, as a video with subtitles, and the events it was drawn from.

    recordings/<id>/rollout.mp4     H.264, yuv420p, five frames per simulated second; plays in every browser
                    subtitles.vtt   the instruction, the thoughts, the outcome (WebVTT)
                    events.jsonl    one event per line, without the images
                    poster.jpg      the scene as it stood before the first step

A folder appears whole or not at all: it is written under a dotted name and then renamed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from app.events import Command, Event, Failure, Frame, Outcome, SceneReady, ThoughtDone, to_json
from sim.interface import CONTROL_HZ
from sim.twins import Scene, load_scene

TITLE_HOLD_S = 1.0
OUTCOME_HOLD_S = 1.6
READING_CHARS_PER_S = 30
THOUGHT_HOLD_S = (1.0, 5.0)
ENCODE_DEADLINE_S = 120


class RecordingError(RuntimeError):
    """The recording could not be written; one plain sentence."""


@dataclass(frozen=True)
class Recording:
    """The files of one recorded rollout."""

    folder: Path

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

    def scene(self) -> Scene:
        """The scene that was played, with the words the policy got."""
        return load_scene(next(e["spec"] for e in self.events() if e["type"] == "SceneReady"))

    def model(self) -> str:
        """The line that says who drove."""
        return str(self.events()[0]["model"])

    def events(self) -> list[dict[str, Any]]:
        """The recorded events as plain dicts (see `events.to_json`)."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


class Recorder:
    """Collects the events of one rollout and writes them out.

    The picture stands still while there is something to read: the instruction, each thought, the outcome.
    """

    def __init__(self, command: Command, model: str) -> None:
        """`model` is the line that says who drives; it goes into the log with the command."""
        about = {"type": "Recording", "model": model, "think": command.think, "seed": command.seed}
        self._lines: list[dict[str, Any]] = [about]
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
        self._lines.append({"time": round(time.time() - self._started, 3), **to_json(event)})
        match event:
            case SceneReady():
                self._frames.append(event.jpeg)
                self._caption(f"\u201c{event.instruction}\u201d", TITLE_HOLD_S)
            case Frame():
                self._frames.append(event.jpeg)
            case ThoughtDone(text=text) if text:
                shortest, longest = THOUGHT_HOLD_S
                self._caption(text, min(max(len(text) / READING_CHARS_PER_S, shortest), longest))
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
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines)
            draft.log.write_text("".join(lines), encoding="utf-8")
            encode(self._frames, draft.video)
            return Recording(draft.folder.rename(root / name))
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(draft.folder, ignore_errors=True)
            raise RecordingError(f"The recording could not be written: {_reason(error)}.") from error

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
        return error.strerror or "the disk refused"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"ffmpeg took longer than {ENCODE_DEADLINE_S} s"
    return "ffmpeg refused the pictures"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{rest:06.3f}"
