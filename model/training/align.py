"""Alignment: DINOv2 and SmolLM2, which have never met, learn to describe and answer about rendered scenes.

Trained: the connector, one LoRA, the new vocabulary rows, and the vision tail behind the trunk. The LM loss is on the
answers alone. Several questions share one picture and one sequence, so that its tokens are paid for once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from model import checkpoints
from model.config import NANO, InstructVLAConfig
from model.data.questions import Turn, conversation
from model.data.scenes import SceneDataset
from model.data.things import Catalog, catalog_of, load_catalog
from model.instructvla import InstructVLA
from model.language import load_llama
from model.prompts import Batch, Prompter, collate, load_tokenizer
from model.training.answering import exact, shares
from model.training.trainer import Group, ShuffledOrder, TrainingConfig, train
from model.vision import load_dinov2, preprocess

CONNECTOR_LR, LANGUAGE_LR, VISION_LR = 1e-3, 4e-4, 5e-5
TURNS = 5
"""Questions per picture and sequence."""
HELD_OUT = 64
"""Held-out pictures that every evaluation asks about."""


@dataclass(frozen=True)
class Example:
    """Pictures (B, 3, H, W) and one sequence each."""

    pixels: Tensor
    text: Batch

    def to(self, device: torch.device) -> Example:
        """The same on another device."""
        return Example(self.pixels.to(device), self.text.to(device))


class SceneQuestions:
    """Turns scenes into batches, each a function of the step alone; every visit of a picture asks something new."""

    def __init__(
        self,
        scenes: SceneDataset,
        catalog: Catalog,
        prompter: Prompter,
        config: InstructVLAConfig,
        batch: int,
        seed: int,
    ) -> None:
        self._scenes, self._catalog, self._prompter, self._config = scenes, catalog, prompter, config
        self._seed, self._order = seed, ShuffledOrder(len(scenes), batch, seed)

    def __call__(self, step: int) -> Example:
        """The batch of one training step."""
        rows = [int(row) for row in self._order(step)]
        draws = [hash((self._seed, step, row)) for row in rows]
        stills = [self._scenes[row] for row in rows]
        talks = [conversation(s.visible, self._catalog, draw, TURNS) for s, draw in zip(stills, draws, strict=True)]
        return _example(self._scenes, rows, talks, self._prompter, self._config)


def losses(model: InstructVLA, example: Example) -> dict[str, Tensor]:
    """The LM loss on the answers."""
    example = example.to(model.device)
    return {"loss": model.language(example.text, model.encode(example.pixels))[0]}


def run(
    data: Path,
    vision: Path,
    out: Path,
    *,
    minutes: float | None = None,
    steps: int = 3000,
    batch: int = 8,
    seed: int = 0,
) -> dict[str, float]:
    """Align a new nano on the scenes in `data`, starting from the DINOv2 weights in `vision`.

    Keeps the best model under `out/checkpoint`; returns its held-out exact match, also in `out/scores.json`.
    Resumes when `out` holds an unfinished run. Raises `ValueError` where data or weights are missing.
    """
    torch.manual_seed(seed)
    catalog = catalog_of(load_catalog(), "train")
    train_set, held_out = SceneDataset(data, "train"), SceneDataset(data, "held_out")
    base = checkpoints.base_weights()
    model, prompter = InstructVLA(NANO), Prompter(load_tokenizer(base), NANO)
    load_llama(model.decoder, base)
    load_dinov2(model.vision, vision)
    model.decoder.cast_base(torch.bfloat16)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores: dict[str, float] = {}

    def evaluate() -> dict[str, float]:
        nonlocal scores
        scores = exact_match(model, prompter, held_out, catalog)
        tqdm.write("held out: " + ", ".join(f"{kind} {share:.0%}" for kind, share in scores.items()))
        return scores

    def keep() -> None:
        checkpoints.save(model, out / "checkpoint", about=f"aligned on {len(train_set)} rendered scenes")
        (out / "scores.json").write_text(json.dumps(scores, indent=2))

    config = TrainingConfig(
        folder=out, steps=steps, seed=seed, warmup=50, schedule="cosine", minutes=minutes, evaluate_every=250,
        best=("exact match", "max"), workers=1,
    )  # fmt: skip
    questions = SceneQuestions(train_set, catalog, prompter, NANO, batch, seed)
    train(model, groups(model), questions, lambda example: losses(model, example), config, evaluate, keep)
    return dict(json.loads((out / "scores.json").read_text()))


def groups(model: InstructVLA) -> list[Group]:
    """Freeze all but what this stage trains, and say how fast each part learns."""
    model.requires_grad_(False)
    language = [p for name, p in model.decoder.named_parameters() if not model.decoder.is_base(name)]
    vision = [*model.vision.blocks[model.config.vision.trunk_layers :].parameters(), *model.vision.norm.parameters()]
    connector = list(model.connector.parameters())
    for parameter in (*language, *vision, *connector):
        parameter.requires_grad_(True)
    return [Group(connector, CONNECTOR_LR), Group(language, LANGUAGE_LR), Group(vision, VISION_LR)]


def exact_match(
    model: InstructVLA, prompter: Prompter, scenes: SceneDataset, catalog: Catalog, turns: int = 8
) -> dict[str, float]:
    """Share of questions that greedy decoding answers word for word: over all ("exact match") and per kind.

    Each question stands alone (`model.training.answering.exact`).
    """
    marks: list[tuple[str, bool]] = []
    for row in range(min(HELD_OUT, len(scenes))):
        talk = conversation(scenes[row].visible, catalog, scenes[row].seed, turns)
        pixels = preprocess(scenes.frame(row), model.config.vision)
        marks += zip((turn.kind for turn in talk), exact(model, prompter, pixels, talk), strict=True)
    return shares(marks)


def _example(
    scenes: SceneDataset, rows: list[int], talks: list[list[Turn]], prompter: Prompter, config: InstructVLAConfig
) -> Example:
    pixels = torch.stack([preprocess(scenes.frame(row), config.vision) for row in rows])
    # The caption names everything, so it comes last, where it cannot answer the other questions.
    ordered = [sorted(talk, key=lambda turn: turn.kind == "caption") for talk in talks]
    texts = [prompter.conversation([(turn.question, turn.answer) for turn in talk]) for talk in ordered]
    return Example(pixels, collate(texts))
