"""The released models' closed loop, and the same engine, page and commands around them as around the nano."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import app.cli as cli
from app import bench, bench_released
from model.config import COMPAT, ReleasedConfig
from model.engine import Engine
from model.ensemble import GOOGLE, WIDOWX, Control, Setup, axis_angle, matrix_from_rpy
from model.released_checkpoints import Released, find_run, plan, read
from model.released_policy import ReleasedPolicy, Schedule
from model.released_random import write_random_run
from model.tiling import best_grid, centre_crop, tile
from sim.interface import Observation
from tests.test_cli import run as command
from tests.test_released_speed import lively
from tests.tiny import TINY_RELEASED, observation

torch.set_num_threads(1)
STAGE1 = replace(TINY_RELEASED, lora=replace(TINY_RELEASED.lora, experts=1))
WITH_STATE = replace(TINY_RELEASED, action=replace(TINY_RELEASED.action, proprio_dim=8))
SHORT = Schedule(think_every=4, thought_tokens=12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def released(folder: Path, config: ReleasedConfig = TINY_RELEASED, compat: str = "released") -> Released:
    run = find_run(write_random_run(folder / "run", config, dtype=torch.float32))
    return lively(read(run, replace(plan(run)[0], compat=COMPAT[compat])))


def policy(loaded: Released, think: bool = True, **options: Any) -> ReleasedPolicy:
    statistics = loaded.statistics[WIDOWX.statistics]
    options = {"schedule": SHORT} | options
    return ReleasedPolicy(
        loaded.model, loaded.prompter, statistics, think=think, lock=threading.Lock(), **options
    )


def rollout(pilot: ReleasedPolicy, steps: int, seed: int = 0) -> np.ndarray:
    pilot.reset("pick up the cube", seed)
    return np.array([pilot.act(observation(step)) for step in range(steps)])


@pytest.mark.parametrize("compat", COMPAT)
@pytest.mark.parametrize("think", [False, True])
def test_same_seed_same_actions(tmp_path: Path, think: bool, compat: str) -> None:
    loaded = released(tmp_path, compat=compat)
    first, again = rollout(policy(loaded, think), 6), rollout(policy(loaded, think), 6)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, rollout(policy(loaded, think), 6, seed=1))
    assert set(np.unique(first[:, 6])) <= {0.0, 1.0} and first.dtype == np.float32


def test_nothing_leaks_into_the_next_episode(tmp_path: Path) -> None:
    loaded = released(tmp_path, WITH_STATE)
    pilot = policy(loaded)
    rollout(pilot, 6, seed=3)
    np.testing.assert_array_equal(rollout(pilot, 5), rollout(policy(loaded), 5))


def test_thoughts_come_when_due_and_stay_in_between(tmp_path: Path) -> None:
    pilot = policy(released(tmp_path))
    pilot.reset("pick up the cube")
    thoughts, due = [], []
    for step in range(9):
        due.append(pilot.thinking_due)
        pilot.act(observation(step))
        thoughts.append(pilot.thought)
        assert ("think" in pilot.timings) == due[-1] and {"plan", "flow"} <= pilot.timings.keys()
    assert due == [True, False, False, False, True, False, False, False, True]
    assert thoughts[0] == thoughts[3] and thoughts[4] == thoughts[7]
    assert thoughts[0] != thoughts[4], "another picture, another thought"


def test_a_streamed_thought_is_the_one_that_acts(tmp_path: Path) -> None:
    loaded = released(tmp_path)
    silent, streaming = policy(loaded), policy(loaded)
    silent.reset("pick up the cube")
    streaming.reset("pick up the cube")
    expected = silent.act(observation())
    text = "".join(streaming.think(observation()))
    assert text == streaming.thought == silent.thought and text
    assert not streaming.thinking_due
    np.testing.assert_array_equal(streaming.act(observation()), expected)


def test_reusing_the_thought_is_putting_it_back(tmp_path: Path) -> None:
    """The latent action after a thought equals that of the complete prompt, read anew."""
    loaded = released(tmp_path)
    pilot = policy(loaded)
    pilot.reset("pick up the cube")
    pilot.act(observation())
    prompt = loaded.prompter.act_after("pick up the cube", pilot.thought)
    with torch.inference_mode():
        anew = loaded.model.plan(prompt, pilot._see(observation()))
    torch.testing.assert_close(pilot._latents, anew, atol=1e-5, rtol=1e-4)


def test_a_stopped_thought_still_acts(tmp_path: Path) -> None:
    pilot = policy(released(tmp_path))
    pilot.reset("pick up the cube")
    pieces: list[str] = []
    for piece in pilot.think(observation(), should_stop=lambda: len(pieces) >= 2):
        pieces.append(piece)
    assert len(pieces) == 2
    assert np.isfinite(pilot.act(observation())).all()


def test_another_instruction_is_a_fresh_start_in_the_same_episode(tmp_path: Path) -> None:
    loaded = released(tmp_path)
    pilot, other = policy(loaded), policy(loaded)
    pilot.reset("pick up the cube")
    other.reset("open the drawer")
    pilot.act(observation())
    other._noise.set_state(pilot._noise.get_state())
    pilot.instruct("open the drawer")
    assert pilot.thinking_due and pilot.thought == ""
    np.testing.assert_array_equal(pilot.act(observation(1)), other.act(observation(1)))
    assert pilot.thought == other.thought


def test_a_thought_can_be_replaced(tmp_path: Path) -> None:
    loaded = released(tmp_path)
    pilot = policy(loaded)
    pilot.reset("pick up the cube")
    own = pilot.act(observation())
    pilot.reset("pick up the cube")
    pilot.rethink(observation(), "no")
    assert not pilot.thinking_due
    assert not np.array_equal(pilot.act(observation()), own)
    assert pilot.thought == "no" and "think" not in pilot.timings
    for step in range(1, 4):
        assert not pilot.thinking_due
        pilot.act(observation(step))
    assert pilot.thinking_due
    with pytest.raises(ValueError, match="at most 12 tokens, this one 22: shorten it"):
        pilot.rethink(observation(), "much too long, really")


def test_stage_1_never_thinks(tmp_path: Path) -> None:
    loaded = released(tmp_path, STAGE1)
    pilot = policy(loaded, think=True)
    pilot.reset("pick up the cube")
    assert not pilot.thinking_due
    np.testing.assert_array_equal(rollout(pilot, 3), rollout(policy(loaded, think=False), 3))


def test_latents_may_be_kept_for_some_steps(tmp_path: Path) -> None:
    pilot = policy(released(tmp_path), think=False, schedule=replace(SHORT, latent_every=2))
    pilot.reset("pick up the cube")
    kept = []
    for step in range(4):
        pilot.act(observation(step))
        kept.append(pilot._latents)
    assert kept[0] is kept[1] and kept[2] is kept[3] and kept[1] is not kept[2]


def test_only_models_without_state_see_the_crop(tmp_path: Path) -> None:
    bare, stateful = policy(released(tmp_path / "a")), policy(released(tmp_path / "b", WITH_STATE))
    image = observation().image
    assert image is not None
    np.testing.assert_array_equal(bare._picture(observation()), centre_crop(image))
    np.testing.assert_array_equal(stateful._picture(observation()), image)
    with pytest.raises(ValueError, match="needs a picture at every step"):
        bare.act(observation(image=False))


@pytest.mark.parametrize("setup", [WIDOWX, GOOGLE], ids=lambda setup: setup.statistics)
def test_the_measured_state_reaches_the_model_as_upstream_gave_it(tmp_path: Path, setup: Setup) -> None:
    """The commanded pose, which the nano is given, is not what a released model was trained on."""
    loaded = released(tmp_path, WITH_STATE)
    pilot = policy(loaded, setup=setup)
    from scipy.spatial.transform import Rotation

    turned = Rotation.from_euler("xyz", [0.4, -0.3, 0.8])
    down = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    x, y, z, w = (turned * down).as_quat()
    measured = np.array([0.3, 0, 0.1, w, x, y, z, 0.75], np.float32)
    state = pilot._state(replace(observation(), proprio=np.full(8, 9, np.float32), measured=measured))
    assert state is not None
    seen = [0.3, 0, 0.1, 0.4, -0.3, 0.8, 0, 0.75] if setup is WIDOWX else [0.3, 0, 0.1, x, y, z, w, 0.25]
    expected = loaded.statistics[WIDOWX.statistics].normalise_proprio(np.array(seen))
    np.testing.assert_allclose(state[0].numpy(), expected, atol=1e-4)
    with pytest.raises(ValueError, match="measured state, which this simulator does not tell"):
        pilot.act(replace(observation(), measured=None))


def test_rotations_reach_the_simulator_in_its_own_angles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.spatial.transform import Rotation

    pilot = policy(released(tmp_path), think=False)
    pilot.reset("pick up the cube")
    chunk = np.tile([0.01, 0, 0, 0.3, -0.5, 0.7, 1.0], (4, 1))
    monkeypatch.setattr(pilot, "_sample", lambda view, observation: chunk)
    action = pilot.act(observation())
    wanted = Rotation.from_euler("xyz", chunk[0, 3:6])
    assert (Rotation.from_euler("XYZ", action[3:6]) * wanted.inv()).magnitude() < 1e-6
    np.testing.assert_allclose(axis_angle(matrix_from_rpy(chunk[0, 3:6])), wanted.as_rotvec(), atol=1e-12)
    assert action[6] == 1.0
    assert Control(GOOGLE).step(chunk).gripper == 0.0, "relative: the first step only remembers"


def test_a_literal_response_keeps_its_end(tmp_path: Path) -> None:
    prompter = released(tmp_path).prompter
    tidy = prompter.act_after("go", "I go. ")
    assert tidy.ids.tolist() == prompter.act_after("go", "I go.").ids.tolist()
    assert len(prompter.act_after("go", "I go. ", literal=True).ids) == len(tidy.ids) + 1
    ended = prompter.act_after("go", "I go.", literal=True, ended=True).ids.tolist()
    assert ended.count(prompter.end_id) == tidy.ids.tolist().count(prompter.end_id) + 1


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(448, 448, (1, 1)), (896, 448, (2, 1)), (448, 1344, (1, 3)), (1344, 896, (3, 2)), (640, 480, (1, 1))],
)
def test_tiles_keep_area_and_shape(width: int, height: int, grid: tuple[int, int]) -> None:
    columns, rows = best_grid(width, height, 448, 12)
    if (width, height) != (640, 480):
        assert (columns, rows) == grid
    assert columns * rows <= 12


def test_tiles_are_in_reading_order_and_end_with_a_thumbnail() -> None:
    picture = np.zeros((56, 112, 3), np.uint8)
    picture[:, 56:] = 255
    left, right, thumbnail = tile(picture, 56, max_tiles=12)
    assert left.max() == -1 and right.min() == 1 and (thumbnail[..., 0].max(), thumbnail[..., -1].min()) == (-1, 1)
    assert tile(picture, 56).shape == (1, 3, 56, 56)


def test_the_engine_runs_a_run_folder(tmp_path: Path) -> None:
    folder = write_random_run(tmp_path / "some_run", TINY_RELEASED, dtype=torch.float32)
    engine = Engine(str(folder)).wait()
    assert "some_run: a released InstructVLA generalist, without robot state" in engine.describe()
    assert "CC-BY-NC-4.0" in engine.describe() and len(engine.fingerprint()) == 64
    pilot = engine.policy(think=True)
    pilot.reset("pick up the cube")
    words = list(pilot.think(observation()))
    action = pilot.act(observation())
    assert words and action.shape == (7,) and pilot.needs_image and pilot.focus is None
    image = np.asarray(Image.new("RGB", (120, 40), "red"))
    assert isinstance("".join(engine.ask(image, "What is this?")), str)
    other = np.asarray(Image.new("RGB", (40, 40), "green"))
    spoken = {"".join(engine.ask(pictures, "Which one?")) for pictures in ([image, other], [other, image])}
    assert engine.pictures == 4 and len(spoken) == 2, "both pictures count, and so does their order"
    with pytest.raises(ValueError, match="1 to 4 pictures at a time, not at 5"):
        list(engine.ask([image] * 5, "Which one?"))


def test_the_engine_keeps_to_a_schedule(tmp_path: Path) -> None:
    folder = str(write_random_run(tmp_path / "run", TINY_RELEASED, dtype=torch.float32))
    changes = (("think_every", 3), ("latent_every", 2), ("thought_tokens", 4))
    pilot = Engine(folder, schedule=changes).wait().policy(True)
    pilot.reset("pick up the cube")
    due = []
    for step in range(4):
        due.append(pilot.thinking_due)
        pilot.act(observation(step))
    assert due == [True, False, False, True]
    with pytest.raises(RuntimeError, match="its schedule has no 'execute'; it knows think_every, latent_every"):
        Engine(folder, schedule=(("execute", 2),)).wait()


def test_a_broken_run_fails_in_one_sentence(tmp_path: Path) -> None:
    folder = write_random_run(tmp_path / "run", TINY_RELEASED)
    (folder / "dataset_statistics.json").unlink()
    with pytest.raises(RuntimeError, match="could not be loaded: run is no complete run folder"):
        Engine(str(folder)).wait()


def test_ask_and_bench_take_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_random_run(tmp_path / "run", TINY_RELEASED, dtype=torch.float32)
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "picture.png")
    command("ask", str(tmp_path / "picture.png"), "What is this?", "--model", str(folder))
    monkeypatch.setattr(bench_released, "THOUGHT_TOKENS", 4)
    monkeypatch.setattr(bench, "LOADS", 1)
    text = command("bench", "--model", str(folder), "--times", "2", "--json", str(tmp_path / "bench.json"))
    assert all(part in text for part in ("caches save", "bar: at least 5", "static shapes", "peak host memory"))
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert rows["act"]["unit"] == "Hz" and rows["decoding, thought"]["median"] > 0


def test_random_2b_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_released, "RELEASED_2B", TINY_RELEASED)
    folder = bench_released.random_2b_run()
    stamp = folder.stat().st_mtime_ns
    assert bench_released.random_2b_run() == folder and folder.stat().st_mtime_ns == stamp
    assert plan(find_run(folder))[0] == TINY_RELEASED


def test_a_hub_id_is_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cli.check_model("somebody/some-run")
    with pytest.raises(ValueError, match="There is no model 'nanno'"):
        cli.check_model("nanno")
    with pytest.raises(ValueError, match="somebody/some-run could not be downloaded"):
        cli.load("somebody/some-run")
    assert isinstance(observation(), Observation)
