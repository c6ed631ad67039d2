"""A run folder in upstream's layout with random weights: sizes and speed where the published ones are not at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from model.config import ReleasedConfig
from model.data.statistics import ActionStatistics
from model.ensemble import GOOGLE, WIDOWX
from model.upstream import recipes
from model.weight_stream import write

SPREAD = 0.02
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
ONES = re.compile(r"(norm\d?|mlp1\.0)\.weight$|gamma$")


def write_random_run(folder: Path, config: ReleasedConfig, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the run, tokenizer included, holding one tensor at a time; returns its folder.

    One LoRA expert makes it a stage 1, two a stage 2.
    """
    shapes = {key: shape for recipe in recipes(config).values() for key, shape in recipe.parts.items()}
    adapted = {key.split(".lora_A.")[0] for key in shapes if ".lora_A." in key}
    (folder / "checkpoints").mkdir(parents=True)
    write_byte_tokenizer(folder / "Eagle2-random", config.decoder.vocab)
    names = {upstream_name(key, config.lora.experts, adapted): shape for key, shape in shapes.items()}
    write(folder / "checkpoints" / "step-000000.safetensors", names, _random(names, seed), dtype)
    draws = np.random.default_rng(seed).normal(size=(100, 15)).astype(np.float32) * SPREAD
    measured = ActionStatistics.measure([draws[:, :7]], [draws[:, 7:]]).to_dict()
    (folder / "dataset_statistics.json").write_text(json.dumps({s.statistics: measured for s in (WIDOWX, GOOGLE)}))
    settings = {"stage": f"stage{config.lora.experts}", "num_of_meta_query": config.queries}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def upstream_name(key: str, experts: int, adapted: set[str]) -> str:
    """The name under PEFT's wrappers of a canonical one; `adapted` are the linear layers that carry LoRA."""
    if not key.startswith("language_model."):
        return key
    name = key.removeprefix("language_model.")
    if name.startswith("internal_"):
        return f"language_model.base_model.{name}"
    layer, _, kind = key.rpartition(".")
    if layer in adapted:
        name = f"{name.removesuffix(kind)}base_layer.{kind}"
    if experts == 1:
        return "language_model.base_model.model." + re.sub(r"(lora_[AB])\.0\.", r"\1.default.", name)
    return f"language_model.base_model.lora_model.model.{name}"


def write_byte_tokenizer(folder: Path, vocab: int) -> None:
    """A tokenizer of `vocab` entries that spells text in bytes; most of its entries are fillers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"filler{index}" for index in range(vocab - len(letters) - len(CONTROL_TOKENS))]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(letters + fillers)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _random(names: dict[str, tuple[int, ...]], seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in names.items():
        values = torch.empty(shape, dtype=torch.float32).normal_(0, SPREAD, generator=generator)
        yield values + 1 if ONES.search(name) else values
