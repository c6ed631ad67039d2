"""The vision tower against Hugging Face's DINOv2, its split into trunk and tail, and the picture's way in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from model.config import VisionConfig
from model.vision import IMAGENET_MEAN, IMAGENET_STD, Block, Connector, DinoV2, load_dinov2, pixel_shuffle, preprocess

CONFIG = VisionConfig()
SMALL = VisionConfig(height=56, width=84, dim=32, layers=3, heads=2, trunk_layers=1, pretrain_grid=6)
PRETRAINED = Path(__file__).resolve().parents[2] / "shared" / "weights" / "dinov2_small"


def reference(seed: int = 0) -> Dinov2Model:
    """A small random DINOv2 whose every parameter matters."""
    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=SMALL.dim, num_hidden_layers=3, num_attention_heads=2, patch_size=14, image_size=14 * 6
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def published(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The reference's weights as they are published (file names differ from the module's)."""
    reference().save_pretrained(tmp_path)
    return load_file(tmp_path / "model.safetensors")


def full(model: DinoV2, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.tail(model.trunk(pixels))


@pytest.mark.parametrize("size", [(84, 84), (56, 84), (112, 70)])
def test_equals_hugging_face_at_any_grid(size: tuple[int, int], published: dict[str, torch.Tensor]) -> None:
    theirs = reference()
    ours = DinoV2(replace(SMALL, height=size[0], width=size[1])).eval()
    load_dinov2(ours, published)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(full(ours, pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not PRETRAINED.exists(), reason=f"needs the pre-trained DINOv2-S in {PRETRAINED}")
@pytest.mark.parametrize("size", [(224, 224), (168, 224)])
def test_equals_hugging_face_with_pretrained_weights(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = DinoV2(replace(CONFIG, height=size[0], width=size[1])).eval()
    load_dinov2(ours, PRETRAINED)
    theirs = Dinov2Model.from_pretrained(PRETRAINED, dtype=torch.float32).eval()
    pixels = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 1:]
    # Hugging Face resamples the position embeddings of this bfloat16 file in float32, as we do.
    torch.testing.assert_close(full(ours, pixels), expected, atol=1e-4, rtol=1e-4)


def test_missing_tensor_is_named(published: dict[str, torch.Tensor]) -> None:
    del published["encoder.layer.1.mlp.fc1.bias"]
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.mlp\.fc1\.bias"):
        load_dinov2(DinoV2(SMALL), published)


def test_film_sits_between_attention_and_mlp() -> None:
    torch.manual_seed(0)
    block = Block(32, 4)
    x, gamma, beta = torch.randn(2, 5, 32), torch.randn(2, 1, 32), torch.randn(2, 1, 32)
    torch.testing.assert_close(block(x, (torch.zeros_like(gamma), torch.zeros_like(beta))), block(x))
    with torch.no_grad():
        block.scale2.zero_()  # silence the MLP: what is left is the modulated attention output
        attended = block(x)
        torch.testing.assert_close(block(x, (gamma, beta)), attended * (1 + gamma) + beta)


def test_pixel_shuffle_groups_neighbours() -> None:
    rows, columns = 4, 6
    tokens = torch.arange(rows * columns).view(1, -1, 1)
    folded = pixel_shuffle(tokens, (rows, columns), 2)
    assert folded.shape == (1, 6, 4)
    assert folded[0, 0].tolist() == [0, 1, 6, 7]
    assert folded[0, -1].tolist() == [16, 17, 22, 23]


def test_shapes_of_the_nano() -> None:
    model = DinoV2(CONFIG).eval()
    trunk = model.trunk(torch.zeros(1, 3, CONFIG.height, CONFIG.width))
    assert trunk.shape == (1, 1 + 192, 384)
    folded = pixel_shuffle(model.tail(trunk), CONFIG.grid, CONFIG.shuffle)
    assert Connector(CONFIG, 576)(folded).shape == (1, CONFIG.tokens, 576) == (1, 48, 576)


def scene(scale: int) -> Image.Image:
    """The same drawing at 320 x 240 times `scale`, smoothed at its edges as a renderer would."""
    big = Image.new("RGB", (1280, 960), (120, 90, 60))
    draw = ImageDraw.Draw(big)
    draw.ellipse((300, 200, 620, 520), fill=(230, 40, 30))
    draw.rectangle((700, 500, 1100, 560), fill=(20, 160, 240))
    draw.line((0, 900, 1279, 640), fill=(255, 255, 255), width=9)
    return big.resize((320 * scale, 240 * scale), Image.Resampling.BOX)


def test_preprocess_matches_pillow() -> None:
    image = scene(2)
    expected = np.asarray(image.resize((224, 168), Image.Resampling.BICUBIC), np.float32) / 255
    expected = (expected - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    ours = preprocess(image, CONFIG)
    assert ours.dtype == torch.float32
    # one grey level is 0.0175 after normalisation
    np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), expected, atol=0.04)


def test_preprocess_hardly_depends_on_the_resolution() -> None:
    small, large = preprocess(scene(1), CONFIG), preprocess(scene(2), CONFIG)
    assert (small - large).abs().mean() < 0.05
    corner = preprocess(scene(2), CONFIG)[:, ::7, ::7] - preprocess(scene(2).resize((224, 168)), CONFIG)[:, ::7, ::7]
    assert corner.abs().mean() < 0.05


def test_preprocess_takes_arrays_tensors_and_stacks() -> None:
    image = np.asarray(scene(1))
    one = preprocess(image, CONFIG)
    stack = preprocess(torch.from_numpy(np.stack([[image, image[::-1]]])), CONFIG)
    assert stack.shape == (1, 2, 3, 168, 224)
    torch.testing.assert_close(stack[0, 0], one)
    assert not torch.allclose(stack[0, 1], one)


@pytest.mark.parametrize("image", [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((9, 9, 3))])
def test_preprocess_refuses_what_is_not_rgb(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="RGB"):
        preprocess(image, CONFIG)
