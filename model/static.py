"""One token of decoding in shapes that never change, so that a CUDA graph can replay it.

The cache is read whole, and a bias hides the positions that hold nothing yet. Launched one by one, the thousand small
kernels of a token take a fast GPU longer to start than to run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.cache import DecoderCache
from model.graphs import Recorded
from model.language import Decoder, Pass

SMALLEST = 512
"""Tokens of the smallest cache: a prompt with one picture, a thought and the queries."""


class StaticStep:
    """`Decoder.forward` for one token per sequence; the numbers are the same but for the order of sums.

    Weights must not move after the first call on a GPU.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._step = Recorded(self._read_all)

    @staticmethod
    def capacity(tokens: int) -> int:
        """A cache's size for so many tokens: powers of two, because every size is recorded anew."""
        return max(SMALLEST, 1 << (tokens - 1).bit_length())

    def __call__(self, embeds: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor]:
        """Embeddings (B, 1, D) to hidden states (B, 1, D) and gates (B, 1, K); the token joins the cache.

        Raises `ValueError` if it does not fit.
        """
        cache.check(*embeds.shape[:2])
        dtype, device, here = cache.keys.dtype, embeds.device, cache.length
        bias = torch.full((1, cache.keys.shape[-2] + 1), -torch.inf, dtype=dtype, device=device)
        bias[:, :here] = bias[:, -1] = 0
        cos, sin = self._decoder.rotary(here, 1, device, dtype)
        hidden, gates, keys, values = self._step(embeds, cos, sin, bias, cache.keys, cache.values)
        cache.keys[..., here : here + 1, :] = keys
        cache.values[..., here : here + 1, :] = values
        cache.length += 1
        return hidden, gates

    def _read_all(
        self, embeds: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        """Hidden states, gates, and the token's own keys and values (P, L, B, G, 1, d). Changes no input."""
        decoder, rows = self._decoder, Rows(keys, values)
        if decoder.scale_head is None:
            gates = embeds.new_ones(*embeds.shape[:2], 1, dtype=torch.float32)
            hidden = decoder.through(embeds, Pass(cos, sin, bias, None, not decoder.merged, rows, 0))
        else:
            gates = decoder.scale_head(decoder.through(embeds, Pass(cos, sin, bias, None, False, rows, 0)))
            hidden = decoder.through(embeds, Pass(cos, sin, bias, gates, True, rows, 1))
        own = (torch.stack(parts).unflatten(0, keys.shape[:2]) for parts in zip(*rows.own, strict=True))
        return hidden, gates, *own


class Rows:
    """A cache as one step reads it: every position, then the step's own token. Keeps that token's keys and values."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values
        self.own: list[tuple[Tensor, Tensor]] = []

    def append(self, slot: int, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As `DecoderCache.append`, into nothing."""
        self.own.append((key, value))
        return torch.cat([self._keys[slot, layer], key], 2), torch.cat([self._values[slot, layer], value], 2)
