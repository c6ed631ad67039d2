"""Every expected output of every fixture set, reproduced by the released models' own code."""

from __future__ import annotations

import pytest
import torch

import tests.upstream_control
import tests.upstream_model  # noqa: F401 - both modules say how outputs are computed
from tests.upstream_model import expert
from tests.upstream_sets import SETS, FixtureSet, handlers_of, needs_fixtures

NAMES = [(one, name) for one in SETS for name in one.outputs]


@needs_fixtures
def test_no_output_is_left_out() -> None:
    for fixtures in SETS:
        listed = {n for n, entry in fixtures.manifest["tensors"].items() if entry["file"] == "outputs.safetensors"}
        assert listed == set(fixtures.outputs)
    assert {name: len(handlers_of(name)) for _, name in NAMES if len(handlers_of(name)) != 1} == {}


@needs_fixtures
@pytest.mark.parametrize(("fixtures", "name"), NAMES, ids=[f"{one.folder.name}-{name}" for one, name in NAMES])
def test_output(fixtures: FixtureSet, name: str) -> None:
    (compute,) = handlers_of(name)
    with torch.no_grad():
        fixtures.close(name, compute(fixtures))


@needs_fixtures
@pytest.mark.parametrize("name", ["velocity_true_mask", "velocity_no_bias"])
def test_the_wrong_readings_of_the_mask_are_not_ours(name: str) -> None:
    for fixtures in SETS:
        ours = expert(fixtures, "stage2")["velocity"]
        assert (ours - fixtures.outputs[f"negative/stage2/{name}"]).abs().max() > 0.01
