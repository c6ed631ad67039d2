"""Still pictures with the facts to ask about: what the alignment stage trains on.

    <folder>/scenes.jsonl     one line per picture: {"name", "seed", "visible": {object id: [u, v, x, y, z]},
                              "goal", "headings": {object id: [yaw, period]}}
    <folder>/frames/<name>.jpg

A line is written after its picture, so a crash loses one picture at most and the collection can go on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data.episodes import Split, split_of


@dataclass(frozen=True)
class Still:
    """One picture; `visible` maps the ids of the objects in it to image coordinates u, v in [0, 1], and x, y, z in the
    robot's base frame [m] where these were stored.

    `goal` is the one that the scene was laid out for (`kind`, `source`, `target`), empty where none is known.
    `headings` tell how those that can be grasped lie: the gripper's yaw that fits and the turn after which it fits
    again [rad], 0 where any yaw does; empty where that was not stored.
    """

    name: str
    seed: int
    visible: dict[str, list[float]]
    goal: dict[str, Any] = field(default_factory=dict)
    headings: dict[str, list[float]] = field(default_factory=dict)


class SceneWriter:
    """Appends pictures to a folder; an existing folder is continued."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        (self.folder / "frames").mkdir(parents=True, exist_ok=True)

    def done(self) -> set[str]:
        """Names already on disk."""
        return {still.name for still in _read(self.folder)}

    def add(
        self,
        name: str,
        seed: int,
        jpeg: bytes,
        visible: Mapping[str, Sequence[float]],
        goal: Mapping[str, Any] | None = None,
        headings: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Store one picture. `name` is unique in the folder, say "<seed>-<step>"; `seed` decides the split."""
        (self.folder / "frames" / f"{name}.jpg").write_bytes(jpeg)
        still = Still(
            name,
            int(seed),
            _rounded(visible),
            dict(goal or {}),
            _rounded(headings or {}),
        )
        with (self.folder / "scenes.jsonl").open("a") as file:
            file.write(json.dumps(asdict(still)) + "\n")


class SceneDataset:
    """The pictures of a split, facts in memory, frames read on demand. Raises ValueError where there are none."""

    def __init__(self, folder: str | Path, split: Split | None = None) -> None:
        self.folder = Path(folder)
        self._stills = [still for still in _read(self.folder) if split in (None, split_of(still.seed))]
        if not self._stills:
            which = f"{split} scenes" if split else "scenes"
            raise ValueError(f"No {which} in {self.folder}: run `python app.py collect --scenes` first.")

    def __len__(self) -> int:
        return len(self._stills)

    def __getitem__(self, index: int) -> Still:
        return self._stills[index]

    def frame(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        jpeg = (self.folder / "frames" / f"{self._stills[index].name}.jpg").read_bytes()
        return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _rounded(numbers: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {key: [round(float(x), 4) for x in row] for key, row in numbers.items()}


def _read(folder: Path) -> list[Still]:
    path = folder / "scenes.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Still(**json.loads(line)) for line in lines if line.endswith("\n")]  # a crash may leave half a line
