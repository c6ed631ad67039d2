"""Attention of training sequences that begin alike, say with one picture, and are laid out as a single one.

Each branch sees what is shared and itself. Written as one big mask that would be mostly holes: with eight branches,
four fifths of all scores. Here the queries meet the shared keys, and each branch's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import written_out


@dataclass(frozen=True)
class Branches:
    """Where the branches of a batch stand: N of them, L tokens the longest, behind `shared` tokens."""

    shared: int
    positions: Tensor
    """(B, T) each token's position as if its branch stood alone behind what is shared."""
    index: Tensor
    """(B, N * L) the token at each place of each branch; any where it is shorter."""
    place: Tensor
    """(B, T - shared) the place of each token; any of padding."""
    bias: Tensor
    """(B, N, L, L) 0 where a token sees another of its branch, else -inf."""

    @classmethod
    def of(cls, branch: Tensor) -> Branches:
        """Read `branch` (B, T): 0 at what is shared, then each branch's number all along it, negative at padding.

        Raises `ValueError` where the sequences do not share equally many tokens.
        """
        tokens = torch.arange(branch.shape[1], device=branch.device)
        shared = int((branch[0] == 0).sum())
        if bool(((branch == 0) != (tokens < shared)).any()):
            raise ValueError("Packed sequences share equally many tokens, and those come first.")
        own = branch[:, :, None] == torch.arange(1, max(1, int(branch.max())) + 1, device=branch.device)
        lengths, starts = own.sum(1), own.int().argmax(1)
        places = torch.arange(int(lengths.max()), device=branch.device)
        index = (starts[..., None] + places).clamp(max=branch.shape[1] - 1)
        number = (branch - 1).clamp_min(0)
        within = tokens - starts.gather(1, number)
        seen = (places < lengths[..., None])[:, :, None] & (places <= places[:, None])
        return cls(
            shared,
            torch.where(branch == 0, tokens, shared + within),
            index.flatten(1),
            torch.where(branch > 0, number * len(places) + within, 0)[:, shared:],
            torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax attention of query (B, H, T, d) over key and value (B, G, T, d), H / G queries a group."""
        (batch, heads, _, dim), groups, shared = query.shape, key.shape[1], self.shared
        count, length = self.bias.shape[1:3]
        first_keys, first_values = key[:, :, :shared], value[:, :, :shared]
        mask = torch.full((shared, shared), -torch.inf, device=query.device, dtype=query.dtype).triu(1)
        first = written_out(query[:, :, :shared], first_keys, first_values, mask)

        asking = self._taken(query * dim**-0.5).view(batch, groups, -1, count, length, dim).transpose(2, 3)
        keys, values = (self._taken(part).view(batch, groups, count, length, dim) for part in (key, value))
        flat = asking.reshape(batch, groups, -1, dim)
        to_shared = (flat @ first_keys.mT).view(batch, groups, count, -1, length, shared)
        to_own = (asking.flatten(3, 4) @ keys.mT).view(*to_shared.shape[:-1], length)
        to_own = to_own + self.bias[:, None, :, None].to(to_own.dtype)
        weights = torch.cat([to_shared, to_own], -1).softmax(-1)
        weights_shared, weights_own = weights.split((shared, length), -1)
        mixed = weights_shared.reshape(batch, groups, -1, shared) @ first_values
        mixed = mixed.view_as(asking) + (weights_own.flatten(3, 4) @ values).view_as(asking)
        places = mixed.transpose(2, 3).reshape(batch, heads, count * length, dim)
        return torch.cat([first, _rows(places, self.place)], dim=2)

    def _taken(self, part: Tensor) -> Tensor:
        return _rows(part, self.index)


def _rows(part: Tensor, index: Tensor) -> Tensor:
    """Rows (B, H, S, d) of `part` (B, H, T, d) at `index` (B, S)."""
    return part.gather(2, index[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
