"""Softmax attention for the short sequences of this model.

Written out because PyTorch's fused CPU kernel is up to three times slower in bfloat16, most of it in the backward pass,
at the few hundred tokens of a prompt or a picture.
"""

from __future__ import annotations

from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of query (B, H, T, d) over key and value (B, G, S, d), H / G queries a group; (B, H, T, d).

    `bias`, broadcastable to (B, H, T, S), is added to the scores: -inf where a query must not look. The queries of a
    group share one product with their keys.
    """
    batch, heads, tokens, dim = query.shape
    grouped = (query * dim**-0.5).reshape(batch, key.shape[1], -1, dim)
    scores = (grouped @ key.mT).view(batch, heads, tokens, -1)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1).view(batch, key.shape[1], -1, key.shape[2])
    return (weights @ value).view(batch, heads, tokens, dim)
