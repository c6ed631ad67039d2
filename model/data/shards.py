"""The files of one shard of episodes; `episodes.py` documents the layout."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.interface import ACTION_DIM, PROPRIO_DIM

KEYPOINT_DIM = 10
"""u, v, x, y, z of the source, then of the target (`sim.interface.Episode`)."""

State = dict[str, Any]
"""One simulator state: name -> nested lists of floats."""


def shard_paths(folder: Path) -> dict[int, Path]:
    """Finished shards by number, in order."""
    matches = {
        path: re.fullmatch(r"episodes-(\d{5,})\.parquet", path.name) for path in sorted(folder.glob("*.parquet"))
    }
    return {int(match[1]): path for path, match in matches.items() if match}


def frames_path(folder: Path, shard: int) -> Path:
    """Where a shard's frames are."""
    return folder / f"frames-{shard:05d}.zip"


def schema() -> Any:
    """Arrow schema of a shard. `states` are flat; `state_layout` (JSON: name -> shape, in order) unflattens them."""
    import pyarrow as pa

    def rows(width: int) -> Any:
        return pa.list_(pa.list_(pa.float32(), width))

    return pa.schema(
        {name: pa.string() for name in ("scene", "kind", "split", "instruction", "reply", "state_layout")}
        | {"seed": pa.int64(), "success": pa.bool_(), "perturbed": pa.list_(pa.bool_())}
        | {"proprio": rows(PROPRIO_DIM), "actions": rows(ACTION_DIM), "executed": rows(ACTION_DIM)}
        | {
            "keypoints": rows(KEYPOINT_DIM),
            "language_motion": pa.list_(pa.string()),
            "states": pa.list_(pa.list_(pa.float32())),
        }
    )


def flatten(state: State, layout: dict[str, list[int]]) -> NDArray[np.float32]:
    """One state as a vector. Raises ValueError where its names are not the layout's."""
    if list(state) != list(layout):
        raise ValueError("Every state of an episode needs the same names in the same order.")
    return np.concatenate([np.asarray(value, np.float32).ravel() for value in state.values()])


def read_rows(file: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a shard with per-step floats as arrays."""
    table = file.read(columns=columns)
    for index in range(table.num_rows):
        row: dict[str, Any] = {}
        for name in columns:
            cell = table[name][index]
            if name in ("proprio", "actions", "executed", "keypoints"):
                values = cell.values
                row[name] = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1).copy()
            else:
                row[name] = cell.as_py()
        row["scene"], row["perturbed"] = json.loads(row["scene"]), np.array(row["perturbed"], bool)
        yield row


def read_states(path: Path) -> Iterator[tuple[dict[str, Any], list[State]]]:
    """(scene, states) of each row."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["scene", "state_layout", "states"])
    for index in range(table.num_rows):
        layout = json.loads(table["state_layout"][index].as_py())
        ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])[:-1]
        steps = [np.split(flat.values.to_numpy(), ends) for flat in table["states"][index]]
        states = [{n: p.reshape(layout[n]).tolist() for n, p in zip(layout, parts, strict=True)} for parts in steps]
        yield json.loads(table["scene"][index].as_py()), states


class FrameReader:
    """Stored JPEGs of a folder, by shard, row and step. Safe to use from forked workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[tuple[int, int], zipfile.ZipFile | None] = {}

    def has(self, shard: int, row: int, step: int = 0) -> bool:
        """Whether a frame is there."""
        archive = self._archive(shard)
        return archive is not None and frame_name(row, step) in archive.NameToInfo

    def read(self, shard: int, row: int, step: int) -> bytes | None:
        """One JPEG, or None where it has not been rendered."""
        archive = self._archive(shard)
        return archive.read(frame_name(row, step)) if archive is not None and self.has(shard, row, step) else None

    def _archive(self, shard: int) -> zipfile.ZipFile | None:
        # A file handle's position is shared with forked children, so each process opens its own.
        key = (os.getpid(), shard)
        if key not in self._open:
            path = frames_path(self._folder, shard)
            self._open[key] = zipfile.ZipFile(path) if path.exists() else None
        return self._open[key]


def frame_name(row: int, step: int) -> str:
    """Name of a frame in its shard's zip."""
    return f"{row:05d}/{step:04d}.jpg"


def write_frames(path: Path, frames: dict[int, list[bytes]]) -> None:
    """Write a shard's frames, given as row -> JPEGs."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for row, jpegs in frames.items():
            for step, jpeg in enumerate(jpegs):
                archive.writestr(frame_name(row, step), jpeg)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
