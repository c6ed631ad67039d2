"""LoRA experts on a frozen linear layer, mixed per token by a scale head (the paper's MoE adaptation, section 3.2).

One path for K experts: K = 1 is stage 1 (no gates), K = 2 the generalist. Gates travel as an argument through every
forward, so nothing outside a call decides what a layer computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from model.config import LoraConfig
from model.products import linear

GATE_DROPOUT = 0.2


class GatedLora(nn.Module):
    """y = W x + sum_k (alpha / rank) * gate_k * B_k A_k x, with W frozen.

    `outputs` lists the widths of projections that share the input x (q, k, v): their W is one matrix and one product,
    while each keeps LoRA experts of its own. `lora_a` is (projections, K, rank, inputs); `lora_b` has one
    (width, K, rank) per projection and starts at zero, so a fresh layer equals its base.
    """

    def __init__(self, inputs: int, outputs: Sequence[int], config: LoraConfig, bias: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, sum(outputs), bias=bias).requires_grad_(False)
        shape = (len(outputs), config.experts, config.rank, inputs)
        bound = 1 / math.sqrt(inputs)
        self.lora_a = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.lora_b = nn.ParameterList(torch.zeros(width, config.experts, config.rank) for width in outputs)
        self.widths, self.split = list(outputs), shape[:3]
        self._flat: tuple[Tensor, list[Tensor]] | None = None
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def forward(self, x: Tensor, gates: Tensor | None = None, adapt: bool = True) -> Tensor:
        """Map (B, T, inputs) to (B, T, sum(outputs)).

        `gates` is (B, T, K), or None for ones; `adapt=False` is the frozen layer alone, with no LoRA work at all.
        """
        x = x.to(self.base.weight.dtype)
        y = linear(x, self.base.weight, self.base.bias)
        if not adapt:
            return y
        down, ups = self._flat if self._flat is not None else self._flatten(x.dtype)
        low = linear(self._drop(x), down).view(-1, *self.split)
        if gates is not None:
            low = low * gates.to(low.dtype).reshape(-1, 1, self.split[1], 1)
        low, base = low.flatten(2), y.view(-1, y.shape[-1])
        if len(ups) == 1:
            return torch.addmm(base, low[:, 0], ups[0], alpha=self.scale).view_as(y)
        parts = zip(base.split(self.widths, -1), low.unbind(1), ups, strict=True)
        return torch.cat([torch.addmm(*part, alpha=self.scale) for part in parts], -1).view_as(y)

    def prepare(self) -> None:
        """Lay the experts' matrices out once, for inference alone: weights must not move or be cast after."""
        self._flat = self._flatten(self.base.weight.dtype)

    def _flatten(self, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """All A as one matrix, and each projection's B, transposed; views where nothing has to be cast."""
        return self.lora_a.flatten(0, 2).to(dtype), [b.flatten(1).to(dtype).T for b in self.lora_b]

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout with one mask for all tokens of a sequence: drawing one per token takes a CPU longer than LoRA."""
        if not self.training or not self.dropout:
            return x
        keep = 1 - self.dropout
        return x * x.new_empty(len(x), 1, x.shape[-1]).bernoulli_(keep).div_(keep)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the one expert to W and drop it: for inference alone, there is no way back. Needs K = 1."""
        down = self.lora_a.float()[:, 0]
        deltas = [b.float()[:, 0] @ a for a, b in zip(down, self.lora_b, strict=True)]
        self.base.weight.copy_(self.base.weight.float() + self.scale * torch.cat(deltas))
        del self.lora_a, self.lora_b

    def load_base(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None) -> None:
        """Copy one frozen (width, inputs) matrix per projection, and biases (width,), into the shared matrix."""
        ends = list(accumulate(self.widths, initial=0))
        with torch.no_grad():
            for (start, end), weight in zip(pairwise(ends), weights, strict=True):
                self.base.weight[start:end].copy_(weight)
            if biases is not None:
                self.base.bias.copy_(torch.cat(list(biases)))


class ScaleHead(nn.Module):
    """Per-token mixing weights from the base model's last hidden state; one vector shared by every layer.

    Linear + ReLU + dropout, `gate_depth` linears in all, softmax over the K experts (reference 2.3).
    """

    def __init__(self, dim: int, config: LoraConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = dim
        for _ in range(config.gate_depth - 1):
            layers += [nn.Linear(width, config.gate_dim), nn.ReLU(), nn.Dropout(GATE_DROPOUT)]
            width = config.gate_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, config.experts))

    @property
    def last(self) -> nn.Linear:
        """The layer that scores the experts; its weights are zero in a head that knows nothing yet."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, dim) to gates (B, T, K), float32, summing to 1 over K."""
        dtype = next(self.parameters()).dtype
        return self.layers(hidden.to(dtype)).float().softmax(-1)
