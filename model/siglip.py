"""SigLIP, the vision tower of the released models (arXiv 2303.15343), on a fixed grid of square patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import SiglipConfig
from model.vision import NORM_EPS, Block


class Siglip(nn.Module):
    """Pre-norm ViT without a class token. Its features are taken after the final norm (reference 2.1)."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        rows, columns = config.grid
        self.patch = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)
        self.position = nn.Parameter(torch.zeros(rows * columns, config.dim))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised tiles (B, 3, size, size) to patch features (B, N, dim), row by row."""
        x = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
