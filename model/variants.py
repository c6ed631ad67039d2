"""What the shapes in an upstream checkpoint say about the model in it: every variant is told from the tensors alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from model.config import ActionConfig, DecoderConfig, DinoConfig, LoraConfig, ReleasedConfig, SiglipConfig
from model.upstream import DINO, EXPERT, GATE, LLM, SIGLIP, Shapes

LORA_SCALE = 2
"""alpha / rank (reference 2.3); a checkpoint does not carry it."""


def detect(
    shapes: Shapes, queries: int, alpha: float | None = None, eagle: Mapping[str, Any] | None = None
) -> ReleasedConfig:
    """The config of a checkpoint with tensors of these shapes, whose last `queries` vocabulary rows are latent queries.

    `alpha` is the LoRA's, where an exported adapter tells it.

    Numbers of attention heads leave no trace in tensors: they come from Eagle2's own `config.json` where given, else
    from the released models' head widths (128 in the decoder, 72 in SigLIP, 64 elsewhere; never under four heads).
    Raises `ValueError` naming what is missing that every variant has.
    """
    try:
        return _detect(shapes, queries, alpha, eagle or {})
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        name = error.args[0] if isinstance(error, KeyError) else "a size that fits together"
        raise ValueError(f"This is no InstructVLA checkpoint: it lacks {name}.") from error


def _detect(shapes: Shapes, queries: int, alpha: float | None, eagle: Mapping[str, Any]) -> ReleasedConfig:
    rows, dim = shapes[f"{LLM}.embed_tokens.weight"]
    llm, tower = eagle.get("llm_config", {}), eagle.get("vision_config", {})
    heads = llm.get("num_attention_heads", _heads(dim, 128))
    decoder = DecoderConfig(
        vocab=rows - queries,
        dim=dim,
        layers=_count(shapes, f"{LLM}.layers"),
        heads=heads,
        kv_heads=shapes[f"{LLM}.layers.0.self_attn.k_proj.weight"][0] * heads // dim,
        mlp=shapes[f"{LLM}.layers.0.mlp.up_proj.weight"][0],
        rope_theta=llm.get("rope_theta", 1e6),
        norm_eps=llm.get("rms_norm_eps", 1e-6),
        qkv_bias=True,
        tied=False,
    )
    patches, width = shapes[f"{SIGLIP}.embeddings.position_embedding.weight"]
    patch = shapes[f"{SIGLIP}.embeddings.patch_embedding.weight"][-1]
    vision = SiglipConfig(
        size=patch * math.isqrt(patches),
        patch=patch,
        dim=width,
        layers=_count(shapes, f"{SIGLIP}.encoder.layers"),
        heads=tower.get("num_attention_heads", _heads(width, 72)),
        mlp=shapes[f"{SIGLIP}.encoder.layers.0.mlp.fc1.weight"][0],
        shuffle=math.isqrt(shapes["mlp1.0.weight"][0] // width),
    )
    _, patches, width = shapes[f"{DINO}.pos_embed"]
    patch = shapes[f"{DINO}.patch_embed.proj.weight"][-1]
    registers = shapes[f"{DINO}.reg_token"][1]
    dino = DinoConfig(patch * math.isqrt(patches), patch, width, _heads(width, 64), registers)
    dim, action_dim = shapes[f"{EXPERT}.action_embed.linear_1.weight"]
    action = ActionConfig(
        dim=dim,
        layers=_count(shapes, f"{EXPERT}.VideoGPT.model.layers"),
        heads=_heads(dim, 64),
        mlp=shapes[f"{EXPERT}.VideoGPT.model.layers.0.mlp.up_proj.weight"][0],
        chunk=shapes[f"{EXPERT}.action_head.0.weight"][1] // dim,
        action_dim=action_dim,
        proprio_dim=shapes.get(f"{EXPERT}.state_embed.0.weight", (0, 0))[1],
    )
    adapted = f"{LLM}.layers.0.self_attn.q_proj.lora_A"
    rank = shapes[f"{adapted}.0.weight"][0]
    lora = LoraConfig(
        experts=sum(f"{adapted}.{k}.weight" in shapes for k in range(_count(shapes, adapted))),
        rank=rank,
        alpha=LORA_SCALE * rank if alpha is None else alpha,
        gate_dim=shapes.get(f"{GATE}.0.weight", (LoraConfig.gate_dim,))[0],
        gate_depth=len([key for key in shapes if key.startswith(GATE) and key.endswith("weight")]) or 4,
    )
    return ReleasedConfig(queries=queries, vision=vision, decoder=decoder, lora=lora, dino=dino, action=action)


def _heads(dim: int, width: int) -> int:
    return max(4, dim // width)


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules there are."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in shapes)
    return 1 + max(int(match.group(1)) for match in found if match)
