"""Where things are and how they lie is learned from stills, and read off pictures that were never shown."""

import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model import checkpoints
from model.checkpoints import Loaded
from model.data.episodes import EpisodeDataset, EpisodeWriter
from model.data.scenes import SceneDataset, SceneWriter
from model.instructvla import InstructVLA
from model.prompts import Prompter
from model.training import closeup, stage1
from tests.test_stage1 import episode
from tests.tiny import TINY, byte_tokenizer

SIZE = TINY.vision.width, TINY.vision.height


def told(yaw: float, period: float) -> torch.Tensor:
    return torch.tensor(closeup.told(yaw, period))


def test_what_looks_the_same_is_told_the_same() -> None:
    torch.testing.assert_close(told(0.3, math.pi), told(0.3 + math.pi, math.pi))
    torch.testing.assert_close(told(0.3, math.pi / 2), told(0.3 - math.pi / 2, math.pi / 2))
    assert not torch.allclose(told(0.3, math.pi), told(0.3 + math.pi / 2, math.pi))
    assert not told(0.3, 0).any()


def test_a_miss_is_an_angle_and_round_things_have_none() -> None:
    true = torch.stack([told(1.5, math.pi), told(0.7, math.pi / 2), told(0.1, 0)])
    found = torch.stack([told(-1.5, math.pi), told(0.7 - math.pi / 2 + 0.1, math.pi / 2), told(1.0, math.pi)])
    torch.testing.assert_close(closeup.off(found, true), torch.tensor([math.pi - 3.0, 0.1]), atol=1e-5, rtol=0)


def bar(yaw: float, u: float, v: float) -> bytes:
    """A picture of a red bar."""
    picture, half = Image.new("RGB", SIZE, (200, 200, 190)), SIZE[1] / 5
    middle, way = (u * SIZE[0], v * SIZE[1]), (half * math.cos(yaw), half * math.sin(yaw))
    ends = [(middle[0] + side * way[0], middle[1] + side * way[1]) for side in (-1, 1)]
    ImageDraw.Draw(picture).line([ends[0], ends[1]], (220, 30, 30), 6)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def place(u: float, v: float) -> tuple[float, ...]:
    """Where `tests.test_stage1.episode` puts what is seen there."""
    return u, v, 0.2 + 0.2 * v, 0.2 * (u - 0.5), 0.02


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = SceneWriter(tmp_path / "scenes")
    for seed in range(300):
        draw = random.Random(seed)
        yaw, u, v = draw.uniform(-1.5, 1.5), draw.uniform(0.2, 0.8), draw.uniform(0.2, 0.8)
        writer.add(f"{seed:04d}", seed, bar(yaw, u, v), {"marker": place(u, v)}, {}, {"marker": (yaw, math.pi)})
    return tmp_path / "scenes"


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """The hand turns to what lies there, by 0.2 at a time."""
    with EpisodeWriter(tmp_path / "episodes") as writer:
        for seed in range(300):
            draw, plain = random.Random(seed), episode(seed)
            yaw, (u, v) = draw.uniform(-0.8, 0.8), plain.keypoints[0, :2]
            turns = np.diff(np.clip(np.arange(len(plain.actions) + 1) * 0.2, 0, abs(yaw))) * np.sign(yaw)
            actions, proprio = plain.actions.copy(), plain.proprio.copy()
            actions[:, 5], proprio[1:, 5] = turns, np.cumsum(turns)[:-1]
            frames = [bar(yaw, float(u), float(v))] * len(actions)
            writer.add(replace(plain, actions=actions, proprio=proprio, frames=frames))
    return tmp_path / "episodes"


def acting() -> Loaded:
    torch.manual_seed(0)
    model = InstructVLA(replace(TINY, action=replace(TINY.action, closeup=True)))
    return Loaded(model, Prompter(byte_tokenizer(), TINY), None, "")


def test_unseen_things_are_turned_to_after_training(
    folder: Path, episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = replace(acting(), statistics=EpisodeDataset(episodes).statistics())
    checkpoints.save(loaded.model, tmp_path / "start", statistics=loaded.statistics)
    checkpoints.restore(loaded.model, tmp_path / "start")  # as rounded as a file's
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    monkeypatch.setattr(closeup, "begin", lambda _: loaded)
    closeup.run(folder, episodes, tmp_path, tmp_path / "run", steps=500)
    seen, turned = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "held_out" in line][-1]
        for run in (tmp_path / "run" / "seeing", tmp_path / "run")
    )
    assert seen["degrees"] < 15, "45 would be guessing"
    assert seen["millimetres"] < 10, "as it is pointed at it would be 16 beside it, and 30 by guessing"
    assert turned["loss"] < 0.5 * turned["of"]
    changed = {name for name, tensor in loaded.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {"closeup", "turn"}
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").exists()


def test_the_expert_learns_to_use_it_and_leaves_it_as_it_is() -> None:
    model = acting().model
    stage1.groups(model, freeze_language=True)
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("action_expert.layers.") for name in learns)
    assert not any(name.startswith(("action_expert.closeup.", "action_expert.turn.")) for name in learns)


def test_pictures_that_do_not_tell_are_named(folder: Path) -> None:
    writer = SceneWriter(folder.parent / "old")
    writer.add("0001", 1, (folder / "frames" / "0001.jpg").read_bytes(), {"marker": (0.5, 0.5)})
    with pytest.raises(ValueError, match="collect --scenes"):
        closeup.of_stills(acting().model, SceneDataset(folder.parent / "old"))
