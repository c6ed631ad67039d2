"""Export to LeRobotDataset v3.0, so that other people's policies can train on these episodes.

    meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-NNN.parquet                              one row per step, many episodes per file
    videos/observation.images.third_view/chunk-000/file-NNN.mp4  the same episodes' frames, one after the other

The layout is the one `lerobot` 0.4 reads. Needs pyarrow, pandas and imageio-ffmpeg, which the application installs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.episodes import EpisodeDataset, Split
from sim.interface import CONTROL_HZ

CAMERA = "observation.images.third_view"
STATE_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"]
ACTION_NAMES = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
EPISODES_PER_FILE = 500
"""Keeps files within the format's usual sizes: about 10 MB of numbers and 50 MB of video."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


class Row(Protocol):
    """One episode's numbers: `proprio` (T, 8) and `actions` (T, 7), row t before action t."""

    @property
    def instruction(self) -> str: ...

    @property
    def split(self) -> Split: ...

    @property
    def proprio(self) -> NDArray[np.float32]: ...

    @property
    def actions(self) -> NDArray[np.float32]: ...

    def __len__(self) -> int: ...


class Episodes(Protocol):
    """Episodes with a picture (H, W, 3) uint8 before each action; `EpisodeDataset` is one."""

    def __getitem__(self, index: int) -> Row: ...

    def frame(self, index: int, step: int) -> NDArray[np.uint8]: ...


def export_lerobot(source: str | Path, target: str | Path, robot: str = "widowx") -> None:
    """Write every rendered episode of the folder `source` as a dataset in the new folder `target`.

    Raises ValueError where no episode has frames, or `target` exists.
    """
    dataset, root = EpisodeDataset(source), Path(target)
    if root.exists():
        raise ValueError(f"{root} exists already: name a new folder for the export.")
    chosen = [index for index in range(len(dataset)) if dataset.has_frames(index)]
    if not chosen:
        raise ValueError(f"No episode in {source} has frames: run `python app.py collect --render` first.")
    write_lerobot(dataset, chosen, root, robot)


def write_lerobot(dataset: Episodes, chosen: Sequence[int], root: Path, robot: str = "widowx") -> None:
    """Write the `chosen` episodes as a dataset in the new folder `root`."""
    chosen = sorted(chosen, key=lambda index: dataset[index].split == "held_out")  # splits are ranges of episodes
    tasks = sorted({dataset[index].instruction for index in chosen})

    episodes: list[dict[str, Any]] = []
    columns = _columns(dataset, chosen, tasks)
    pictures = _Moments()
    for file, start in enumerate(range(0, len(chosen), EPISODES_PER_FILE)):
        part = chosen[start : start + EPISODES_PER_FILE]
        _write_table(root / f"data/chunk-000/file-{file:03d}.parquet", _rows(columns, start, start + len(part)))
        _write_video(root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", dataset, part, pictures)
        episodes += _episode_rows(dataset, part, columns, start, file)

    _write_table(root / "meta/episodes/chunk-000/file-000.parquet", episodes)
    _write_tasks(root / "meta/tasks.parquet", tasks)
    stats = {name: _statistics(values) for name, values in columns.items()} | {CAMERA: pictures.statistics()}
    (root / "meta/stats.json").write_text(json.dumps(stats, indent=4))
    info = _info(robot, dataset.frame(chosen[0], 0).shape, len(columns["index"]), len(tasks))
    trained = sum(dataset[index].split == "train" for index in chosen)
    splits = {"train": f"0:{trained}", "held_out": f"{trained}:{len(chosen)}"}
    info |= {"total_episodes": len(chosen), "splits": {k: v for k, v in splits.items() if len(set(v.split(":"))) == 2}}
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))


def _columns(dataset: Episodes, chosen: Sequence[int], tasks: list[str]) -> dict[str, NDArray[Any]]:
    """Every step of every episode, in order."""
    rows = [dataset[index] for index in chosen]
    frame = np.concatenate([np.arange(len(row)) for row in rows])
    lengths = [len(row) for row in rows]
    return {
        "observation.state": np.concatenate([row.proprio for row in rows]),
        "action": np.concatenate([row.actions for row in rows]),
        "timestamp": (frame / CONTROL_HZ).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(rows)), lengths),
        "index": np.arange(len(frame)),
        "task_index": np.repeat([tasks.index(row.instruction) for row in rows], lengths),
    }


def _rows(columns: dict[str, NDArray[Any]], first: int, end: int) -> list[dict[str, Any]]:
    """Steps of the episodes first..end as parquet rows."""
    mask = (columns["episode_index"] >= first) & (columns["episode_index"] < end)
    parts = {name: values[mask].tolist() for name, values in columns.items()}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def _episode_rows(
    dataset: Episodes, part: Sequence[int], columns: dict[str, NDArray[Any]], first: int, file: int
) -> Iterator[dict[str, Any]]:
    """Where each episode of one file is: rows of the data, seconds of the video."""
    shown = 0
    for number, index in enumerate(part, first):
        row = dataset[index]
        start = int(np.searchsorted(columns["episode_index"], number))
        mine = slice(start, start + len(row))
        entry: dict[str, Any] = {"episode_index": number, "tasks": [row.instruction], "length": len(row)}
        entry |= {"dataset_from_index": start, "dataset_to_index": start + len(row)}
        entry |= {"data/chunk_index": 0, "data/file_index": file}
        entry |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        entry |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": file}
        entry[f"videos/{CAMERA}/from_timestamp"] = shown / CONTROL_HZ
        shown += len(row)
        entry[f"videos/{CAMERA}/to_timestamp"] = shown / CONTROL_HZ
        for name, values in columns.items():
            entry |= {f"stats/{name}/{key}": value for key, value in _statistics(values[mine]).items()}
        yield entry


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the types that `meta/info.json` promises; what it doesn't name keeps its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.type_for_alias(dtype) for name, dtype in COUNTERS.items()}
    types |= {"observation.state": pa.list_(pa.float32(), len(STATE_NAMES))}
    types |= {"action": pa.list_(pa.float32(), len(ACTION_NAMES))}
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
    pq.write_table(pa.table(columns), path)


def _write_tasks(path: Path, tasks: list[str]) -> None:
    import pandas

    # The tasks are the index of the frame, not a column: lerobot looks them up by it.
    pandas.DataFrame({"task_index": range(len(tasks))}, index=pandas.Index(tasks, name="task")).to_parquet(path)


def _write_video(path: Path, dataset: Episodes, part: Sequence[int], pictures: _Moments) -> None:
    import imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    # A key frame at every other picture makes random access cheap, as in lerobot's own recordings.
    settings: dict[str, Any] = {"codec": "libx264", "macro_block_size": 2, "ffmpeg_params": ["-g", "2", "-crf", "23"]}
    with imageio.get_writer(path, fps=CONTROL_HZ, **settings) as video:
        for index in part:
            for step in range(len(dataset[index])):
                frame = dataset.frame(index, step)
                pictures.add(frame)
                video.append_data(frame)


class _Moments:
    """Running statistics of pictures, per channel, in 0..1."""

    def __init__(self) -> None:
        self.count, self.total, self.square = 0, np.zeros(3), np.zeros(3)
        self.low, self.high = np.ones(3), np.zeros(3)

    def add(self, frame: NDArray[np.uint8]) -> None:
        pixels = frame.reshape(-1, 3).astype(np.float32) / 255
        self.count += 1
        self.total += pixels.mean(0)
        self.square += (pixels**2).mean(0)
        self.low, self.high = np.minimum(self.low, pixels.min(0)), np.maximum(self.high, pixels.max(0))

    def statistics(self) -> dict[str, Any]:
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.square / self.count - mean**2, 0))
        channels = {"min": self.low, "max": self.high, "mean": mean, "std": std}
        return {key: value.reshape(3, 1, 1).tolist() for key, value in channels.items()} | {"count": [self.count]}


def _statistics(values: NDArray[Any]) -> dict[str, list[float]]:
    """Per dimension, as lists even where there is one."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    parts = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    parts |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {name: part.tolist() for name, part in parts.items()} | {"count": [len(rows)]}


def _info(robot: str, frame: tuple[int, ...], steps: int, tasks: int) -> dict[str, Any]:
    height, width, channels = frame
    video: dict[str, Any] = {
        "video.height": height,
        "video.width": width,
        "video.channels": channels,
        "video.fps": CONTROL_HZ,
    }
    video |= {"video.codec": "h264", "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "has_audio": False}
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": STATE_NAMES},
        "action": {"dtype": "float32", "shape": [len(ACTION_NAMES)], "names": ACTION_NAMES},
        CAMERA: {"dtype": "video", "shape": list(frame), "names": ["height", "width", "channels"], "info": video},
    }
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in COUNTERS.items()}
    return {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_frames": steps,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": CONTROL_HZ,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
