"""Episodes on disk: one parquet file of numbers and text per shard, and its frames as JPEG in a plain zip beside it.

    <folder>/episodes-00000.parquet    one row per episode (columns: `schema()`)
    <folder>/frames-00000.zip          <row:05d>/<step:04d>.jpg, stored; may be absent, and rendered later

A shard counts once its parquet file exists; it is renamed into place last, so that a crash costs only the shard in the
making. Row t of every per-step column belongs to the state before action t (see `sim.interface.Episode`).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data.annotate import Annotator, TemplateAnnotator
from model.data.language_motion import language_motion
from model.data.shards import (
    FrameReader,
    State,
    flatten,
    frame_name,
    frames_path,
    read_rows,
    read_states,
    replacing,
    schema,
    shard_paths,
    write_frames,
)
from model.data.splits import seed_held_out
from model.data.statistics import GRIPPER, ActionStatistics
from sim.interface import ACTION_DIM, Episode

Split = Literal["train", "held_out"]
Render = Callable[[dict[str, Any], list[State]], list[bytes]]
"""(scene, states) -> one JPEG per state."""


def split_of(seed: int) -> Split:
    """One scene in twenty is held out of training, by its seed, in every kind of data made from it."""
    return "held_out" if seed_held_out(seed) else "train"


@dataclass(frozen=True)
class EpisodeRow:
    """One stored episode without its states and frames; arrays are float32 and (T, ...)."""

    scene: dict[str, Any]
    seed: int
    kind: str
    split: Split
    instruction: str
    reply: str
    success: bool
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    executed: NDArray[np.float32]
    perturbed: NDArray[np.bool_]
    keypoints: NDArray[np.float32]
    language_motion: list[str]

    def __len__(self) -> int:
        return len(self.actions)

    def chunk(self, start: int, length: int = 8) -> NDArray[np.float32]:
        """Expert actions start..start+length, (length, 7); past the end the arm rests and the gripper stays."""
        actions = self.actions[start : start + length]
        rest = np.zeros((length - len(actions), ACTION_DIM), np.float32)
        rest[:, GRIPPER] = self.actions[-1, GRIPPER]
        return np.concatenate([actions, rest])


class EpisodeWriter:
    """Appends episodes to a folder. Use as a context manager; an existing folder is continued.

    `shard` is the number of episodes per parquet file. Frames are written where an episode has them.
    """

    def __init__(self, folder: str | Path, annotator: Annotator | None = None, shard: int = 50) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._annotate: Annotator = annotator or TemplateAnnotator()
        self._shard = shard
        self._buffer: list[Episode] = []

    def done_seeds(self, kind: str | None = None) -> set[int]:
        """Scene seeds already on disk (of one task family, if given), so that a collection can be resumed."""
        import pyarrow.parquet as pq

        tables = [
            pq.read_table(path, columns=["seed", "kind"]).to_pylist() for path in shard_paths(self.folder).values()
        ]
        return {row["seed"] for table in tables for row in table if kind in (None, row["kind"])}

    def add(self, episode: Episode) -> None:
        """Buffer one episode; a full buffer becomes a shard. Raises ValueError where the parts disagree in length."""
        lengths = {name: len(getattr(episode, name)) for name in ("actions", "proprio", "executed", "keypoints")}
        lengths |= {"perturbed": len(episode.perturbed), "states": len(episode.states)}
        if episode.frames:
            lengths["frames"] = len(episode.frames)
        if not len(episode.actions) or len(set(lengths.values())) > 1:
            raise ValueError(f"An episode needs one row per step in every part, got {lengths}.")
        self._buffer.append(episode)
        if len(self._buffer) >= self._shard:
            self.flush()

    def flush(self) -> None:
        """Write the buffered episodes as a shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._buffer:
            return
        index = max(shard_paths(self.folder), default=-1) + 1
        frames = frames_path(self.folder, index)
        frames.unlink(missing_ok=True)  # left behind by a crash between the two renames
        if any(episode.frames for episode in self._buffer):
            write_frames(frames, {row: ep.frames for row, ep in enumerate(self._buffer) if ep.frames})
        table = pa.Table.from_pylist([self._row(episode) for episode in self._buffer], schema=schema())
        path = self.folder / f"episodes-{index:05d}.parquet"
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._buffer = []

    def _row(self, episode: Episode) -> dict[str, Any]:
        seed, kind = _seed_and_kind(episode.scene)
        layout = {name: list(np.shape(value)) for name, value in episode.states[0].items()}
        return {
            "scene": json.dumps(episode.scene),
            "seed": seed,
            "kind": kind,
            "split": split_of(seed),
            "instruction": episode.instruction,
            "reply": self._annotate.reply(episode.scene, episode.instruction),
            "success": bool(episode.success),
            "proprio": list(episode.proprio),
            "actions": list(episode.actions),
            "executed": list(episode.executed),
            "perturbed": list(episode.perturbed),
            "keypoints": list(episode.keypoints),
            "language_motion": language_motion(episode.proprio),
            "state_layout": json.dumps(layout),
            "states": [flatten(state, layout) for state in episode.states],
        }

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


class EpisodeDataset:
    """A folder of episodes: numbers and text in memory, frames and states read on demand.

    `split` keeps "train" or "held_out" scenes only. Raises ValueError where the folder holds no episode.
    """

    def __init__(self, folder: str | Path, split: Split | None = None) -> None:
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        self._rows: list[EpisodeRow] = []
        self._places: list[tuple[int, int]] = []  # shard, row in shard
        columns = [name for name in schema().names if name not in ("states", "state_layout")]
        for shard, path in shard_paths(self.folder).items():
            for row, values in enumerate(read_rows(pq.ParquetFile(path), columns)):
                if split in (None, values["split"]):
                    self._rows.append(EpisodeRow(**values))
                    self._places.append((shard, row))
        if not self._rows:
            which = f"{split} episodes" if split else "episodes"
            raise ValueError(f"No {which} in {self.folder}: run `python app.py collect` first.")
        self._frames = FrameReader(self.folder)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EpisodeRow:
        return self._rows[index]

    def __iter__(self) -> Iterator[EpisodeRow]:
        return iter(self._rows)

    def key(self, index: int) -> tuple[str, str]:
        """Shard file and row of an episode: its place in `annotations.json` (`model.data.vla_it`)."""
        shard, row = self._places[index]
        return shard_paths(self.folder)[shard].name, str(row)

    def steps(self) -> NDArray[np.int64]:
        """Every (episode, step) of the set, (N, 2), in order: what a trainer samples from."""
        return np.array([(e, t) for e, row in enumerate(self._rows) for t in range(len(row))], np.int64)

    def has_frames(self, index: int) -> bool:
        """Whether this episode's frames are on disk."""
        return self._frames.has(*self._places[index])

    def check_frames(self) -> None:
        """Raise ValueError, before a long run begins, where an episode has not been rendered."""
        bare = next((index for index in range(len(self)) if not self.has_frames(index)), None)
        if bare is not None:
            raise ValueError(f"Episode {bare} has no frames: run `python app.py collect --out {self.folder}` first.")

    def jpeg(self, index: int, step: int) -> bytes:
        """One frame as stored. Raises ValueError where the episode has not been rendered."""
        jpeg = self._frames.read(*self._places[index], step)
        if jpeg is None:
            raise ValueError(f"Episode {index} has no frames yet: run `python app.py collect --render`.")
        return jpeg

    def frame(self, index: int, step: int) -> NDArray[np.uint8]:
        """One frame, (H, W, 3) uint8 RGB."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg(index, step))).convert("RGB"))

    def states(self, index: int) -> list[State]:
        """The simulator's states of one episode, as `Tabletop.set_state` takes them."""
        shard, row = self._places[index]
        return list(read_states(shard_paths(self.folder)[shard]))[row][1]

    def statistics(self) -> ActionStatistics:
        """Normalisation statistics of the expert's actions and the proprioception."""
        return ActionStatistics.measure([row.actions for row in self._rows], [row.proprio for row in self._rows])


def attach_frames(folder: str | Path, render: Render, shards: Iterable[int] | None = None) -> int:
    """Render the frames that shards lack, and return how many episodes were rendered.

    Whole shards are written at once, so several processes may each take some `shards` (see `missing_frames`).
    """
    folder, rendered = Path(folder), 0
    for shard in missing_frames(folder) if shards is None else shards:
        frames = {}
        for row, (scene, states) in enumerate(read_states(shard_paths(folder)[shard])):
            frames[row] = render(scene, states)
            if len(frames[row]) != len(states):
                raise ValueError(f"The renderer gave {len(frames[row])} frames for {len(states)} states.")
        write_frames(frames_path(folder, shard), frames)
        rendered += len(frames)
    return rendered


def missing_frames(folder: str | Path) -> list[int]:
    """Shards in which at least one episode has no frames."""
    import pyarrow.parquet as pq

    missing = []
    for shard, path in shard_paths(Path(folder)).items():
        archive, rows = frames_path(Path(folder), shard), pq.ParquetFile(path).metadata.num_rows
        names = set(zipfile.ZipFile(archive).namelist()) if archive.exists() else set()
        if not all(frame_name(row, 0) in names for row in range(rows)):
            missing.append(shard)
    return missing


def _seed_and_kind(scene: dict[str, Any]) -> tuple[int, str]:
    try:
        return int(scene["seed"]), str(scene["goal"]["kind"])
    except (KeyError, TypeError):
        raise ValueError("An episode's scene needs `seed` and `goal.kind` (dump the SceneSpec into it).") from None
