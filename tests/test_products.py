"""Products of few rows give what `F.linear` gives."""

import pytest
import torch
import torch.nn.functional as F

from model.products import linear


@pytest.mark.parametrize("rows", [(1, 1), (1, 2), (2, 7), (1, 64), (1, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows_give_the_same_product(rows: tuple[int, int], dtype: torch.dtype, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((*rows, 48), (32, 48), (32,))
    )
    given = bias if biased else None
    expected = F.linear(x, weight, given)
    with torch.inference_mode():
        product = linear(x, weight, given)
    torch.testing.assert_close(product, expected)


def test_gradients_flow_as_ever() -> None:
    x = torch.randn(3, 48, requires_grad=True)
    linear(x, torch.randn(32, 48)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
