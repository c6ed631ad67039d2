"""Alignment: DINOv2 and SmolLM2, which have never met, learn to describe and answer about scenes and photographs.

First the connector learns words alone (`model.training.words`). Then the connector, one LoRA, the new vocabulary rows,
and the vision tail behind the trunk learn to answer; the LM loss is on the answers. Several questions share one picture
and one sequence, so that its tokens are paid for once: as one conversation, or each as if it stood alone.
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
from model.data.multimodal import Mix, PhotoTalks, RequestTalks, SceneTalks, Source, Talk, TextTalks
from model.data.photos import PhotoSet
from model.data.scenes import SceneDataset
from model.data.things import Catalog, load_catalog
from model.instructvla import InstructVLA
from model.language import load_llama
from model.precision import fast_dtype
from model.prompts import Batch, Prompter, PromptIds, collate, load_tokenizer, share_picture
from model.training.answering import photo_scores, request_scores, scene_scores
from model.training.trainer import Group, TrainingConfig, spare_processes, train
from model.training.words import labelled_photos, labelled_scenes, teach
from model.vision import load_dinov2, preprocess

CONNECTOR_LR, LANGUAGE_LR, VISION_LR = 1e-3, 4e-4, 5e-5
SHARES = {"scene": 0.33, "photo": 0.34, "request": 0.28, "text": 0.05}
"""Of the pictures; without photographs the others keep their proportion."""
TURNS = 8
"""Questions per picture and sequence."""
HELD_OUT = 48
"""Held-out pictures that every evaluation asks about."""


@dataclass(frozen=True)
class Example:
    """Pictures (B, 3, H, W) and one sequence each."""

    pixels: Tensor
    text: Batch

    def to(self, device: torch.device) -> Example:
        """The same on another device."""
        return Example(self.pixels.to(device), self.text.to(device))


class Questions:
    """Turns a mix of pictures into batches, each a function of the step alone; every visit asks something new."""

    def __init__(self, mix: Mix, prompter: Prompter, config: InstructVLAConfig, pictures: int) -> None:
        self._mix, self._prompter, self._config, self._pictures = mix, prompter, config, pictures

    def __call__(self, step: int) -> Example:
        """The batch of one training step."""
        talks = self._mix(step, self._pictures)
        texts = [self._told(talk, alone=step % 2 == 0) for talk in talks]
        return Example(torch.stack([preprocess(talk.image, self._config.vision) for talk in talks]), collate(texts))

    def _told(self, talk: Talk, alone: bool) -> PromptIds:
        turns = [(turn.question, turn.answer) for turn in talk.turns]
        if alone:
            return share_picture([self._prompter.conversation([turn]) for turn in turns])
        return self._prompter.conversation(turns)


def sources(scenes: SceneDataset, catalog: Catalog, photos: PhotoSet | None, turns: int) -> dict[str, Source]:
    """Where talks come from: questions and requests about scenes, plain knowledge and, where given, photographs."""
    found: dict[str, Source] = {"scene": SceneTalks(scenes, catalog, turns=turns)}
    found["request"] = RequestTalks(scenes, turns=turns)
    found["text"] = TextTalks(catalog, turns=turns)
    if photos is not None:
        found["photo"] = PhotoTalks(photos, turns)
    return found


def losses(model: InstructVLA, example: Example) -> dict[str, Tensor]:
    """The LM loss on the answers."""
    example = example.to(model.device)
    return {"loss": model.language(example.text, model.encode(example.pixels))[0]}


def run(
    data: Path,
    vision: Path,
    out: Path,
    *,
    photos: Path | None = None,
    aligned: Path | None = None,
    minutes: float | None = None,
    steps: int = 3000,
    word_steps: int = 3000,
    batch: int = 4,
    seed: int = 0,
) -> None:
    """Align a new nano on the scenes in `data` and the labelled `photos`, from the DINOv2 weights in `vision`.

    `vision` may also be a checkpoint of ours, whose vision tower is taken. An `aligned` model goes on instead of a new
    one, say on more pictures.

    Keeps the best model under `out/checkpoint`, its held-out exact match in `out/scores.json`, and under
    `out/words/checkpoint` what there is before it learns to answer; with 0 `steps` that is all.
    Resumes when `out` holds an unfinished run. Raises `ValueError` where data or weights are missing.
    """
    torch.manual_seed(seed)
    catalog = load_catalog()
    scenes = {split: SceneDataset(data, split) for split in ("train", "held_out")}
    pictures = {split: PhotoSet(photos, split) for split in ("train", "validation")} if photos is not None else {}
    base = checkpoints.base_weights()
    tokenizer = load_tokenizer(base)
    model, prompter = InstructVLA(NANO), Prompter(tokenizer, NANO)
    load_llama(model.decoder, base)
    if (vision / "meta.json").exists():
        model.vision.load_state_dict(checkpoints.load(vision, dtype=torch.float32).model.vision.state_dict())
    else:
        load_dinov2(model.vision, vision)
    model.decoder.cast_base(fast_dtype())
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    shown = f"{len(scenes['train'])} rendered scenes"
    shown += f" and {len(pictures['train'])} photographs" if pictures else ""
    if aligned is not None:
        checkpoints.restore(model, aligned)
    else:
        words = [labelled_scenes(scenes[split], catalog, NANO.vision) for split in ("train", "held_out")]
        for told, split in zip(words, pictures, strict=False):
            told += labelled_photos(pictures[split])
        teach(model, tokenizer, words[0], words[1], out / "words", word_steps, seed)
        if not (out / "words" / "checkpoint").exists():
            checkpoints.save(model, out / "words" / "checkpoint", about=f"taught the words of {shown}")
    if not steps:
        return
    scores: dict[str, float] = {}

    def evaluate() -> dict[str, float]:
        nonlocal scores
        scores = scene_scores(model, prompter, scenes["held_out"], catalog, "train", HELD_OUT)
        scores |= request_scores(model, prompter, scenes["held_out"], HELD_OUT)
        if pictures:
            told = photo_scores(model, prompter, pictures["validation"], HELD_OUT, closed=False)
            scores |= {kind: share for kind, share in told.items() if kind.startswith("photo ")}
            scores["photos"] = told["exact match"]
        tqdm.write("held out: " + ", ".join(f"{kind} {share:.0%}" for kind, share in scores.items()))
        return scores

    def keep() -> None:
        checkpoints.save(model, out / "checkpoint", about=f"aligned on {shown}")
        (out / "scores.json").write_text(json.dumps(scores, indent=2))

    slow = model.device.type == "cpu"  # a GPU makes ten steps while a CPU makes one
    config = TrainingConfig(
        folder=out, steps=steps, seed=seed, warmup=15, schedule="cosine", minutes=minutes,
        evaluate_every=400 if slow else 1000, save_every=40 if slow else 1000, best=("exact match", "max"), workers=1,
        processes=spare_processes(),
    )  # fmt: skip
    known = sources(scenes["train"], catalog, pictures.get("train"), TURNS)
    mix = Mix(known, {name: SHARES[name] for name in known}, seed)
    questions = Questions(mix, prompter, NANO, batch)
    train(model, groups(model), questions, lambda example: losses(model, example), config, evaluate, keep)


def groups(model: InstructVLA) -> list[Group]:
    """Freeze all but what this stage trains, and say how fast each part learns."""
    model.requires_grad_(False)
    language = [p for name, p in model.decoder.named_parameters() if not model.decoder.is_base(name)]
    vision = [*model.vision.blocks[model.config.vision.trunk_layers :].parameters(), *model.vision.norm.parameters()]
    connector = list(model.connector.parameters())
    for parameter in (*language, *vision, *connector):
        parameter.requires_grad_(True)
    return [Group(connector, CONNECTOR_LR), Group(language, LANGUAGE_LR), Group(vision, VISION_LR)]
