"""Play the gallery's ten rollouts anew with the shipped generalist and put them into assets/examples.

Run: python assets/build_examples.py

What happened is kept, however it ended. The videos are made smaller than the page makes them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import controller, scenes
from app.events import Command, Outcome
from app.pilots import pilot_of
from app.recording import Recorder
from app.steering import Steering
from model.config import GENERALIST
from sim.worker import SimWorker

FREE = {kind: words for kind, _, words in scenes.free_examples()}
FIRST = scenes.FIRST_SEED
PLAYED: list[tuple[str, int, str | None, bool]] = [
    ("put_on", FIRST + 1, None, True),
    ("pick", FIRST, None, True),
    ("put_on", FIRST, FREE["put_on"], True),
    ("put_in", FIRST, FREE["put_in"], True),
    ("stack", FIRST, None, True),
    ("near", FIRST, FREE["near"], True),
    ("open", FIRST, FREE["open"], True),
    ("close", FIRST, None, True),
    ("open", FIRST, FREE["open"], False),
    ("near", FIRST, FREE["near"], False),
]
"""Family, scene, words (None: the scene's own) and whether it thinks."""
SMALL = ["-c:v", "libx264", "-preset", "veryslow", "-crf", "27", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]


def main() -> None:
    """Play and replace, one after the other."""
    pilot = pilot_of(GENERALIST)
    pilot.start()
    with SimWorker() as simulator, tempfile.TemporaryDirectory() as folder:
        for number, (kind, seed, words, think) in enumerate(PLAYED):
            spec = scenes.spec(kind, seed, words)
            command = Command(spec, think, seed)
            policy = pilot.policy(simulator, spec, think)
            recorder = Recorder(command, pilot.describe(), pilot.fingerprint)
            for event in controller.run(command, simulator, policy, Steering()):
                recorder.add(event)
            saved = recorder.save(Path(folder))
            small = saved.folder / "small.mp4"
            given = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(saved.video), *SMALL, str(small)]
            subprocess.run(given, check=True)
            small.replace(saved.video)
            place = scenes.EXAMPLES / f"{number:02}-{kind.replace('_', '-')}"
            for former in scenes.EXAMPLES.glob(f"{number:02}-*"):
                shutil.rmtree(former)
            shutil.move(saved.folder, place)
            solved = isinstance(event, Outcome) and event.success
            print(f"{place.name}: {'solved' if solved else 'not solved'}, {spec.text}", flush=True)


if __name__ == "__main__":
    main()
