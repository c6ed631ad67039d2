"""LoRA experts and the scale head."""

from __future__ import annotations

import pytest
import torch

from model.config import LoraConfig
from model.experts import GatedLora, ScaleHead

CONFIG = LoraConfig(experts=2, rank=4, alpha=8.0, dropout=0.0)
OUTPUTS = (6, 2, 2)


@pytest.fixture
def layer() -> GatedLora:
    """Two experts on three projections, LoRA not at zero."""
    torch.manual_seed(0)
    layer = GatedLora(8, OUTPUTS, CONFIG, bias=True)
    for b in layer.lora_b:
        torch.nn.init.normal_(b)
    return layer


def by_definition(layer: GatedLora, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """W x + b + sum_k scale * gate_k * B_k A_k x, one projection and one expert at a time."""
    deltas = []
    for projection, b in enumerate(layer.lora_b):
        a = layer.lora_a[projection]
        deltas.append(sum(2.0 * gates[..., k : k + 1] * (x @ a[k].T @ b[:, k].T) for k in range(gates.shape[-1])))
    return layer.base(x) + torch.cat(deltas, -1)


def test_follows_the_definition(layer: GatedLora) -> None:
    x, gates = torch.randn(2, 5, 8), torch.rand(2, 5, 2)
    torch.testing.assert_close(layer(x, gates), by_definition(layer, x, gates))
    torch.testing.assert_close(layer(x), by_definition(layer, x, torch.ones(2, 5, 2)))


def test_zero_gates_and_adapt_off_are_the_base(layer: GatedLora) -> None:
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(layer(x, torch.zeros(2, 5, 2)), layer.base(x))
    torch.testing.assert_close(layer(x, adapt=False), layer.base(x), rtol=0, atol=0)


def test_gates_act_per_token(layer: GatedLora) -> None:
    x, gates = torch.randn(1, 3, 8), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
    for token in range(3):
        torch.testing.assert_close(layer(x, gates)[:, token], layer(x[:, token, None], gates[:, token, None])[:, 0])
    assert not torch.allclose(layer(x, gates), layer(x, gates.flip(-1)))


def test_fresh_layer_equals_its_base() -> None:
    layer = GatedLora(8, OUTPUTS, CONFIG)
    x = torch.randn(2, 8)
    torch.testing.assert_close(layer(x[None])[0], layer.base(x))


def test_dropout_only_in_training_and_only_on_the_lora_path(layer: GatedLora) -> None:
    torch.manual_seed(0)
    layer.dropout = 0.5
    x = torch.randn(1, 4, 8)
    assert not torch.equal(layer.train()(x), layer(x))
    torch.testing.assert_close(layer(x, adapt=False), layer.base(x))
    torch.testing.assert_close(layer.eval()(x), by_definition(layer, x, torch.ones(1, 4, 2)))


def test_only_lora_and_gates_get_gradients(layer: GatedLora) -> None:
    gates = torch.rand(1, 4, 2, requires_grad=True)
    layer(torch.randn(1, 4, 8), gates).square().sum().backward()
    assert gates.grad is not None and gates.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("lora_"), name


def test_load_base_places_each_projection() -> None:
    layer = GatedLora(8, OUTPUTS, CONFIG, bias=True)
    weights, biases = [torch.randn(width, 8) for width in OUTPUTS], [torch.randn(width) for width in OUTPUTS]
    layer.load_base(weights, biases)
    x = torch.randn(3, 8)
    expected = torch.cat([x @ w.T + b for w, b in zip(weights, biases, strict=True)], -1)
    torch.testing.assert_close(layer.base(x), expected)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_mixed_precision(layer: GatedLora, base: torch.dtype, autocast: bool) -> None:
    expected = layer(x := torch.randn(1, 4, 8), gates := torch.rand(1, 4, 2))
    layer.base.to(base)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x, gates)
    assert y.dtype == (torch.bfloat16 if autocast else base)
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.1)
    y.sum().backward()
    assert layer.lora_a.grad is not None and layer.lora_a.grad.dtype == torch.float32


def test_scale_head_is_a_softmax_of_an_mlp() -> None:
    torch.manual_seed(0)
    head = ScaleHead(16, LoraConfig(experts=3, gate_dim=8, gate_depth=4)).eval()
    gates = head(torch.randn(2, 5, 16))
    assert gates.shape == (2, 5, 3) and gates.dtype == torch.float32
    torch.testing.assert_close(gates.sum(-1), torch.ones(2, 5))
    linears = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert linears == {
        "layers.0.weight": (8, 16),
        "layers.3.weight": (8, 8),
        "layers.6.weight": (8, 8),
        "layers.9.weight": (3, 8),
    }
