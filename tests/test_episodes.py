"""Episodes survive the disk unchanged, in resumable shards, and can be rendered later."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.episodes import EpisodeDataset, EpisodeWriter, attach_frames, missing_frames, split_of
from model.data.statistics import ActionStatistics
from sim.interface import Episode


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def episode(seed: int, steps: int = 5, frames: bool = True, kind: str = "pick") -> Episode:
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(steps, 7)).astype(np.float32)
    actions[:, 6] = np.arange(steps) < steps - 1
    return Episode(
        scene={"seed": seed, "goal": {"kind": kind, "source": "carrot", "target": None}},
        instruction="pick up the carrot",
        success=True,
        proprio=rng.normal(size=(steps, 8)).astype(np.float32),
        actions=actions,
        executed=actions + 1,
        perturbed=np.arange(steps) == 1,
        keypoints=rng.random((steps, 10)).astype(np.float32),
        states=[{"qpos": rng.random(3).tolist(), "poses": rng.random((2, 7)).tolist()} for _ in range(steps)],
        frames=[jpeg(10 * t) for t in range(steps)] if frames else [],
    )


def write(folder: Path, episodes: list[Episode], shard: int = 2) -> None:
    with EpisodeWriter(folder, shard=shard) as writer:
        for item in episodes:
            writer.add(item)


def test_round_trip(tmp_path: Path) -> None:
    originals = [episode(seed, steps=4 + seed) for seed in range(5)]
    write(tmp_path, originals)
    dataset = EpisodeDataset(tmp_path)
    assert len(dataset) == 5 and len(list(tmp_path.iterdir())) == 6
    for index, original in enumerate(originals):
        row = dataset[index]
        for name in ("proprio", "actions", "executed", "keypoints", "perturbed"):
            np.testing.assert_array_equal(getattr(row, name), getattr(original, name))
            assert getattr(row, name).dtype == getattr(original, name).dtype
        assert (row.scene, row.instruction, row.seed, row.kind) == (original.scene, "pick up the carrot", index, "pick")
        assert "carrot" in row.reply and len(row.language_motion) == len(row)
        assert dataset.jpeg(index, 3) == original.frames[3]
        assert dataset.frame(index, 3).shape == (24, 32, 3)
        np.testing.assert_allclose(dataset.states(index)[2]["poses"], original.states[2]["poses"], atol=1e-6)
    assert dataset.steps().shape == (sum(len(row) for row in dataset), 2)


def test_a_collection_is_resumed_after_a_crash(tmp_path: Path) -> None:
    write(tmp_path, [episode(0), episode(1)])
    (tmp_path / "frames-00001.zip").write_bytes(b"half written")
    (tmp_path / ".episodes-00001.parquet.7").write_bytes(b"half written")
    writer = EpisodeWriter(tmp_path)
    assert writer.done_seeds() == {0, 1} and writer.done_seeds("put_on") == set()
    writer.add(episode(2, frames=False, kind="put_on"))
    writer.flush()
    assert writer.done_seeds() == {0, 1, 2} and writer.done_seeds("put_on") == {2}
    dataset = EpisodeDataset(tmp_path)
    assert [dataset.has_frames(i) for i in range(3)] == [True, True, False]
    with pytest.raises(ValueError, match="Episode 2 has no frames: run"):
        dataset.check_frames()


def test_an_interrupted_block_keeps_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), EpisodeWriter(tmp_path, shard=100) as writer:
        writer.add(episode(0))
        raise KeyboardInterrupt
    assert len(EpisodeDataset(tmp_path)) == 1


def test_frames_are_attached_later(tmp_path: Path) -> None:
    write(tmp_path, [episode(0, frames=False), episode(1, frames=False), episode(2)])
    with pytest.raises(ValueError, match="--render"):
        EpisodeDataset(tmp_path).frame(0, 0)
    assert missing_frames(tmp_path) == [0]
    shown = []

    def render(scene: dict, states: list[dict]) -> list[bytes]:
        shown.append((scene["seed"], np.shape(states[0]["poses"])))
        return [jpeg(200) for _ in states]

    assert attach_frames(tmp_path, render) == 2
    assert shown == [(0, (2, 7)), (1, (2, 7))] and missing_frames(tmp_path) == []
    dataset = EpisodeDataset(tmp_path)
    assert dataset.frame(1, 4).mean() > 190 and dataset.frame(2, 0).mean() < 10
    with pytest.raises(ValueError, match="0 frames for 5 states"):
        attach_frames(tmp_path, lambda scene, states: [], shards=[0])


def test_chunks_rest_past_the_end_with_the_last_gripper(tmp_path: Path) -> None:
    write(tmp_path, [episode(0, steps=10)])
    row = EpisodeDataset(tmp_path)[0]
    np.testing.assert_array_equal(row.chunk(1), row.actions[1:9])
    late = row.chunk(7)
    np.testing.assert_array_equal(late[:3], row.actions[7:])
    assert late.shape == (8, 7) and not late[3:, :6].any() and (late[3:, 6] == row.actions[-1, 6]).all()


def test_splits_share_no_seed(tmp_path: Path) -> None:
    seeds = range(60)
    write(tmp_path, [episode(seed, steps=3, frames=False) for seed in seeds], shard=30)
    train, held_out = EpisodeDataset(tmp_path, "train"), EpisodeDataset(tmp_path, "held_out")
    assert len(train) + len(held_out) == 60 and len(held_out) == sum(split_of(s) == "held_out" for s in seeds) > 0
    assert {row.seed for row in train}.isdisjoint(row.seed for row in held_out)


def test_bad_episodes_and_empty_folders_are_explained(tmp_path: Path) -> None:
    broken = episode(0)
    object.__setattr__(broken, "states", broken.states[:-1])
    with pytest.raises(ValueError, match="one row per step"):
        EpisodeWriter(tmp_path).add(broken)
    with pytest.raises(ValueError, match="collect"):
        EpisodeDataset(tmp_path)


def test_statistics_normalise_and_come_back(tmp_path: Path) -> None:
    write(tmp_path, [episode(seed, steps=40) for seed in range(5)])
    dataset = EpisodeDataset(tmp_path)
    statistics = ActionStatistics.from_dict(dataset.statistics().to_dict())
    assert statistics == dataset.statistics() and statistics.num_transitions == 200
    chunks = np.stack([row.chunk(3) for row in dataset])
    unit = statistics.normalise(chunks)
    assert unit.shape == (5, 8, 7) and np.abs(unit[..., :6]).max() <= 1
    np.testing.assert_array_equal(unit[..., 6], chunks[..., 6])
    inside = np.abs(unit) < 1
    back = statistics.unnormalise(unit)
    np.testing.assert_allclose(back[inside], chunks[inside], atol=1e-5)
    np.testing.assert_allclose(statistics.unnormalise(torch.from_numpy(unit)).numpy(), back, atol=1e-6)
    np.testing.assert_allclose(statistics.normalise(torch.from_numpy(chunks)).numpy(), unit, atol=1e-6)


def test_a_dimension_that_never_moves_is_zero() -> None:
    actions, proprio = np.zeros((10, 7), np.float32), np.ones((10, 8), np.float32)
    statistics = ActionStatistics.measure([actions], [proprio])
    assert not statistics.normalise(actions).any() and not statistics.normalise_proprio(proprio).any()
    assert not statistics.unnormalise(np.full((1, 7), 0.3, np.float32)).any()
