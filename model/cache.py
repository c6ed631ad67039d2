"""Keys and values that the language decoder keeps, of one sequence or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.unused: Tensor | None = None
        """(B, 1) slots at the beginning of each row that hold nothing, where rows differ (`side_by_side`)."""

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

    def apart(self, tokens: int) -> tuple[Tensor, Tensor] | None:
        """Positions (B, T) and slots seen (B, T, length + T) of `tokens` more; None where all rows are alike."""
        if self.unused is None:
            return None
        slot = torch.arange(self.length + tokens, device=self.unused.device)
        here = slot[self.length :]
        return here - self.unused, (slot <= here[:, None]) & (slot >= self.unused[..., None])


def side_by_side(caches: Sequence[DecoderCache]) -> DecoderCache:
    """Caches of one sequence each, of any length, as one of many rows, which end together; none may be `shared`.

    It has the free room of the roomiest, and what is added to it is not added to them.
    """
    length = max(cache.length for cache in caches)
    room = max(cache.capacity - cache.length for cache in caches)
    passes, layers, _, heads, _, dim = caches[0].keys.shape
    shape = (passes, layers, len(caches), heads, length + room, dim)
    joined = DecoderCache(shape, caches[0].keys.dtype, caches[0].keys.device)
    for row, cache in enumerate(caches):
        joined.keys[:, :, row, :, length - cache.length : length] = cache.keys[:, :, 0, :, : cache.length]
        joined.values[:, :, row, :, length - cache.length : length] = cache.values[:, :, 0, :, : cache.length]
    joined.length = length
    joined.unused = torch.tensor([[length - cache.length] for cache in caches], device=joined.keys.device)
    return joined
