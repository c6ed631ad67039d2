"""LoRA experts in PEFT's adapter format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

An expert written here loads onto the Hugging Face backbone with `peft.PeftModel.from_pretrained`, and an adapter that
PEFT trained there (same rank, scale and target modules) becomes an expert here. Only this file needs `peft`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.experts import GatedLora
from model.language import Decoder, Layer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def write_adapter(decoder: Decoder, folder: Path, expert: int = 0) -> None:
    """Write one expert. Raises `ValueError` for an expert that is not there or a decoder that has been merged."""
    from peft import LoraConfig

    _check(decoder, expert)
    tensors = {}
    for name, layer, part in _projections(decoder):
        tensors[f"{name}.lora_A.weight"] = layer.lora_a[part, expert].detach().cpu().float().contiguous()
        tensors[f"{name}.lora_B.weight"] = layer.lora_b[part][:, expert].detach().cpu().float().contiguous()
    _, first, _ = next(_projections(decoder))
    rank = first.lora_a.shape[2]
    config = LoraConfig(
        r=rank, lora_alpha=round(first.scale * rank), target_modules=TARGETS, bias="none", task_type="CAUSAL_LM"
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


@torch.no_grad()
def read_adapter(decoder: Decoder, folder: Path, expert: int = 0) -> None:
    """Load a PEFT adapter into one expert. Raises `ValueError` where rank, scale, modules or sizes differ."""
    from peft import LoraConfig, PeftConfig

    _check(decoder, expert)
    config = PeftConfig.from_pretrained(str(folder))
    _, first, _ = next(_projections(decoder))
    if not isinstance(config, LoraConfig) or config.lora_alpha / config.r != first.scale:
        raise ValueError(f"{folder.name} is not a LoRA adapter with the scale {first.scale:g} of this decoder.")
    stored = load_file(folder / "adapter_model.safetensors")
    targets: dict[str, Tensor] = {}
    for name, layer, part in _projections(decoder):
        targets[f"{name}.lora_A.weight"] = layer.lora_a[part, expert]
        targets[f"{name}.lora_B.weight"] = layer.lora_b[part][:, expert]
    problems = [f"missing {name}" for name in targets.keys() - stored.keys()]
    problems += [f"unknown {name}" for name in stored.keys() - targets.keys()]
    problems += [
        f"{name} is {tuple(stored[name].shape)} instead of {tuple(target.shape)}"
        for name, target in targets.items()
        if name in stored and stored[name].shape != target.shape
    ]
    if problems:
        raise ValueError(f"{folder.name} does not fit the decoder: " + "; ".join(sorted(problems)[:10]))
    for name, target in targets.items():
        target.copy_(stored[name])


def _check(decoder: Decoder, expert: int) -> None:
    if decoder.merged:
        raise ValueError("This decoder's expert has been merged into its base: load the checkpoint again without that.")
    if not 0 <= expert < decoder.experts:
        raise ValueError(f"There is no expert {expert}: this decoder has {decoder.experts}.")


def _projections(decoder: Decoder) -> Iterator[tuple[str, GatedLora, int]]:
    """PEFT's name of each adapted projection, the layer that holds it here, and its place among those sharing it."""
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer)
        prefix = f"base_model.model.model.layers.{index}"
        for part, name in enumerate("qkv"):
            yield f"{prefix}.self_attn.{name}_proj", layer.attention.qkv, part
        yield f"{prefix}.self_attn.o_proj", layer.attention.out, 0
        yield f"{prefix}.mlp.up_proj", layer.mlp.up, 0
        yield f"{prefix}.mlp.down_proj", layer.mlp.down, 0
