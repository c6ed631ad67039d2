"""Vision: a DINOv2 ViT-S/14 split into a shared trunk and a tail, and the connector into the decoder's width.

Architecture of DINOv2 (arXiv 2304.07193): pre-norm blocks with LayerScale. The trunk's tokens are computed once per
frame; the decoder sees `tail(trunk)`, the action expert runs its own FiLM-modulated tail on the same trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from model.attention import attend
from model.config import SiglipConfig, VisionConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Film = tuple[Tensor, Tensor]
"""(gamma, beta), each (B, 1, dim)."""

NORM_EPS = 1e-6
MLP_RATIO = 4
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale and an optional FiLM between attention and MLP.

    That is DINOv2's. With `mlp` given it is SigLIP's: that many hidden units, GELU by tanh, no LayerScale.
    """

    def __init__(self, dim: int, heads: int, mlp: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        hidden = MLP_RATIO * dim if mlp is None else mlp
        self.gelu: Literal["none", "tanh"] = "none" if mlp is None else "tanh"
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.scale1 = nn.Parameter(torch.ones(dim)) if mlp is None else 1.0
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.scale2 = nn.Parameter(torch.ones(dim)) if mlp is None else 1.0

    def forward(self, x: Tensor, film: Film | None = None) -> Tensor:
        """Map (B, N, dim) to (B, N, dim). FiLM is x * (1 + gamma) + beta, after the attention residual."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(query, key, value).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.scale1 * self.proj(mixed)
        if film is not None:
            gamma, beta = film
            x = x * (1 + gamma) + beta
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu))


class DinoV2(nn.Module):
    """DINOv2 on a fixed patch grid. Random weights until `load_dinov2`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        rows, columns = config.grid
        self.config = config
        self.patch = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)
        self.cls = nn.Parameter(torch.empty(1, 1, config.dim))
        self.position = nn.Parameter(torch.empty(1, 1 + rows * columns, config.dim))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def embed(self, pixels: Tensor) -> Tensor:
        """Turn normalised pixels (B, 3, H, W) into patch tokens (B, 1 + N, dim), class token first."""
        patches = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(patches), -1, -1), patches], dim=1) + self.position

    def trunk(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1 + N, dim): embedding and the first `trunk_layers` blocks."""
        x = self.embed(pixels)
        for block in self.blocks[: self.config.trunk_layers]:
            x = block(x)
        return x

    def tail(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, dim) from `trunk` to patch features (B, N, dim): remaining blocks, final norm, no class token."""
        for block in self.blocks[self.config.trunk_layers :]:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1:]


def pixel_shuffle(tokens: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Fold each factor x factor patch neighbourhood into channels: (B, R*C, D) to (B, R*C / factor^2, D * factor^2)."""
    rows, columns = grid
    batch, _, dim = tokens.shape
    x = tokens.view(batch, rows // factor, factor, columns // factor, factor, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, dim * factor * factor)


class Connector(nn.Module):
    """LayerNorm and a two-layer MLP from pixel-shuffled features to decoder width (InternVL's `mlp1`)."""

    def __init__(self, vision: VisionConfig | SiglipConfig, dim: int) -> None:
        super().__init__()
        folded = vision.dim * vision.shuffle**2
        self.norm = nn.LayerNorm(folded)
        self.fc1 = nn.Linear(folded, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, folded: Tensor) -> Tensor:
        """Output of `pixel_shuffle` (B, M, vision.dim * shuffle^2) to image embeddings (B, M, dim)."""
        return self.fc2(F.gelu(self.fc1(self.norm(folded))))


def shrink(image: Tensor | NDArray[np.uint8] | Image, config: VisionConfig) -> Tensor:
    """Squash uint8 RGB (..., H, W, 3) to uint8 (..., height, width, 3); leading axes are kept.

    The aspect ratio is ignored (reference 2.1). Bicubic with antialiasing, so one scene rendered at different
    resolutions gives nearly the same pixels. Raises `ValueError` for anything but uint8 RGB.
    """
    pixels = image if isinstance(image, Tensor) else torch.as_tensor(np.array(image))
    if pixels.dtype != torch.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"expected uint8 RGB pixels of shape (..., height, width, 3), got {pixels.dtype} {tuple(pixels.shape)}; "
            "convert the picture with PIL's convert('RGB') first"
        )
    size = (config.height, config.width)
    if pixels.shape[-3:-1] == size:
        return pixels
    leading, frame = pixels.shape[:-3], pixels.shape[-3:]
    flat = pixels.reshape(-1, *frame).permute(0, 3, 1, 2)
    # PyTorch's uint8 kernel exists on the CPU alone and is many times faster there than the float one.
    flat = flat if flat.device.type == "cpu" else flat.float()
    flat = F.interpolate(flat, size=size, mode="bicubic", antialias=True).clamp(0, 255)
    flat = flat if flat.dtype == torch.uint8 else flat.round().to(torch.uint8)
    return flat.permute(0, 2, 3, 1).reshape(*leading, *size, 3)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 RGB (..., H, W, 3) to float32 (..., 3, H, W) with ImageNet's mean and spread."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(3, 1, 1) * 255
    return (pixels.movedim(-1, -3).contiguous().float() - mean) / std


def preprocess(image: Tensor | NDArray[np.uint8] | Image, config: VisionConfig) -> Tensor:
    """What the vision tower reads: a picture (..., H, W, 3) shrunk and normalised, (..., 3, height, width)."""
    return normalise(shrink(image, config))


def load_dinov2(model: DinoV2, source: Path | Mapping[str, Tensor]) -> None:
    """Fill `model` from `facebook/dinov2-small`'s layout: a folder with `model.safetensors`, or its state dict.

    Position embeddings are resampled once to the model's grid. Raises `ValueError` naming missing tensors.
    """
    weights = load_file(source / "model.safetensors") if isinstance(source, Path) else dict(source)
    try:
        model.load_state_dict(_from_hf(weights, model.config))
    except KeyError as error:
        raise ValueError(f"not DINOv2 weights in Hugging Face's layout: tensor {error} is missing") from error


def _from_hf(weights: dict[str, Tensor], config: VisionConfig) -> dict[str, Tensor]:
    state = {
        "cls": weights["embeddings.cls_token"],
        "position": _resample(weights["embeddings.position_embeddings"], config.grid),
        "patch.weight": weights["embeddings.patch_embeddings.projection.weight"],
        "patch.bias": weights["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": weights["layernorm.weight"],
        "norm.bias": weights["layernorm.bias"],
    }
    names = {"norm1": "norm1", "norm2": "norm2", "proj": "attention.output.dense", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        for kind in ("weight", "bias"):
            projections = [weights[f"{theirs}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"{ours}.qkv.{kind}"] = torch.cat(projections)
            for new, old in names.items():
                state[f"{ours}.{new}.{kind}"] = weights[f"{theirs}.{old}.{kind}"]
        for half in ("1", "2"):
            state[f"{ours}.scale{half}"] = weights[f"{theirs}.layer_scale{half}.lambda1"]
    return state


def _resample(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic, as in Hugging Face's implementation: (1, 1 + S*S, D) to (1, 1 + rows*columns, D)."""
    cls, patches = position[:, :1].float(), position[:, 1:].float()
    side = round(patches.shape[1] ** 0.5)
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (side, side) != grid:
        square = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([cls, square.flatten(2).transpose(1, 2)], dim=1)
