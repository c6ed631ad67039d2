"""The official WidowX scenes. Tests that play them use the copies in ../shared and skip where those are absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app import scenes
from app.doctor import check_simpler
from model.ensemble import widowx_proprio
from sim import twin_assets
from sim.evaluate import Journal, evaluate
from sim.suite import SimplerSuite, TwinTask, load_suite
from sim.tasks import SceneSpec, sample_goal
from sim.twins import TwinScene, load_scene
from sim.worker import EITHER, SIMPLER, SimWorker
from tests import fake_world

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL = ROOT.parent / "shared" / "sim_assets" / "maniskill"
with_assets = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="needs the official assets in ../shared/sim_assets/maniskill"
)
STAY = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimWorker]:
    """One process for all tests; it reads MS_ASSET_DIR when it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_ASSET_DIR", str(OFFICIAL))
        with SimWorker(world=SIMPLER) as worker:
            yield worker


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No assets, wherever a test does not bring its own."""
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path / "maniskill"))


def flat(state: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([state[name] for name in sorted(state)])


# ---- without assets


def test_the_suite_names_every_official_episode_and_how_it_is_judged() -> None:
    suite = load_suite("simpler-widowx")
    assert isinstance(suite, SimplerSuite) and suite.success == "last" and suite.world == SIMPLER
    played = [scene for _, scene in suite.scenes()]
    assert len(played) == 6 * 24 and {scene.twin for scene in played} == set(twin_assets.WIDOWX)  # type: ignore[union-attr]
    assert {scene.limit for scene in played} == {120}
    assert {scene.limit for _, scene in suite.limited(60).scenes(2)} == {60}
    assert [scene.seed for _, scene in suite.scenes(2)] == [0, 1] * 6
    assert all(scene.ending == "last" for scene in played)  # type: ignore[union-attr]


def test_without_assets_one_line_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"get them with: python app\.py assets fetch simpler$") as caught:
        evaluate(load_suite("simpler-widowx"), "expert", "expert", progress=False)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    line = check_simpler()
    assert not line.works and not line.needed and line.mend == twin_assets.FETCH
    assert "robots/widowx/wx250s.urdf" in line.detail


def test_the_command_line_says_so_and_exits_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "app.py", "evaluate", "--suite", "simpler-widowx", "--model", "expert"],
        cwd=ROOT,
        env={**os.environ, "MS_ASSET_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("python app.py assets fetch simpler")


def test_only_what_a_scene_needs_has_to_be_there(tmp_path: Path) -> None:
    for path in twin_assets.missing(["stack_cube"], tmp_path):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("<robot/>")
    assert twin_assets.missing(["stack_cube"], tmp_path) == []
    rest = twin_assets.missing(["carrot_on_plate"], tmp_path)
    assert rest and all("carrot" in path or "plate" in path or "custom_v0.json" in path for path in rest)


def test_the_doctor_names_every_file_of_a_set_that_is_not_whole(tmp_path: Path) -> None:
    base = tmp_path / "maniskill" / "data"
    for path in twin_assets.missing(folder=base):
        if not twin_assets.is_extra(path):
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_text("<robot/>")
    line = check_simpler()
    needed = [f"{twin_assets.BRIDGE}/custom/models/{model}/{name}" for model in twin_assets.EXTRA
              for name in ("collision.obj", "textured.dae")]  # fmt: skip
    assert [text.strip() for text in line.detail.splitlines()[1:]] == needed
    assert "ManiSkill2_real2sim" in line.mend and line.mend.endswith("python app.py assets fetch simpler")
    (base / twin_assets.ROBOT / "wx250s.urdf").unlink()
    line = check_simpler()
    assert "robots/widowx/wx250s.urdf" in line.detail and line.mend == twin_assets.FETCH


def test_the_page_offers_official_scenes_only_where_their_assets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scenes.families() == scenes.FAMILIES
    if OFFICIAL.is_dir():
        monkeypatch.setenv("MS_ASSET_DIR", str(OFFICIAL))
        assert set(scenes.families().values()) - set(scenes.FAMILIES.values()) == set(twin_assets.WIDOWX)
    scene = scenes.spec("carrot_on_plate", 1_000_007, "put the carrot away")
    assert isinstance(scene, TwinScene) and scene.seed == 1_000_007 % 24 and scene.text == "put the carrot away"
    assert load_scene(scene.model_dump(mode="json")) == scene
    own = scenes.spec("pick", 1_000_000)
    assert load_scene(own.model_dump(mode="json")) == own


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("success: last\ntasks: [{name: a, scene: juggling}]", r"tasks\[0\]: there is no scene 'juggling'; choose"),
        ("success: never\ntasks: [{name: a, scene: stack_cube}]", r"success: Input should be 'first' or 'last'"),
        ("success: last\ntasks: [{name: a, kind: pick}]", r"tasks\[0\]\.scene: Field required"),
    ],
)
def test_a_mistake_in_a_suite_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\npack: simpler\n{text}\n")
    with pytest.raises(ValueError, match=complaint) as caught:
        load_suite(path)
    assert "\n" not in str(caught.value)


def test_results_judged_differently_are_never_mixed(tmp_path: Path) -> None:
    task = TwinTask(name="stack", scene="stack_cube")
    first = SimplerSuite(name="s", pack="simpler", success="first", tasks=(task,))
    Journal(tmp_path / "a.episodes.jsonl", first, "m", True)
    for other in (first.model_copy(update={"success": "last"}), first.limited(60)):
        with pytest.raises(ValueError, match="another model or suite"):
            Journal(tmp_path / "a.episodes.jsonl", other, "m", True)


def test_any_world_can_play_the_episodes() -> None:
    suite = load_suite("simpler-widowx").limited(40)
    report = evaluate(suite, "expert", "e", episodes=1, workers=1, world=fake_world.PATH, progress=False)
    assert report.episodes == 6 and report.success == "last"


# ---- with assets


@with_assets
def test_playing_recorded_actions_twice_reaches_the_same_states(simulator: SimWorker) -> None:
    scene = TwinScene(twin="carrot_on_plate", seed=5)
    simulator.reset(scene, False)
    first = [simulator.state()]
    actions = []
    for _ in range(25):
        actions.append(simulator.expert_action())
        simulator.step(actions[-1], False)
        first.append(simulator.state())
    simulator.reset(TwinScene(twin="stack_cube", seed=3), False)
    simulator.step(STAY, False)
    simulator.reset(scene, False)
    again = [simulator.state()]
    for action in actions:
        simulator.step(action, False)
        again.append(simulator.state())
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(flat(one), flat(two))


@with_assets
@pytest.mark.parametrize("twin", ["spoon_on_towel", "stack_cube", "eggplant_in_basket", "baby_tool_on_plate"])
def test_the_expert_solves_an_episode(simulator: SimWorker, twin: str) -> None:
    scene = TwinScene(twin=twin, seed=12, step_limit=90)
    simulator.reset(scene, False)
    result = simulator.step(STAY, False)
    while not result.done:
        result = simulator.step(simulator.expert_action(), False)
    assert result.success and 10 < result.observation.step < 90


@with_assets
def test_last_means_the_whole_episode(simulator: SimWorker) -> None:
    simulator.reset(TwinScene(twin="stack_cube", seed=0, step_limit=45, ending="last"), False)
    results = [simulator.step(simulator.expert_action(), False) for _ in range(45)]
    assert [result.done for result in results] == [False] * 44 + [True]
    assert not any(result.success for result in results[:-1]) and results[-1].success


@with_assets
def test_frames_show_robot_and_objects_on_the_photo(simulator: SimWorker) -> None:
    from PIL import Image

    photos = OFFICIAL / "data" / twin_assets.BRIDGE / "real_inpainting"
    for twin, photo in (("eggplant_in_basket", "bridge_sink"), ("carrot_on_plate", "bridge_real_eval_1")):
        seen = simulator.reset(TwinScene(twin=twin, seed=0))  # two twins in one process, each on its own photo
        assert seen.image is not None and seen.image.shape == (480, 640, 3)
        background = np.asarray(Image.open(photos / f"{photo}.png").convert("RGB").resize((640, 480)))
        differs = np.abs(seen.image.astype(int) - background.astype(int)).max(axis=-1) > 40
        assert 0.01 < differs.mean() < 0.15
        u, v, *_ = simulator.keypoints()["source"]
        assert differs[int(v * 480) - 6 : int(v * 480) + 6, int(u * 640) - 6 : int(u * 640) + 6].any()


@with_assets
def test_layouts_are_the_official_ones(simulator: SimWorker) -> None:
    """Places of source and target in episode 5 of each grid, from the published lists, in the world frame."""
    places = {
        "carrot_on_plate": ((-0.235, -0.075), (-0.085, 0.075)),
        "spoon_on_towel": ((-0.235, -0.075), (-0.085, 0.075)),
        "stack_cube": ((-0.21, 0.05), (-0.11, 0.05)),
    }
    for twin, expected in places.items():
        simulator.reset(TwinScene(twin=twin, seed=5), False)
        rows = simulator.state()["objects"].reshape(-1, 13)
        np.testing.assert_allclose(rows[:, :2], expected, atol=0.008)


@with_assets
def test_a_state_can_be_restored_and_proprio_is_the_commanded_pose(simulator: SimWorker) -> None:
    scene = TwinScene(twin="spoon_on_towel", seed=1)
    seen = simulator.reset(scene, False)
    assert np.abs(seen.proprio[3:6]).max() < 0.1 and seen.proprio[7] == pytest.approx(1.0, abs=0.01)
    moved = simulator.step(np.array([0.01, -0.02, 0.01, 0, 0, 0.1, 1], dtype=np.float32), False).observation
    np.testing.assert_allclose(moved.proprio[:3] - seen.proprio[:3], [0.01, -0.02, 0.01], atol=1e-5)
    assert moved.measured is not None
    lagging = widowx_proprio(moved.measured.astype(float))  # what a released model is told
    assert 0.001 < np.linalg.norm(lagging[:3] - moved.proprio[:3]) < 0.04
    assert np.abs(lagging[3:6] - moved.proprio[3:6]).max() < 0.15 and lagging[6] == 0
    assert lagging[7] == pytest.approx(moved.proprio[7])
    state = simulator.state()
    for _ in range(3):
        simulator.step(simulator.expert_action(), False)
    simulator.set_state(state)
    np.testing.assert_allclose(flat(simulator.state()), flat(state), atol=1e-5)
    assert simulator.observe(False).step == 1


@with_assets
def test_one_simulator_plays_both_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_ASSET_DIR", str(OFFICIAL))
    with SimWorker((64, 48), world=EITHER) as worker:
        own = worker.reset(SceneSpec(goal=sample_goal("pick", 1), seed=1))
        official = worker.reset(TwinScene(twin="stack_cube", seed=0))
        assert set(worker.visible_objects()) == {"baked_green_cube_3cm", "baked_yellow_cube_3cm"}
        again = worker.reset(SceneSpec(goal=sample_goal("pick", 1), seed=1))
        assert own.image is not None and official.image is not None and again.image is not None
        np.testing.assert_array_equal(own.image, again.image)
        assert np.abs(own.image.astype(int) - official.image.astype(int)).mean() > 5
