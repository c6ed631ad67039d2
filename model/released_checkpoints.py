"""Released checkpoints: found in a run folder or fetched from the hub, converted once to bfloat16, memory-mapped after.

A run folder is upstream's: `config.json`, `dataset_statistics.json`, one file in `checkpoints/` (`.pt` or
`.safetensors`) and, for an "unloaded" stage 1, the exported LoRA adapter's folder. Eagle2's assets (tokenizer, config)
are looked for around it. What a conversion leaves behind is a complete folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoints import cache_folder
from model.config import COMPAT, ReleasedConfig
from model.data.statistics import ActionStatistics
from model.ensemble import Setup
from model.prompts import load_tokenizer
from model.released import ReleasedVLA
from model.released_prompts import ReleasedPrompter, first_query, load_eagle_tokenizer
from model.upstream import Recipe, canonical, canonical_adapter, check, recipes
from model.variants import detect
from model.weight_stream import write

logger = logging.getLogger(__name__)

ASSETS_REPOSITORY = "ShuaiYang03/InstructVLA_Assets"
EAGLE = "Eagle2-2B"
LICENCE = (
    "Released InstructVLA checkpoints contain Eagle2's weights (NVIDIA, CC-BY-NC-4.0: no commercial use). "
    "Going on means that you accept this licence."
)
REOPEN_BYTES = 2**27
"""A mapped file is opened anew after so much of it was read, so that what was read does not stay in memory."""


@dataclass(frozen=True)
class Run:
    """An upstream run folder, everything in its place. `adapter` is None unless the LoRA was exported."""

    folder: Path
    weights: Path
    adapter: Path | None
    assets: Path

    @property
    def name(self) -> str:
        """What the run is called: a snapshot from the hub lies in a folder that is named after its commit."""
        settings = json.loads((self.folder / "config.json").read_text())
        return Path(settings.get("run_id") or self.folder.resolve().name).name

    def open(self) -> dict[str, Tensor]:
        """All tensors by canonical name, memory-mapped. Raises `ValueError` for a file that is not whole."""
        return {canonical(key): tensor for key, tensor in _open(self.weights).items()} | self._open_adapter()

    def _open_adapter(self) -> dict[str, Tensor]:
        if self.adapter is None:
            return {}
        stored = _open(self.adapter / "adapter_model.safetensors")
        return {canonical_adapter(key): tensor for key, tensor in stored.items()}

    @cached_property
    def stamp(self) -> dict[str, Any]:
        """What tells whether the weights are still the same file, without reading it."""
        stat = self.weights.stat()
        return {"file": str(self.weights.resolve()), "size": stat.st_size, "modified": stat.st_mtime_ns}


@dataclass(frozen=True)
class Released:
    """A released checkpoint ready for use.

    `statistics` has one entry per data set, `about` is one line, `sha256` the converted weights' (empty without).
    """

    model: ReleasedVLA
    prompter: ReleasedPrompter
    statistics: dict[str, ActionStatistics]
    about: str
    sha256: str = ""

    def statistics_of(self, setup: Setup) -> ActionStatistics:
        """The statistics of a robot's data set, or of the only one. Raises `ValueError` naming those there are."""
        if setup.statistics in self.statistics:
            return self.statistics[setup.statistics]
        if len(self.statistics) == 1:
            return next(iter(self.statistics.values()))
        known = ", ".join(self.statistics)
        raise ValueError(f"This checkpoint was not trained on {setup.statistics}: it knows {known}.")


def is_released(folder: Path) -> bool:
    """Whether a folder is an upstream run or a conversion of one, rather than a native checkpoint."""
    if (folder / "checkpoints").is_dir():
        return True
    config = folder / "config.json"
    return config.is_file() and "compat" in json.loads(config.read_text())


def find_run(folder: Path) -> Run:
    """Look around in a run folder. Raises `ValueError` in one sentence that says what is missing."""
    for name in ("config.json", "dataset_statistics.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder.name} is no complete run folder: {name} is missing.")
    found = sorted(p for p in (folder / "checkpoints").iterdir() if p.suffix in (".pt", ".safetensors"))
    if len({path.stem for path in found}) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder.name}/checkpoints must hold exactly one checkpoint, .pt or .safetensors: {names}.")
    adapters = sorted(path.parent for path in folder.rglob("adapter_config.json"))
    return Run(folder, found[-1], adapters[0] if adapters else None, find_assets(folder))


def find_assets(folder: Path) -> Path:
    """Eagle2's assets: `$INSTRUCTVLA_EAGLE2`, in or up to two folders above the run, the cache, last the hub.

    Raises `ValueError` saying what to do where none is found.
    """
    if configured := os.environ.get("INSTRUCTVLA_EAGLE2"):
        return Path(configured).expanduser()
    run = folder.resolve()
    above = [path / part for path in (run, run.parent, run.parent.parent) for part in ("", "assets", "ckpt")]
    for place in [*above, cache_folder()]:
        for candidate in sorted(place.glob("Eagle2*")):
            if (candidate / "tokenizer_config.json").is_file() or (candidate / "tokenizer.json").is_file():
                return candidate
    try:
        return _download(ASSETS_REPOSITORY, [f"{EAGLE}/*.json", f"{EAGLE}/*.txt"], f"{EAGLE}/*.json") / EAGLE
    except ValueError as error:
        raise ValueError(
            f"Eagle2's tokenizer is not here: put the folder {EAGLE} of {ASSETS_REPOSITORY} beside the run, or set "
            f"INSTRUCTVLA_EAGLE2 to it. {error}"
        ) from error


def fetch(repository: str) -> Path:
    """Download a run by its hub id, after printing whose licence that accepts; returns its folder.

    What is here already is not downloaded again, what is here in part is completed. Raises `ValueError` in one sentence
    where the hub cannot be reached.
    """
    return _download(repository, ["config.json", "dataset_statistics.json", "checkpoints/*"], "checkpoints/*")


def _download(repository: str, patterns: list[str], proof: str) -> Path:
    """Files of a repository that match `patterns`; they are all here once one matches `proof`, the last to come."""
    import httpx
    from huggingface_hub import snapshot_download

    try:
        here = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=True))
        if any(here.glob(proof)):
            return here
    except OSError:
        pass  # nothing here yet
    print(LICENCE, flush=True)
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"{repository} could not be downloaded ({reason}): connect to the internet, or give the folder of a run."
        ) from error


def load(folder: Path, compat: str = "released") -> Released:
    """Load a run folder, converting it first where that has not been done, or a conversion; `compat` is of `COMPAT`.

    Weights are memory-mapped bfloat16. Raises `ValueError` in one sentence for whatever is missing or does not fit.
    """
    if (folder / "checkpoints").is_dir():
        folder = convert(find_run(folder))
    config = replace(ReleasedConfig.load(folder / "config.json"), compat=COMPAT[compat])
    model = assemble(config, load_file(folder / "model.safetensors"))
    prompter = ReleasedPrompter(load_tokenizer(folder), config)
    source = json.loads((folder / "source.json").read_text())
    return Released(model, prompter, read_statistics(folder), source["about"], source["sha256"]["converted"])


def read(run: Run, config: ReleasedConfig | None = None, dtype: torch.dtype = torch.float32) -> Released:
    """As `load`, without a conversion: all in memory, in `dtype`, with the quirks that `config` names."""
    if config is None:
        config, _ = plan(run)
    stored = run.open()
    tensors = {name: make(recipe, stored).to(dtype).clone() for name, recipe in recipes(config).items()}
    prompter = ReleasedPrompter(load_eagle_tokenizer(run.assets), config)
    return Released(assemble(config, tensors), prompter, read_statistics(run.folder), about(run.name, config))


def plan(run: Run) -> tuple[ReleasedConfig, dict[str, Recipe]]:
    """The config of a run's checkpoint and how to make its tensors.

    Raises `ValueError` listing every tensor that does not fit, or saying that the tokenizer is another model's.
    """
    stored = run.open()
    shapes = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    settings = json.loads((run.folder / "config.json").read_text())
    eagle = run.assets / "config.json"
    rows = shapes.get("language_model.model.embed_tokens.weight", (0,))[0]
    queries = rows - first_query(load_eagle_tokenizer(run.assets))
    expected = settings.get("num_of_meta_query", queries)
    if rows and (queries < 1 or queries != expected):
        raise ValueError(
            f"The tokenizer in {run.assets.name} leaves {queries} of {rows} vocabulary rows to latent queries, the run "
            f"has {expected}: it is another model's."
        )
    if not any(".lora_A." in key for key in shapes):
        raise ValueError(f"{run.name} carries no LoRA: put the folder with its exported adapter into the run folder.")
    try:
        config = detect(shapes, queries, _alpha(run), json.loads(eagle.read_text()) if eagle.is_file() else None)
        book = recipes(config)
        check(shapes, config, book)
    except ValueError as error:
        raise ValueError(f"{run.weights.name}: {error}") from error
    return config, book


def _alpha(run: Run) -> float | None:
    if run.adapter is None:
        return None
    return float(json.loads((run.adapter / "adapter_config.json").read_text())["lora_alpha"])


def make(recipe: Recipe, stored: Mapping[str, Tensor]) -> Tensor:
    """One of our tensors from upstream's."""
    return recipe.join([stored[key] for key in recipe.parts])


def assemble(config: ReleasedConfig, tensors: Mapping[str, Tensor]) -> ReleasedVLA:
    """A model around tensors, which are used as they are. Raises `ValueError` where they are not all its own."""
    with torch.device("meta"):
        model = ReleasedVLA(config)
    try:
        model.load_state_dict(dict(tensors), assign=True)
    except RuntimeError as error:
        raise ValueError(f"This conversion does not fit the model; delete it: {error}") from error
    return model.eval().requires_grad_(False)


def read_statistics(folder: Path) -> dict[str, ActionStatistics]:
    """`dataset_statistics.json`, one entry per data set."""
    entries = json.loads((folder / "dataset_statistics.json").read_text())
    return {name: ActionStatistics.from_dict(values) for name, values in entries.items()}


def convert(run: Run) -> Path:
    """The folder of a run's conversion in the cache, made now unless it is there and the run has not changed since."""
    place = hashlib.sha256(run.stamp["file"].encode()).hexdigest()[:8]
    target = cache_folder() / "released" / f"{run.name}-{place}"
    record = target / "source.json"
    if record.is_file() and json.loads(record.read_text())["stamp"] == run.stamp:
        return target
    config, book = plan(run)
    logger.warning("Converting %s to bfloat16, once; a 2B model takes a minute or two", run.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as temporary:
        folder = Path(temporary) / "done"
        folder.mkdir()
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in ReleasedVLA(config).state_dict().items()}
        converted = write(folder / "model.safetensors", shapes, _stream(run, book, list(shapes)), torch.bfloat16)
        (folder / "config.json").write_text(config.to_json())
        shutil.copyfile(run.folder / "dataset_statistics.json", folder / "dataset_statistics.json")
        load_eagle_tokenizer(run.assets).save(str(folder / "tokenizer.json"))
        with run.weights.open("rb") as file:
            source = hashlib.file_digest(file, "sha256").hexdigest()
        hashes = {"source": source, "converted": converted}
        words = {"about": about(run.name, config), "stamp": run.stamp, "sha256": hashes}
        (folder / "source.json").write_text(json.dumps(words, indent=2))
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return target


def _stream(run: Run, book: Mapping[str, Recipe], names: list[str]) -> Iterator[Tensor]:
    """Make tensors one by one, never keeping much of the run's file mapped."""
    stored, read_bytes = run.open(), 0
    for name in names:
        if read_bytes > REOPEN_BYTES:
            stored.clear()
            stored, read_bytes = run.open(), 0
        read_bytes += sum(stored[key].nbytes for key in book[name].parts)
        yield make(book[name], stored)


def about(name: str, config: ReleasedConfig) -> str:
    """One line: which run, what kind of model, whose licence."""
    kind = "generalist" if config.lora.experts > 1 else "expert"
    state = "with" if config.action.proprio_dim else "without"
    return (
        f"{name}: a released InstructVLA {kind}, {state} robot state, chunks of {config.action.chunk}. "
        "It contains Eagle2's weights: CC-BY-NC-4.0, no commercial use."
    )


def _open(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or an upstream `.pt`, memory-mapped, `<submodule>.<key>`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        nested = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["model"]
        return {f"{module}.{key}": tensor for module, part in nested.items() for key, tensor in part.items()}
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError) as error:
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "missing"
        raise ValueError(
            f"{path.name} ({size}) cannot be read as weights: it is damaged or was downloaded only in part. "
            "Download it again."
        ) from error
