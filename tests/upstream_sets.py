"""Fixture sets of upstream-format models: data only, below $INSTRUCTVLA_FIXTURES, by default ../shared/fixtures.

A set is any folder with a `MANIFEST.json`. Sizes, head counts and tolerances are read from it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

from model.config import Compat, ReleasedConfig
from model.released_checkpoints import Released, Run, find_run, plan, read
from model.released_prompts import ReleasedPrompter, load_eagle_tokenizer

ROOT = Path(os.environ.get("INSTRUCTVLA_FIXTURES", Path(__file__).resolve().parents[2] / "shared" / "fixtures"))


class FixtureSet:
    """One set: its models by manifest name, its inputs and outputs by tensor name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "MANIFEST.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "outputs.safetensors")

    def text(self, name: str) -> Any:
        return json.loads((self.folder / "text" / f"{name}.json").read_text())

    def run(self, kind: str) -> Run:
        return find_run(self.folder / self.manifest["runs"][kind])

    def config(self, kind: str) -> ReleasedConfig:
        """As detected, with the head counts of the manifest: tensors do not show them."""
        detected, _ = plan(self.run(kind))
        sizes = self.manifest["config"]
        return replace(
            detected,
            dino=replace(detected.dino, heads=sizes["dino"]["num_heads"]),
            action=replace(detected.action, heads=sizes["expert"]["num_attention_heads"]),
        )

    @cache  # noqa: B019 - sets live as long as the tests
    def model(self, kind: str, compat: Compat | None = None) -> Released:
        config = self.config(kind)
        return read(self.run(kind), config if compat is None else replace(config, compat=compat))

    def prompter(self, kind: str = "stage1") -> ReleasedPrompter:
        return ReleasedPrompter(load_eagle_tokenizer(self.run(kind).assets), self.config(kind))

    def close(self, name: str, value: Tensor | np.ndarray, atol: float | None = None) -> None:
        """Fail unless `value` is the expected output of this name, within its tolerance."""
        expected = self.outputs[name]
        got = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        assert tuple(got.shape) == tuple(expected.shape), f"{name}: {got.shape} instead of {tuple(expected.shape)}"
        limit = self.manifest["tensors"][name]["atol"] if atol is None else atol
        error = np.abs(got.astype(np.float64) - expected.double().numpy()).max()
        assert error <= limit, f"{name}: off by {error:.2e}, allowed is {limit:.0e}"


SETS = [FixtureSet(path.parent) for path in sorted(ROOT.glob("*/MANIFEST.json"))]

needs_fixtures = pytest.mark.skipif(not SETS, reason=f"no fixture sets below {ROOT} (set INSTRUCTVLA_FIXTURES)")
each_set = pytest.mark.parametrize("fixtures", SETS, ids=[one.folder.name for one in SETS])

Value = Tensor | np.ndarray
HANDLERS: list[tuple[re.Pattern[str], Callable[..., Value]]] = []


def produces(pattern: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Register the function that computes the outputs of this name; groups become arguments."""

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        HANDLERS.append((re.compile(pattern + r"\Z"), function))
        return function

    return register


def handlers_of(name: str) -> list[Callable[[FixtureSet], Value]]:
    found = [(match, function) for pattern, function in HANDLERS if (match := pattern.match(name))]
    return [lambda fixtures, m=match, f=function: f(fixtures, *m.groups()) for match, function in found]
