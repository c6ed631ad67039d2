"""Written-out attention against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model.attention import attend


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("past", [0, 5])
def test_equals_pytorch_forward_and_backward(groups: int, past: int) -> None:
    torch.manual_seed(0)
    shapes = ((2, 6, 7, 8), (2, groups, 7 + past, 8), (2, groups, 7 + past, 8))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    allowed = torch.ones(7, 7 + past, dtype=torch.bool).tril(past)
    expected = scaled_dot_product_attention(*inputs, attn_mask=allowed, enable_gqa=True)
    ours = attend(*inputs, torch.zeros(7, 7 + past).masked_fill(~allowed, -torch.inf))
    torch.testing.assert_close(ours, expected)
    seed = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attend(*inputs), scaled_dot_product_attention(*inputs, enable_gqa=True))
