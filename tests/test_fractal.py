"""The Google robot: controller, scenes, rules. Tests that need its assets use ../shared and skip where it is absent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.doctor import check_google
from model.ensemble import google_proprio
from sim import evaluate as evaluation
from sim.fractal_layouts import layout
from sim.google_robot import SIM_HZ, JointPath
from sim.interface import Observation, StepResult
from sim.suite import load_suite
from sim.twin_assets import GOOGLE_HINT, require
from sim.twins import TWINS, TwinScene
from sim.worker import SIMPLER, SimWorker

SHARED = Path(__file__).resolve().parents[2] / "shared" / "sim_assets"
with_assets = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the official assets in ../shared/sim_assets")
GOOGLE = [name for name, twin in TWINS.items() if twin.robot == "google_robot"]
WAIT = np.zeros(7, dtype=np.float32)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimWorker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_ASSET_DIR", str(SHARED / "maniskill"))
        patch.setenv("MS2_REAL2SIM_ASSET_DIR", str(SHARED / "real2sim"))
        with SimWorker((320, 256), world=SIMPLER) as worker:
            yield worker


# ---- without assets


def test_paths_keep_their_limits_and_continue_where_they_broke_off() -> None:
    path = JointPath((1.5, 2.0, 50.0), 2)
    path.restart(np.zeros(2))
    seen = []
    for target in ([1.0, -0.5], [1.2, -0.5], [0.0, 0.0], [0.0, 0.0]):
        path.plan(np.array(target))
        for step in range(1, SIM_HZ // 3 + 1):
            path.move_to(step / SIM_HZ)
            seen.append(path.position)
    velocity = np.diff(seen, axis=0) * SIM_HZ
    assert np.abs(velocity).max() <= 1.5 + 1e-6 and np.abs(velocity).max() > 0.4
    assert np.abs(np.diff(velocity, axis=0)).max() * SIM_HZ < 2.0 + 50.0 / 3  # no jump where one path follows another


def test_every_published_episode_has_a_layout() -> None:
    suite = load_suite("simpler-google")
    scenes = [scene for _, scene in suite.scenes()]
    assert len(scenes) == 3 * 25 + 60 + 6 * 9 + 27 and {scene.twin for scene in scenes} == set(GOOGLE)  # type: ignore[union-attr]
    for scene in scenes:
        places = layout(scene.twin, scene.seed)  # type: ignore[union-attr]
        assert (places.drawer is None) == ("drawer" not in scene.family)
        assert all(name in places.things for name in (places.source, places.target) if name)
    assert TwinScene(twin="move_near", seed=16).text == "move sponge near 7up can"
    assert layout("pick_standing_coke_can", 24).things["opened_coke_can"][:2] == (-0.12, 0.42)
    assert layout("close_middle_drawer", 3).opened == 0.2 and layout("open_middle_drawer", 3).opened == 0.0


def test_without_assets_one_line_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    monkeypatch.setenv("MS2_REAL2SIM_ASSET_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="ManiSkill2_real2sim") as caught:
        require("move_near")
    assert "\n" not in str(caught.value)
    line = check_google()
    assert not line.works and not line.needed and line.mend == GOOGLE_HINT


def test_the_instruction_changes_where_the_task_says() -> None:
    told: list[str] = []

    class Deaf:
        needs_image = False

        def reset(self, instruction: str, seed: int = 0) -> None:
            told.append(instruction)

        def act(self, observation: Observation) -> np.ndarray:
            return WAIT

    class Counter:
        count = 0

        def reset(self, scene: TwinScene, render: bool) -> Observation:
            return Observation(None, np.zeros(8, np.float32), 0)

        def step(self, action: np.ndarray, render: bool) -> StepResult:
            self.count += 1
            return StepResult(Observation(None, np.zeros(8, np.float32), self.count), False, self.count == 120)

    evaluation.play(Counter(), Deaf(), TwinScene(twin="apple_in_top_drawer", seed=0))  # type: ignore[arg-type]
    assert told == ["open top drawer", "place apple into top drawer"]


# ---- with assets


@with_assets
@pytest.mark.parametrize(
    ("twin", "seed"), [("pick_horizontal_coke_can", 12), ("pick_standing_coke_can", 4), ("move_near", 28)]
)
def test_the_expert_solves_an_episode(simulator: SimWorker, twin: str, seed: int) -> None:
    simulator.reset(TwinScene(twin=twin, seed=seed), False)
    result = simulator.step(WAIT, False)
    while not result.done:
        result = simulator.step(simulator.expert_action(), False)
    assert result.success and result.observation.step > 8


@with_assets
def test_playing_recorded_actions_again_repeats_the_episode(simulator: SimWorker) -> None:
    """Alike, not equal: see `Fractal.arrange`."""
    scene = TwinScene(twin="move_near", seed=14)
    runs = []
    actions: list[np.ndarray] = []
    for _ in range(2):
        simulator.reset(scene, False)
        states = [simulator.state()]
        for step in range(8):
            if len(actions) == step:
                actions.append(simulator.expert_action())
            simulator.step(actions[step], False)
            states.append(simulator.state())
        runs.append(states)
        simulator.reset(TwinScene(twin="pick_vertical_coke_can", seed=3), False)
    for one, two in zip(*runs, strict=True):
        np.testing.assert_allclose(one["robot"], two["robot"], atol=1e-4)
        places = [state["objects"].reshape(-1, 13)[:, :3] for state in (one, two)]
        np.testing.assert_allclose(*places, atol=2e-3)


@with_assets
def test_an_action_moves_the_tool_and_the_gripper_as_commanded(simulator: SimWorker) -> None:
    start = simulator.reset(TwinScene(twin="open_top_drawer", seed=0), False).proprio
    for _ in range(6):
        seen = simulator.step(np.array([0.0, 0.03, -0.02, 0, 0, 0, 0.2], np.float32), False).observation
    moved = seen.proprio[:3] - start[:3]
    assert moved[1] > 0.03 and moved[2] < -0.02 and abs(moved[0]) < 0.01
    assert start[7] == pytest.approx(0.0, abs=0.01) and 0.4 < seen.proprio[7] < 0.9
    assert seen.measured is not None
    np.testing.assert_allclose(google_proprio(seen.measured.astype(float)), seen.proprio, atol=1e-6)
    closed = seen.proprio[7]
    for _ in range(3):
        seen = simulator.step(WAIT, False).observation  # a small command repeats the last target
    assert seen.proprio[7] >= closed - 0.01
    for _ in range(5):
        seen = simulator.step(np.array([0, 0, 0, 0, 0, 0, -1.0], np.float32), False).observation
    assert seen.proprio[7] < 0.05


@with_assets
def test_drawers_stand_as_the_task_says_and_pictures_are_composed(simulator: SimWorker) -> None:
    from PIL import Image

    simulator.reset(TwinScene(twin="close_middle_drawer", seed=0), False)
    assert sorted(simulator.state()["cabinet"][:3]) == pytest.approx([0.0, 0.0, 0.2], abs=1e-4)
    seen = simulator.reset(TwinScene(twin="pick_horizontal_coke_can", seed=12))
    assert seen.image is not None and seen.image.shape == (256, 320, 3)
    photo = SHARED / "real2sim" / "real_inpainting" / "google_coke_can_real_eval_1.png"
    background = np.asarray(Image.open(photo).convert("RGB").resize((320, 256), Image.Resampling.BOX))
    differs = np.abs(seen.image.astype(int) - background.astype(int)).max(axis=-1) > 40
    u, v, *_ = simulator.visible_objects()["opened_coke_can"]
    assert differs[int(v * 256), int(u * 320)] and 0.01 < differs.mean() < 0.15
