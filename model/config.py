"""Every size of the models in one place.

`NANO` is the embedded model (SmolLM2-135M + DINOv2-S). The defaults of every dataclass are the nano's, so a config
file only has to name what differs. `RELEASED_2B` is the published one (Eagle2-2B: SigLIP so400m + Qwen2.5-1.5B, with a
DINOv2-L action expert); its config also names the quirks that its weights were trained with.
"""

from __future__ import annotations

import json
import re
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
    """Llama-shaped decoder; `qkv_bias` and an untied head are Qwen2's differences."""

    vocab: int = 49152
    dim: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    mlp: int = 1536
    rope_theta: float = 100_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    tied: bool = True
    """Whether the head is the embedding matrix."""


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
    closeup: bool = False
    """Whether it looks closely at what it points at: where exactly it is, and how it lies (`train closeup`)."""


@dataclass(frozen=True)
class InstructVLAConfig:
    """The whole model."""

    queries: int = 8
    system_prompt: str = ""
    tuned_backbone: bool = False
    """Ablation: the language backbone was fine-tuned in full, and checkpoints carry it."""
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


@dataclass(frozen=True)
class SiglipConfig:
    """SigLIP so400m/14 on a square tile: 32 x 32 patches, pixel-shuffled 2 x 2 into 256 tokens (reference 2.1)."""

    size: int = 448
    patch: int = 14
    dim: int = 1152
    layers: int = 27
    heads: int = 16
    mlp: int = 4304
    shuffle: int = 2

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.size // self.patch, self.size // self.patch

    @property
    def tokens(self) -> int:
        """Image tokens per tile that the decoder sees."""
        return (self.size // self.patch // self.shuffle) ** 2


@dataclass(frozen=True)
class DinoConfig:
    """DINOv2 ViT-L/14 with four registers, FiLM in every block (reference 2.5). Blocks past the used one stay out."""

    size: int = 224
    patch: int = 14
    dim: int = 1024
    heads: int = 16
    registers: int = 4


@dataclass(frozen=True)
class Compat:
    """What the released weights were trained or scored with, oddities included. Numbers are the reference's sections.

    The first four are part of the weights; the last three concern text and pictures at test time.
    """

    attention_bias: float | None = 1.0
    """Added to the expert's attention scores where its block-causal mask allows a look, and nothing is masked (2.4).
    0 is plain attention, None the mask as it was meant."""
    feature_block: int = 2
    """The DINOv2 block whose output, not normalised, the expert sees (2.5)."""
    dino_crop: float = 0.875
    """The expert's picture: shorter side to size / dino_crop, then a centre crop (2.5); the decoder's is squashed."""
    crop_without_state: bool = True
    """Models without robot state were scored on a 0.9-area centre crop, shrunk to 224 x 224 (4.4)."""
    shared_cache: bool = False
    """Write thoughts and answers with one cache for both passes of a generalist, as upstream does by accident (2.3);
    False is how it was trained."""
    literal_response: bool = False
    """Put a thought back before the queries with its own trailing space and end mark (10); False tidies it up, as in
    training."""


COMPAT = {"released": Compat(), "upstream": Compat(shared_cache=True, literal_response=True)}
"""`released` is right for the published weights; `upstream` also repeats what went wrong when they were scored."""


@dataclass(frozen=True)
class ReleasedConfig:
    """A released InstructVLA. `action.proprio_dim` is 0 for the models without robot state."""

    queries: int = 64
    system_prompt: str = "You are a helpful assistant."
    vision: SiglipConfig = field(default_factory=SiglipConfig)
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(151674, 1536, 28, 12, 2, 8960, 1e6, 1e-6, qkv_bias=True, tied=False)
    )
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(experts=2, rank=128, alpha=256.0))
    dino: DinoConfig = field(default_factory=DinoConfig)
    action: ActionConfig = field(
        default_factory=lambda: ActionConfig(768, 12, 12, 3072, 1000.0, chunk=16, proprio_dim=0)
    )
    compat: Compat = field(default_factory=Compat)

    def to_json(self) -> str:
        """Serialise for a converted checkpoint's `config.json`."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def load(cls, path: Path) -> ReleasedConfig:
        """Read a converted checkpoint's `config.json`. Raises `TypeError` for an unknown field."""
        nested = {"vision": SiglipConfig, "decoder": DecoderConfig, "lora": LoraConfig, "dino": DinoConfig}
        nested |= {"action": ActionConfig, "compat": Compat}
        return cls(**{k: nested[k](**v) if k in nested else v for k, v in json.loads(path.read_text()).items()})


RELEASED_2B = ReleasedConfig()


CHECKPOINTS = Path(__file__).resolve().parent.parent / "assets" / "checkpoints"
GENERALIST, STAGE1 = "generalist", "nano"
"""The models that come with the project: of two experts, which is used where none is named, and of stage 1 alone."""


def folder_of(name: str) -> Path:
    """Where the checkpoint of a model would be that is named: a shipped one, or a path."""
    return CHECKPOINTS / name if name in (GENERALIST, STAGE1) else Path(name)


def is_hub_id(name: str) -> bool:
    """Whether a model's name reads `owner/name`: what is no folder here may be a released run on the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
