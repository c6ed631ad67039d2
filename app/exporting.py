"""A finished rollout as a LeRobotDataset v3, zipped beside its video: what the policy saw, and what it did."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.events import Frame, SceneReady, Steered, from_json
from app.recording import Recording
from sim.interface import CONTROL_HZ

if TYPE_CHECKING:
    from model.data.episodes import Split


@dataclass
class Stretch:
    """The steps under one instruction; `pictures` are places in the video."""

    instruction: str
    states: list[tuple[float, ...]] = field(default_factory=list)
    commands: list[tuple[float, ...]] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    split: Split = "train"

    @property
    def proprio(self) -> NDArray[np.float32]:
        """(T, 8) before each action."""
        return np.array(self.states, np.float32)

    @property
    def actions(self) -> NDArray[np.float32]:
        """(T, 7)."""
        return np.array(self.commands, np.float32)

    def __len__(self) -> int:
        return len(self.commands)


class Rollout:
    """A recording as `model.data.lerobot.Episodes`: a new instruction begins a new episode."""

    def __init__(self, recording: Recording) -> None:
        import imageio.v3

        self._video = imageio.v3.imread(recording.video, plugin="FFMPEG")
        self.episodes = stretches(recording)

    def __getitem__(self, index: int) -> Stretch:
        return self.episodes[index]

    def frame(self, index: int, step: int) -> NDArray[np.uint8]:
        """The picture (H, W, 3) before an action."""
        picture: NDArray[np.uint8] = self._video[self.episodes[index].pictures[step]]
        return picture


def stretches(recording: Recording) -> list[Stretch]:
    """The recording's steps by instruction; empty where it is too old to say where the robot was."""
    found: list[Stretch] = []
    state: tuple[float, ...] = ()
    for line in recording.lines()[1:]:
        match event := from_json(line):
            case SceneReady():
                found, state = [Stretch(event.instruction)], event.proprio
            case Steered(order="instruct", text=text, problem=""):
                found.append(Stretch(text))
            case Frame() if state:
                found[-1].states.append(state)
                found[-1].commands.append(event.action)
                found[-1].pictures.append(round(line["video"] * CONTROL_HZ) - 1)  # the last one before it
                state = event.proprio
    return [stretch for stretch in found if len(stretch)]


def as_lerobot(recording: Recording, root: Path) -> Path:
    """The zip of the recording's dataset under `root`, made when it is first asked for.

    Raises ValueError where the recording holds no step, or is too old to say where the robot was.
    """
    from model.data.lerobot import write_lerobot

    folder = root / recording.id
    target = folder / "lerobot.zip"
    if target.exists():
        return target
    rollout = Rollout(recording)
    if not rollout.episodes:
        raise ValueError("This recording cannot be exported: it does not say where the robot was. Run it again.")
    folder.mkdir(exist_ok=True)  # a shipped recording lies elsewhere
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_lerobot(rollout, range(len(rollout.episodes)), Path(scratch) / recording.id)
        archive = shutil.make_archive(os.path.join(scratch, "lerobot"), "zip", scratch, recording.id)
        os.replace(archive, target)
    return target
