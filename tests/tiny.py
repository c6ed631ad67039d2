"""A whole model small enough for tests, and a byte-level tokenizer to go with it."""

import numpy as np
from tokenizers import AddedToken as Special
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model.config import (
    ActionConfig,
    DecoderConfig,
    DinoConfig,
    InstructVLAConfig,
    LoraConfig,
    ReleasedConfig,
    SiglipConfig,
    VisionConfig,
)
from model.data.statistics import ActionStatistics
from sim.interface import Observation

TINY = InstructVLAConfig(
    queries=3,
    vision=VisionConfig(height=28, width=56, patch=7, dim=32, layers=3, heads=2, trunk_layers=1),
    decoder=DecoderConfig(vocab=264, dim=48, layers=2, heads=4, kv_heads=2, mlp=64),
    lora=LoraConfig(rank=8, alpha=8.0, dropout=0.0),
    action=ActionConfig(dim=32, layers=2, heads=2, mlp=32),
)

TINY_RELEASED = ReleasedConfig(
    queries=5,
    vision=SiglipConfig(size=56, dim=36, layers=2, heads=4, mlp=50),
    decoder=DecoderConfig(270, 48, 2, 4, 2, 80, 1e6, 1e-6, qkv_bias=True, tied=False),
    lora=LoraConfig(experts=2, rank=8, alpha=16.0, gate_dim=16),
    dino=DinoConfig(size=28, dim=24, heads=4),
    action=ActionConfig(32, 2, 4, 40, 1000.0, chunk=4, proprio_dim=0),
)
"""A released model in miniature; its head counts are those that the reader falls back on."""


def byte_tokenizer() -> Tokenizer:
    """One token per byte, then the two chat marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([Special(f"<|im_{name}|>", special=True) for name in ("start", "end")])
    tokenizer.encode_special_tokens = True
    return tokenizer


def statistics() -> ActionStatistics:
    """Symmetric action bounds of 3 cm and 0.2 rad."""
    bounds = np.array([0.03, 0.03, 0.03, 0.2, 0.2, 0.2, 1.0], np.float32)
    actions = np.linspace(-1, 1, 101, dtype=np.float32)[:, None] * bounds
    return ActionStatistics.measure([actions], [np.random.default_rng(0).normal(size=(101, 8)).astype(np.float32)])


def observation(step: int = 0, image: bool = True) -> Observation:
    """A random picture that depends on the step alone."""
    picture = np.random.default_rng(step).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    measured = np.array([0.3, 0, 0.1, 1, 0, 0, 0, 1], np.float32)
    return Observation(picture if image else None, np.zeros(8, np.float32), step, measured)
