"""Stage 1 on a handful of synthetic episodes: what trains, what counts, and that it learns."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.episodes import EpisodeDataset, EpisodeWriter
from model.instructvla import InstructVLA
from model.prompts import Prompter, collate
from model.training import stage1
from sim.interface import Episode
from tests.tiny import TINY, byte_tokenizer

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


def frame(u: float, v: float) -> bytes:
    picture = np.full((48, 64, 3), 200, np.uint8)
    y, x = int(v * 48), int(u * 64)
    picture[max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = (220, 30, 30)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    return buffer.getvalue()


def episode(seed: int, steps: int = 10) -> Episode:
    """A red square lies somewhere; the expert moves straight towards it."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0.2, 0.8, 2)
    place = np.array([u, v, 0.2 + 0.2 * v, 0.2 * (u - 0.5), 0.02], np.float32)
    actions = np.tile(np.array([0.02 * v, 0.02 * (u - 0.5), -0.01, 0, 0, 0, 1], np.float32), (steps, 1))
    proprio = np.zeros((steps, 8), np.float32)
    proprio[:, :3] = np.cumsum(actions[:, :3], 0) + np.array([0.3, 0, 0.1])
    perturbed = np.zeros(steps, bool)
    perturbed[4] = seed % 2 == 0
    return Episode(
        scene={"seed": seed, "goal": {"kind": "pick", "source": "strawberry", "target": None}},
        instruction="pick up the strawberry",
        success=True,
        proprio=proprio,
        actions=actions,
        executed=actions,
        perturbed=perturbed,
        keypoints=np.tile(np.concatenate([place, place]), (steps, 1)),
        states=[{"qpos": [0.0]} for _ in range(steps)],
        frames=[frame(u, v)] * steps,
    )


@pytest.fixture
def data(tmp_path: Path) -> EpisodeDataset:
    with EpisodeWriter(tmp_path) as writer:
        for seed in range(8):
            writer.add(episode(seed))
    return EpisodeDataset(tmp_path)


@pytest.fixture
def model() -> InstructVLA:
    torch.manual_seed(0)
    return InstructVLA(TINY)


def batches(data: EpisodeDataset, model: InstructVLA) -> stage1.ActionData:
    return stage1.ActionData(data, Prompter(byte_tokenizer(), TINY), model, data.statistics(), seed=0)


def test_vision_connector_and_backbone_stay_as_aligned(data: EpisodeDataset, model: InstructVLA) -> None:
    stage1.groups(model)
    stage1.losses(model, batches(data, model)(0))["loss"].backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("vision.", "connector.")) or model.is_base(name) for name in moved)
    assert any(name.startswith("action_expert.film") for name in moved)
    assert "decoder.new_rows" in moved and any("lora" in name for name in moved)


def test_batches_follow_from_the_step_alone(data: EpisodeDataset, model: InstructVLA) -> None:
    first, second = batches(data, model)(5), batches(data, model)(5)
    torch.testing.assert_close(first.pixels, second.pixels)
    torch.testing.assert_close(first.prompts.ids, second.prompts.ids)
    assert not torch.equal(first.actions, batches(data, model)(6).actions)


def test_pictures_in_memory_make_the_same_batches(data: EpisodeDataset, model: InstructVLA) -> None:
    told = data, Prompter(byte_tokenizer(), TINY), model, data.statistics()
    kept = stage1.ResidentData(*told, seed=0).load(torch.device("cpu"))
    for step in (0, 5):
        plain = vars(batches(data, model)(step))
        for name, part in vars(kept(step)).items():
            if name == "prompts":
                torch.testing.assert_close(part.ids, plain[name].ids)
            elif part is not None:
                torch.testing.assert_close(part, plain[name], msg=name)


def test_actions_after_a_random_push_do_not_count(data: EpisodeDataset, model: InstructVLA) -> None:
    row = next(row for row in data if row.perturbed.any())
    index = next(i for i, other in enumerate(data) if other is row)
    _, _, _, valid, _ = batches(data, model).observations([(index, 2)])
    assert valid[0].tolist() == [True, True, True] + [False] * (TINY.action.chunk - 3)


def test_frozen_language_gives_the_same_losses_from_remembered_latents(
    data: EpisodeDataset, model: InstructVLA
) -> None:
    source = stage1.FrozenLanguageData(data, Prompter(byte_tokenizer(), TINY), model, data.statistics(), seed=0)
    batch = source(0)
    assert batch.latents is not None and len(batch.latents) == len(batch.pixels)
    stage1.groups(model, freeze_language=True)
    stage1.losses(model, batch)["loss"].backward()
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("action_expert."))
    row, random = data[0], np.random.default_rng([0, 0])
    with torch.no_grad():
        view = model.eval().encode(source.pixels([(0, 0)]))
        _, latents = model.language(collate([source._prompt(row, 0, random)]), view)
    torch.testing.assert_close(source.latents[0][0].float(), latents[0], atol=0.05, rtol=0.05)


def test_latents_are_remembered_beside_the_episodes(
    data: EpisodeDataset, model: InstructVLA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = stage1.memory_of(tmp_path, model, data, 0, 0.1)
    told = data, Prompter(byte_tokenizer(), TINY), model, data.statistics(), 0, 0.1
    first = stage1.FrozenLanguageData(*told, memory)
    monkeypatch.setattr(InstructVLA, "language", lambda *_: pytest.fail("read again"))
    again = stage1.FrozenLanguageData(*told, memory)
    torch.testing.assert_close(first(3).latents, again(3).latents, atol=0, rtol=0)
    others = [stage1.memory_of(tmp_path, model, data, 1, 0.1), stage1.memory_of(tmp_path, model, data, 0, 0.0)]
    with torch.no_grad():
        model.action_expert.norm.weight.add_(1)
        assert stage1.memory_of(tmp_path, model, data, 0, 0.1) == memory, "the action expert has no part in latents"
        model.decoder.new_rows.add_(1)
    others.append(stage1.memory_of(tmp_path, model, data, 0, 0.1))
    assert len({memory, *others}) == 4


def test_learns_to_act_and_to_point(data: EpisodeDataset, model: InstructVLA) -> None:
    groups = stage1.groups(model)
    optimiser = torch.optim.AdamW([{"params": list(g.parameters), "lr": 3e-3} for g in groups])
    source = batches(data, model)
    before = stage1.held_out(model.eval(), source, batches=2)
    model.train()
    for step in range(80):
        optimiser.zero_grad()
        stage1.losses(model, source(step))["loss"].backward()
        optimiser.step()
    after = stage1.held_out(model.eval(), source, batches=2)
    assert after["flow"] < 0.85 * before["flow"]
    assert after["place"] < 0.5 * before["place"]
    assert after["lm"] < 0.95 * before["lm"]
