"""Alignment on pictures of two coloured discs: a tiny model learns to answer, and the score counts what it answers."""

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model.config import ActionConfig, DecoderConfig, InstructVLAConfig, LoraConfig, VisionConfig
from model.data import multimodal
from model.data.episodes import split_of
from model.data.multimodal import Mix, SceneTalks
from model.data.questions import Thing, Turn
from model.data.scenes import SceneDataset, SceneWriter
from model.instructvla import InstructVLA
from model.prompts import Prompter, collate
from model.training import align, answering
from tests.tiny import byte_tokenizer

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other

CONFIG = InstructVLAConfig(
    queries=2,
    vision=VisionConfig(height=28, width=56, patch=7, dim=32, layers=2, heads=2, trunk_layers=1),
    decoder=DecoderConfig(vocab=264, dim=48, layers=2, heads=4, kv_heads=2, mlp=64),
    lora=LoraConfig(rank=8, alpha=8.0, dropout=0.0),
    action=ActionConfig(dim=16, layers=1, heads=2, mlp=16),
)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
CATALOG = {
    f"{colour}_ball": Thing(f"{colour}_ball", f"{colour} ball", "toy", (colour,), "round", "rubber", None, ())
    for colour in COLOURS
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = SceneWriter(tmp_path / "scenes")
    for seed in range(60):
        draw = random.Random(seed)
        picture = Image.new("RGB", (56, 28), (200, 200, 190))
        visible = {}
        for place, colour in zip((14, 42), draw.sample(sorted(COLOURS), 2), strict=True):
            ImageDraw.Draw(picture).ellipse((place - 6, 8, place + 6, 20), COLOURS[colour])
            visible[f"{colour}_ball"] = (place / 56, 0.5)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG")
        writer.add(f"{seed:04d}", seed, buffer.getvalue(), visible)
    return tmp_path / "scenes"


@pytest.fixture
def model() -> InstructVLA:
    torch.manual_seed(0)
    model = InstructVLA(CONFIG)
    with (
        torch.no_grad()
    ):  # the head is tied and frozen; embeddings of a fresh model are too short to be sure of anything
        model.decoder.embedding.weight.mul_(20)
    return model


@pytest.fixture
def prompter() -> Prompter:
    return Prompter(byte_tokenizer(), CONFIG)


def questions(folder: Path, prompter: Prompter, seed: int) -> align.Questions:
    talks = SceneTalks(SceneDataset(folder, "train"), CATALOG, turns=align.TURNS)
    return align.Questions(Mix({"scene": talks}, {"scene": 1.0}, seed), prompter, CONFIG, 4)


def test_scenes_are_read_back_split_by_seed_and_survive_a_crash(folder: Path) -> None:
    with (folder / "scenes.jsonl").open("a") as file:
        file.write('{"name": "0060", "se')
    assert len(SceneDataset(folder)) == 60 and len(SceneWriter(folder).done()) == 60
    held_out = SceneDataset(folder, "held_out")
    assert all(split_of(held_out[i].seed) == "held_out" for i in range(len(held_out))) and len(held_out) > 0
    assert held_out.frame(0).shape == (28, 56, 3) and held_out.frame(0).dtype == np.uint8
    with pytest.raises(ValueError, match="--scenes"):
        SceneDataset(folder / "nowhere", "train")


def test_only_the_connector_lora_new_rows_and_tail_are_trained(model: InstructVLA) -> None:
    groups = align.groups(model)
    named = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(list(group.parameters)) for group in groups) == len(named)
    assert not any(name.startswith(("action_expert", "vision.blocks.0", "vision.patch")) for name in named)
    assert "decoder.embedding.weight" not in named and "decoder.new_rows" in named and "vision.norm.weight" in named
    assert any("lora_" in name for name in named) and any(name.startswith("vision.blocks.1") for name in named)


def test_batches_depend_on_the_step_alone(folder: Path, prompter: Prompter) -> None:
    one, other = (questions(folder, prompter, seed=1) for _ in range(2))
    one(0)
    assert torch.equal(one(7).text.ids, other(7).text.ids) and torch.equal(one(7).pixels, other(7).pixels)
    assert one(7).text.ids.shape != one(8).text.ids.shape or not torch.equal(one(7).text.ids, one(8).text.ids)


def test_what_is_taught_is_answered_and_scored(
    folder: Path, model: InstructVLA, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = [Turn("colour", "Hue?", "red"), Turn("shape", "Form?", "disc")]
    asked = [*taught, Turn("wrong word", "Hue?", "rod"), Turn("too short", "Form?", "dis")]
    batches = questions(folder, prompter, seed=0)
    optimizer = torch.optim.AdamW([p for group in align.groups(model) for p in group.parameters], 1e-2)
    history = []
    for step in range(80):
        # One turn per sequence, as it is asked later.
        monkeypatch.setattr(multimodal, "conversation", lambda *args, step=step: [taught[step % 2]])
        loss = align.losses(model, batches(step))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(loss.detach()))
    assert history[-1] < 0.1 * history[0]

    monkeypatch.setattr(answering, "conversation", lambda *args: asked)
    held_out = SceneDataset(folder, "held_out")
    scores = answering.scene_scores(model.eval(), prompter, held_out, CATALOG, "test", 50)
    assert scores.pop("questions") == 4 * len(held_out)
    assert scores == {"exact match": 0.5, "colour": 1.0, "shape": 1.0, "wrong word": 0.0, "too short": 0.0}

    prompt = prompter.question("Form?")
    image = model.encode(align.preprocess(held_out.frame(0), CONFIG.vision)[None]).tokens
    ids = prompt.ids[None]
    while ids[0, -1].item() not in prompter.stop_ids and ids.shape[1] < len(prompt.ids) + 10:
        hidden, _ = model.decoder(model.embed(ids, ids == prompt.ids[prompt.image_positions][0], image))
        ids = torch.cat([ids, model.decoder.logits(hidden[:, -1:]).argmax(-1)], 1)
    assert prompter.decode(ids[0, len(prompt.ids) :].tolist()) == "disc"


def test_gates_are_reported_for_words_and_queries(folder: Path, prompter: Prompter) -> None:
    torch.manual_seed(0)
    two = InstructVLA(replace(CONFIG, lora=replace(CONFIG.lora, experts=2))).eval()
    head = two.decoder.scale_head
    assert head is not None
    with torch.no_grad():  # the same weights everywhere: three quarters for the first expert
        head.layers[-1].weight.zero_()
        head.layers[-1].bias.copy_(torch.tensor([0.75, 0.25]).log())
    means = answering.gate_means(two, prompter, SceneDataset(folder, "held_out"), CATALOG, "train", 2)
    assert means == pytest.approx({"gate text": 0.75, "gate queries": 0.75})


def test_answers_judged_together_are_those_judged_alone(folder: Path, model: InstructVLA, prompter: Prompter) -> None:
    scenes = SceneDataset(folder, "held_out")
    pixels = align.preprocess(scenes.frame(0), CONFIG.vision)
    turns = [Turn("a", "Hue?", word) for word in ("red", "blue", "r")]
    alone = [answering.exact(model.eval(), prompter, pixels, [turn])[0] for turn in turns]
    assert answering.exact(model, prompter, pixels, turns) == alone
    words = [turn.answer for turn in turns]
    likely = []
    for word in words:
        text = collate([prompter.conversation([("Hue?", word)])])
        hidden, _ = model.read(text, model.encode(pixels[None]))
        likely.append(-float(model.speech_loss(hidden, text).detach()))
    assert answering.best_answer(model, prompter, pixels, "Hue?", words) == words[likely.index(max(likely))]
