"""The LeRobotDataset v3 export is consistent with itself and with the episodes it came from."""

import json
from pathlib import Path

import imageio
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest

from model.data import lerobot
from model.data.episodes import EpisodeDataset, EpisodeWriter, split_of
from tests.test_episodes import episode

HELD_OUT_SEED = next(seed for seed in range(100) if split_of(seed) == "held_out")
LENGTHS = {HELD_OUT_SEED: 4, 1: 6, 2: 3, 3: 5}


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EpisodeDataset, Path]:
    with EpisodeWriter(tmp_path / "episodes") as writer:
        for seed, steps in LENGTHS.items():
            writer.add(episode(seed, steps))
    with EpisodeWriter(tmp_path / "episodes") as writer:
        writer.add(episode(9, frames=False))
    monkeypatch.setattr(lerobot, "EPISODES_PER_FILE", 3)
    lerobot.export_lerobot(tmp_path / "episodes", tmp_path / "export")
    return EpisodeDataset(tmp_path / "episodes"), tmp_path / "export"


def test_counts_agree(exported: tuple[EpisodeDataset, Path]) -> None:
    _, root = exported
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 5)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 18, 1)
    assert info["splits"] == {"train": "0:3", "held_out": "3:4"}
    tables = [pq.read_table(path) for path in sorted((root / "data/chunk-000").iterdir())]
    assert [table.num_rows for table in tables] == [14, 4]
    named = {name for name, feature in info["features"].items() if feature["dtype"] != "video"}
    assert all(set(table.column_names) == named for table in tables)
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"]) and stats["action"]["count"] == [18]
    assert np.shape(stats[lerobot.CAMERA]["mean"]) == (3, 1, 1) and stats[lerobot.CAMERA]["count"] == [18]


def test_every_episode_is_found_where_its_metadata_says(exported: tuple[EpisodeDataset, Path]) -> None:
    source, root = exported
    info = json.loads((root / "meta/info.json").read_text())
    tasks = pandas.read_parquet(root / "meta/tasks.parquet")
    steps = pandas.concat([pandas.read_parquet(path) for path in sorted((root / "data/chunk-000").iterdir())])
    steps = steps.set_index("index", drop=False)
    assert list(steps.index) == list(range(18))
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for number, (row, seed) in enumerate(zip(rows, (1, 2, 3, HELD_OUT_SEED), strict=True)):
        original = next(index for index in range(len(source)) if source[index].seed == seed)
        mine = steps.loc[row["dataset_from_index"] : row["dataset_to_index"] - 1]
        assert row["episode_index"] == number and len(mine) == row["length"] == LENGTHS[seed]
        assert (mine["episode_index"] == number).all() and list(mine["frame_index"]) == list(range(len(mine)))
        np.testing.assert_allclose(mine["timestamp"], np.arange(len(mine)) / 5, atol=1e-6)
        np.testing.assert_array_equal(np.stack(mine["action"].to_list()), source[original].actions)
        np.testing.assert_array_equal(np.stack(mine["observation.state"].to_list()), source[original].proprio)
        assert tasks.loc[row["tasks"][0], "task_index"] == mine["task_index"].iloc[0]

        key = lerobot.CAMERA
        place = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
        video = imageio.mimread(root / info["video_path"].format(video_key=key, **place), memtest=False)
        start, end = (round(row[f"videos/{key}/{side}_timestamp"] * 5) for side in ("from", "to"))
        assert end - start == len(mine) and end <= len(video)
        for step, frame in enumerate(video[start:end]):
            assert abs(float(np.mean(frame)) - float(source.frame(original, step).mean())) < 4


def test_misuse_is_explained(exported: tuple[EpisodeDataset, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        lerobot.export_lerobot(tmp_path / "episodes", tmp_path / "export")
    with EpisodeWriter(tmp_path / "bare") as writer:
        writer.add(episode(0, frames=False))
    with pytest.raises(ValueError, match="--render"):
        lerobot.export_lerobot(tmp_path / "bare", tmp_path / "other")
