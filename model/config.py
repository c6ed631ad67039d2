"""Every size of the model in one place.

`NANO` is the embedded model (SmolLM2-135M + DINOv2-S). The defaults of every dataclass are the nano's, so a config
file only has to name what differs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class VisionConfig:
    """DINOv2 ViT-S/14 on a 4:3 frame: 12 x 16 patches, pixel-shuffled 2 x 2 into 48 tokens for the decoder."""

    height: int = 168
    width: int = 224
    patch: int = 14
    dim: int = 384
    layers: int = 12
    heads: int = 6
    pretrain_grid: int = 37
    shuffle: int = 2
    trunk_layers: int = 8
    """Blocks shared by the decoder's view and the action expert's view; FiLM starts after them."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """Image tokens the decoder sees."""
        rows, columns = self.grid
        return (rows // self.shuffle) * (columns // self.shuffle)


@dataclass(frozen=True)
class DecoderConfig:
    """Llama-shaped decoder; `qkv_bias` is Qwen2's difference."""

    vocab: int = 49152
    dim: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    mlp: int = 1536
    rope_theta: float = 100_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False


@dataclass(frozen=True)
class LoraConfig:
    """LoRA experts on every projection but `gate_proj` (as released); K = 1 is stage 1, K = 2 the generalist."""

    experts: int = 1
    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    gate_dim: int = 128
    gate_depth: int = 4


@dataclass(frozen=True)
class ActionConfig:
    """Action expert: FiLM-modulated vision tail, a small transformer, flow matching over a chunk of actions."""

    dim: int = 256
    layers: int = 6
    heads: int = 4
    mlp: int = 768
    rope_theta: float = 1000.0
    chunk: int = 8
    action_dim: int = 7
    proprio_dim: int = 8
    euler_steps: int = 10
    sigma_min: float = 0.001
    film: bool = True
    """Ablation: False keeps the second look at the picture blind to the latent action."""
    second_look: bool = True
    """Ablation: False hides the picture from the action expert, which then has latents and state alone."""


@dataclass(frozen=True)
class InstructVLAConfig:
    """The whole model."""

    queries: int = 8
    system_prompt: str = ""
    vision: VisionConfig = field(default_factory=VisionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    action: ActionConfig = field(default_factory=ActionConfig)

    def to_json(self) -> str:
        """Serialise for a checkpoint's `config.json`."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InstructVLAConfig:
        """Rebuild from `asdict` output. Raises `TypeError` for an unknown field."""
        nested = {"vision": VisionConfig, "decoder": DecoderConfig, "lora": LoraConfig, "action": ActionConfig}
        return cls(**{k: nested[k](**v) if k in nested else v for k, v in values.items()})

    @classmethod
    def load(cls, path: Path) -> InstructVLAConfig:
        """Read a checkpoint's `config.json`."""
        return cls.from_dict(json.loads(path.read_text()))


NANO = InstructVLAConfig()
