"""Keys and values that the language decoder keeps."""

from __future__ import annotations

import torch
from torch import Tensor


class DecoderCache:
    """Keys and values of every layer, preallocated, for one pass (K = 1) or two (gate pass, mixed pass).

    `length` tokens are valid; forward writes behind them and then advances. For use without gradients.

    A `shared` cache has one row of slots for both passes, each of which sees what the other left (reference 2.3): an
    accident of upstream's text generation, kept for comparison.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, shared: bool = False) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self._rows = [list(zip(*pair, strict=True)) for pair in zip(self.keys, self.values, strict=True)]
        self.length = 0
        self.shared = shared

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.keys.shape[-2] // (2 if self.shared else 1)

    def crop(self, length: int) -> None:
        """Forget everything after the first `length` tokens. Raises `ValueError` if there are fewer."""
        if self.shared or not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a {'shared ' * self.shared}cache of {self.length} tokens to {length}")
        self.length = length

    def check(self, batch: int, tokens: int) -> None:
        """Raise `ValueError` unless `tokens` more tokens of `batch` sequences fit."""
        if batch != self.keys.shape[2]:
            raise ValueError(f"the cache holds {self.keys.shape[2]} sequences, got {batch}")
        if self.length + tokens > self.capacity:
            raise ValueError(f"{self.length} + {tokens} tokens do not fit a cache of {self.capacity}; shorten the text")

    def start(self, slot: int, tokens: int) -> int:
        """Where pass `slot` writes `tokens` new keys, which is also how many it sees before them."""
        return 2 * self.length + slot * tokens if self.shared else self.length

    def append(self, slot: int, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, kv_heads, T, d) behind the valid tokens; return all keys and values up to and including them."""
        start = self.start(slot, key.shape[2])
        end = start + key.shape[2]
        keys, values = self._rows[0 if self.shared else slot][layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]
