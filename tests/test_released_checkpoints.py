"""Released checkpoints: variants told from tensors, honest errors, one conversion, the hub, what stays in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import model.released_checkpoints as released_checkpoints
from model.config import RELEASED_2B, ReleasedConfig
from model.ensemble import GOOGLE, WIDOWX
from model.released import ReleasedVLA
from model.released_checkpoints import convert, find_run, load, plan, read
from model.released_random import write_random_run
from model.upstream import canonical, check, recipes
from model.variants import detect
from model.weight_stream import write
from tests.tiny import TINY_RELEASED
from tests.upstream_sets import SETS, FixtureSet, needs_fixtures

STAGE1 = replace(TINY_RELEASED, lora=replace(TINY_RELEASED.lora, experts=1, gate_dim=128))
WITH_STATE = replace(TINY_RELEASED, action=replace(TINY_RELEASED.action, proprio_dim=8))
LONGER = replace(TINY_RELEASED, queries=9, action=replace(TINY_RELEASED.action, chunk=16))
VARIANTS = {"stage 1": STAGE1, "stage 2": TINY_RELEASED, "with state": WITH_STATE, "other counts": LONGER}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def weights(run: Path) -> Path:
    (found,) = (run / "checkpoints").iterdir()
    return found


def as_pickle(run: Path) -> Path:
    """The same run with its checkpoint as upstream saves it: a nested dict in a `.pt`."""
    stored, nested = load_file(weights(run)), {}
    for key, tensor in stored.items():
        module, _, name = key.partition(".")
        nested.setdefault(module, {})[name] = tensor.clone()
    weights(run).unlink()
    torch.save({"model": nested}, run / "checkpoints" / "step-000001-epoch-00-loss=0.5000.pt")
    return run


def edit(run: Path, change: Any) -> Path:
    """Rewrite the run's tensors."""
    stored = {key: tensor.clone() for key, tensor in load_file(weights(run)).items()}
    change(stored)
    save_file(stored, weights(run))
    return run


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pt"])
def test_every_variant_is_told_from_its_tensors(tmp_path: Path, config: ReleasedConfig, pickled: bool) -> None:
    run = write_random_run(tmp_path / "a name that says nothing", config)
    assert plan(find_run(as_pickle(run) if pickled else run))[0] == config


def test_the_2b_is_recognised_by_its_shapes() -> None:
    shapes = {key: shape for recipe in recipes(RELEASED_2B).values() for key, shape in recipe.parts.items()}
    assert detect(shapes, queries=64) == RELEASED_2B


@needs_fixtures
@pytest.mark.parametrize("stage", [1, 2])
def test_our_2b_has_the_published_shapes(stage: int) -> None:
    for fixtures in SETS:
        published = json.loads((fixtures.folder / f"full_size_shapes_stage{stage}.json").read_text())["shapes"]
        config = replace(RELEASED_2B, lora=replace(RELEASED_2B.lora, experts=stage))
        wanted = {key: list(shape) for recipe in recipes(config).values() for key, shape in recipe.parts.items()}
        published = {canonical(key): shape for key, shape in published.items()}
        assert {key: published.get(key) for key in wanted} == wanted
        check({key: tuple(shape) for key, shape in published.items()}, config, recipes(config))


def test_every_tensor_of_ours_has_a_recipe_and_its_shape() -> None:
    for config in (*VARIANTS.values(), RELEASED_2B):
        with torch.device("meta"):
            model = ReleasedVLA(config)
        assert set(model.state_dict()) == set(recipes(config))
        for name, recipe in recipes(config).items():
            made = recipe.join([torch.empty(shape, device="meta") for shape in recipe.parts.values()])
            assert made.shape == model.state_dict()[name].shape, name


@needs_fixtures
@pytest.mark.parametrize("kind", SETS[0].manifest["runs"] if SETS else [])
def test_pickle_and_safetensors_hold_the_same_model(kind: str) -> None:
    for fixtures in SETS:
        folder = fixtures.folder / fixtures.manifest["runs"][kind]
        for path in (folder / "checkpoints").glob("*.pt"):
            pair = (path, path.with_suffix(".safetensors"))
            one, two = (replace(fixtures.run(kind), weights=file).open() for file in pair)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one)


@needs_fixtures
def test_an_unloaded_stage_1_and_its_adapter_are_the_stage_1(tmp_path: Path) -> None:
    for fixtures in SETS:
        run = unloaded(fixtures, tmp_path / fixtures.folder.name)
        with pytest.raises(ValueError, match="carries no LoRA: put the folder with its exported adapter"):
            plan(find_run(run))
        shutil.copytree(fixtures.folder / fixtures.manifest["exported"]["adapter_dir"], run / "adapter")
        ours, whole = read(find_run(run)).model.state_dict(), fixtures.model("stage1").model.state_dict()
        assert ours.keys() == whole.keys()
        assert all(torch.equal(ours[key], whole[key]) for key in whole)


def unloaded(fixtures: FixtureSet, run: Path) -> Path:
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "dataset_statistics.json"):
        shutil.copyfile(fixtures.run("stage1").folder / name, run / name)
    shutil.copytree(fixtures.run("stage1").assets, run / "Eagle2-tiny")
    weights = fixtures.folder / fixtures.manifest["exported"]["unloaded_stage1"]
    shutil.copyfile(weights, run / "checkpoints" / "a.safetensors")
    return run


def test_one_error_lists_everything_that_does_not_fit(tmp_path: Path) -> None:
    def spoil(stored: dict[str, torch.Tensor]) -> None:
        del stored["mlp1.1.bias"]
        stored["action_model.stranger.weight"] = torch.zeros(2)
        stored["action_model.action_head.2.bias"] = torch.zeros(3)

    run = edit(write_random_run(tmp_path / "run", TINY_RELEASED), spoil)
    with pytest.raises(ValueError, match="3 tensors do not fit") as caught:
        load(run)
    for word in ("missing mlp1.1.bias", "unexpected action_model.stranger.weight", "action_head.2.bias is (3,)"):
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_many_problems_are_counted(tmp_path: Path) -> None:
    def drop(stored: dict[str, torch.Tensor]) -> None:
        for key in [key for key in stored if "norm" in key]:
            del stored[key]

    run = edit(write_random_run(tmp_path / "run", TINY_RELEASED), drop)
    with pytest.raises(ValueError, match=r"; and \d+ more"):
        load(run)


def test_what_upstream_stores_and_nobody_uses_is_no_problem(tmp_path: Path) -> None:
    def add(stored: dict[str, torch.Tensor]) -> None:
        stored["vision_model.vision_model.head.probe"] = torch.zeros(1)
        stored["action_model.film_vision_model.vision_model.norm.weight"] = torch.zeros(1)
        stored["action_model.film_vision_model.vision_model.blocks.3.scale.bias"] = torch.zeros(1)

    load(edit(write_random_run(tmp_path / "run", TINY_RELEASED), add))


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_half_a_file_is_one_sentence(tmp_path: Path, pickled: bool, share: float) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    path = weights(as_pickle(run) if pickled else run)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"damaged or was downloaded only in part\. Download it again\.") as caught:
        load(run)
    assert len(str(caught.value).splitlines()) == 1


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    weights(run).unlink()
    torch.save({"model": {"mlp1": Path("anything")}}, run / "checkpoints" / "step.pt")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load(run)


def test_missing_parts_of_a_run_are_named(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    shutil.copyfile(weights(run), run / "checkpoints" / "another.safetensors")
    with pytest.raises(ValueError, match=r"exactly one checkpoint.*another\.safetensors, step-000000"):
        load(run)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"exactly one checkpoint.*none"):
        load(run)
    (run / "dataset_statistics.json").unlink()
    with pytest.raises(ValueError, match=r"dataset_statistics\.json is missing"):
        load(run)


def test_a_strange_tokenizer_is_noticed(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    (run / "config.json").write_text(json.dumps({"stage": "stage2", "num_of_meta_query": 64}))
    with pytest.raises(ValueError, match="leaves 5 of 275 vocabulary rows to latent queries, the run has 64"):
        load(run)


def test_without_a_tokenizer_the_error_says_where_to_put_it(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "deep" / "down" / "run", TINY_RELEASED)
    shutil.rmtree(run / "Eagle2-random")
    with pytest.raises(ValueError, match="put the folder Eagle2-2B of ShuaiYang03/InstructVLA_Assets beside the run"):
        load(run)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_conversion_is_the_model_in_bfloat16(tmp_path: Path, config: ReleasedConfig) -> None:
    run = write_random_run(tmp_path / "run", config, dtype=torch.float32)
    converted, direct = load(run), read(find_run(run), dtype=torch.bfloat16)
    assert converted.model.config == direct.model.config == config
    ours, theirs = converted.model.state_dict(), direct.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == torch.bfloat16 for key in theirs)
    assert converted.prompter.act_now("go").ids.tolist() == direct.prompter.act_now("go").ids.tolist()
    assert converted.statistics == direct.statistics


def test_converting_happens_once_and_again_when_the_run_changes(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    first = convert(find_run(run))
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert convert(find_run(run)) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    recorded = json.loads((first / "source.json").read_text())["sha256"]
    assert recorded["converted"] == hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()
    assert recorded["source"] == hashlib.sha256(weights(run).read_bytes()).hexdigest()
    edit(run, lambda stored: stored["mlp1.1.bias"].zero_())
    again = load(run)
    assert again.model.connector.fc1.bias.abs().sum() == 0
    assert again.sha256 != recorded["converted"]


def test_a_conversion_needs_its_run_no_more(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", WITH_STATE)
    folder, expected = convert(find_run(run)), load(run)
    shutil.rmtree(run)
    assert released_checkpoints.is_released(folder)
    again = load(folder)
    assert again.about == expected.about and again.sha256 == expected.sha256
    assert torch.equal(again.model.decoder.head.weight, expected.model.decoder.head.weight)


def test_quirks_are_chosen_when_loading(tmp_path: Path) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)
    assert not load(run).model.config.compat.shared_cache
    assert load(run, compat="upstream").model.config.compat.shared_cache


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_random_run(tmp_path / "run", TINY_RELEASED)

    def stop(*arguments: Any) -> str:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(released_checkpoints, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        load(run)
    assert not list((tmp_path / "cache" / "released").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path / "cache"))
    load(run)


def test_statistics_of_an_unknown_robot(tmp_path: Path) -> None:
    loaded = load(write_random_run(tmp_path / "run", TINY_RELEASED))
    assert loaded.statistics_of(GOOGLE) == loaded.statistics["fractal20220817_data"]
    libero = replace(loaded, statistics=dict.fromkeys(("spatial", "goal"), loaded.statistics[WIDOWX.statistics]))
    with pytest.raises(ValueError, match="not trained on bridge_dataset: it knows spatial, goal"):
        libero.statistics_of(WIDOWX)


class FakeHub:
    """A hub with one repository, and no network behind it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], published: Path
    ) -> None:
        self.published, self.here, self.capsys = published, published.parent / "hub-cache", capsys
        self.asked: list[str] = []
        self.printed_before = ""
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def download(self, repository: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only and not self.here.exists():
            raise FileNotFoundError("not in the cache")
        if not local_files_only:
            self.asked.append(repository)
            self.printed_before = self.capsys.readouterr().out
            shutil.copytree(self.published, self.here, dirs_exist_ok=True)
        return str(self.here)


def test_a_hub_id_is_downloaded_after_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = FakeHub(monkeypatch, capsys, write_random_run(tmp_path / "published", TINY_RELEASED))
    folder = released_checkpoints.fetch("somebody/some-run")
    assert hub.asked == ["somebody/some-run"] and "CC-BY-NC-4.0" in hub.printed_before
    assert isinstance(load(folder).model, ReleasedVLA)
    released_checkpoints.fetch("somebody/some-run")
    assert hub.asked == ["somebody/some-run"], "what is here is not downloaded again"
    assert "CC-BY-NC" not in capsys.readouterr().out


def test_half_a_download_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = FakeHub(monkeypatch, capsys, write_random_run(tmp_path / "published", TINY_RELEASED))
    hub.here.mkdir()
    shutil.copyfile(hub.published / "config.json", hub.here / "config.json")
    assert load(released_checkpoints.fetch("somebody/some-run")).model.config == TINY_RELEASED
    assert hub.asked == ["somebody/some-run"]


def test_without_a_network_the_error_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="somebody/some-run could not be downloaded") as caught:
        released_checkpoints.fetch("somebody/some-run")
    assert len(str(caught.value).splitlines()) == 1


MIDDLE = ReleasedConfig(
    queries=64,
    vision=replace(RELEASED_2B.vision, layers=2),
    decoder=replace(RELEASED_2B.decoder, vocab=20_000, layers=6, dim=768, heads=6, mlp=4480),
    action=replace(RELEASED_2B.action, layers=2),
)
MEASURE = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from model.config import RELEASED_2B
from model.released import ReleasedVLA
from model.released_checkpoints import load
with torch.device("meta"):
    ReleasedVLA(RELEASED_2B)  # makes PyTorch import what it needs for any model
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
before = peak()
model = load(Path(sys.argv[1])).model
touched = sum(float(tensor.flatten()[::512].float().sum()) for tensor in model.state_dict().values())
print(peak() - before, sum(tensor.nbytes for tensor in model.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures memory through Linux's /proc")
def test_memory_stays_close_to_the_converted_size(tmp_path: Path) -> None:
    """Peak resident memory, mapped pages included, that converting and loading add to Python and PyTorch."""
    run = write_random_run(tmp_path / "run", MIDDLE, dtype=torch.float32)
    for _ in ("conversion", "later start"):
        command = [sys.executable, "-c", MEASURE, str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        added, size = map(int, done.stdout.split())
        assert size > 2e8
        assert added < 1.2 * size
