"""Softmax attention for the short sequences of these models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of query (B, H, T, d) over key and value (B, G, S, d), H / G queries a group; (B, H, T, d).

    `bias`, broadcastable to (B, H, T, S), is added to the scores: -inf where a query must not look.
    """
    decoding = query.shape[2] == 1 and query.dtype == torch.float32
    return (fused if query.is_cuda or decoding else written_out)(query, key, value, bias)


def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attend` by PyTorch's own kernel, faster on a GPU, and for one query in float32. The bias is its float mask."""
    mask = None if bias is None else bias.to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)


def written_out(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attend` in plain products: PyTorch's CPU kernel is up to three times slower than this in bfloat16, most of it in
    the backward pass, at the few hundred tokens of a prompt or a picture. The queries of a group share one product with
    their keys.
    """
    batch, heads, tokens, dim = query.shape
    grouped = (query * dim**-0.5).reshape(batch, key.shape[1], -1, dim)
    scores = (grouped @ key.mT).view(batch, heads, tokens, -1)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1).view(batch, key.shape[1], -1, key.shape[2])
    return (weights @ value).view(batch, heads, tokens, dim)
