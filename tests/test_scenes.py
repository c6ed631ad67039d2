"""The tabletop: repeatable scenes, restorable states, the declared rules, the camera."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from sim.disturb import Disturbance, disturbances, find
from sim.layout import draw_layout
from sim.objects import catalog
from sim.scenes import Tabletop
from sim.tasks import Goal, SceneSpec, sample_goal
from sim.twins import TwinScene
from sim.world import World

STAY = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)


@pytest.fixture(scope="module")
def table() -> Iterator[Tabletop]:
    tabletop = Tabletop(image_size=(160, 120))
    yield tabletop
    tabletop.close()


@pytest.fixture(scope="module")
def reference(table: Tabletop) -> Iterator[World]:
    """The same world, drawn by SAPIEN's default shader; built after `table`, whose own it must not change."""
    world = World((160, 120), "default")
    yield world
    world.close()


def _flat(state: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([state[name] for name in sorted(state)])


@pytest.mark.parametrize("kind", ["put_in", "open"])
def test_same_seed_same_scene(table: Tabletop, kind: str) -> None:
    spec = SceneSpec(goal=sample_goal(kind, 5), seed=5, distractors=3)
    first = table.reset(spec)
    state = _flat(table.state())
    table.reset(SceneSpec(goal=sample_goal("stack", 6), seed=6, distractors=4))
    for _ in range(5):
        table.step(table.expert_action(), render=False)
    again = table.reset(spec)
    np.testing.assert_array_equal(_flat(table.state()), state)
    np.testing.assert_array_equal(again.proprio, first.proprio)
    np.testing.assert_array_equal(again.image, first.image)


@pytest.mark.parametrize("kind", ["put_on", "open"])
def test_the_faster_shader_draws_the_same_picture(table: Tabletop, reference: World, kind: str) -> None:
    spec = SceneSpec(goal=sample_goal(kind, 3), seed=3, distractors=4, vary=frozenset({"light", "texture"}))
    seen = table.reset(spec).image
    reference.arrange(draw_layout(spec))
    assert seen is not None
    apart = np.abs(seen.astype(int) - reference.picture().astype(int))
    assert apart.mean() < 1, "grey levels"
    assert (apart.max(-1) > 16).mean() < 0.005, "share of the pixels, at edges"


def test_frames_and_proprioception_have_their_declared_shape(table: Tabletop) -> None:
    seen = table.reset(SceneSpec(goal=sample_goal("pick", 1), seed=1))
    assert seen.image is not None and seen.image.shape == (120, 160, 3) and seen.image.dtype == np.uint8
    assert seen.image.std() > 10
    assert seen.proprio.shape == (8,) and seen.proprio.dtype == np.float32
    assert np.abs(seen.proprio[3:6]).max() < 0.1
    assert seen.proprio[7] == pytest.approx(1.0, abs=0.01)
    result = table.step(STAY, render=False)
    assert result.observation.image is None and result.observation.step == 1


def test_an_action_moves_the_tool_in_the_base_frame(table: Tabletop) -> None:
    table.reset(SceneSpec(goal=sample_goal("pick", 2), seed=2, distractors=0), render=False)
    before = table.snapshot()
    table.step(np.array([0.01, 0.02, 0.01, 0, 0, 0.1, 0], dtype=np.float32), render=False)
    for _ in range(8):
        table.step(np.zeros(7, dtype=np.float32), render=False)
    after = table.snapshot()
    np.testing.assert_allclose(after.tool - before.tool, [0.01, 0.02, 0.01], atol=0.003)
    turned = after.tool_rotation * before.tool_rotation.inv()
    np.testing.assert_allclose(turned.as_rotvec(), [0, 0, 0.1], atol=0.02)
    assert after.opening < 0.05


def test_a_state_can_be_restored_and_continued(table: Tabletop) -> None:
    spec = SceneSpec(goal=sample_goal("put_on", 4), seed=4)
    table.reset(spec)
    for _ in range(6):
        table.step(table.expert_action(), render=False)
    state, seen, action = table.state(), table.observe(), table.expert_action()
    for _ in range(4):
        table.step(STAY, render=False)
    table.reset(spec)
    table.set_state({name: values.tolist() for name, values in state.items()})
    np.testing.assert_allclose(_flat(table.state()), _flat(state), atol=1e-5)
    np.testing.assert_allclose(table.expert_action(), action, atol=1e-4)
    assert seen.image is not None
    shown = table.observe()
    assert shown.step == 6 and shown.image is not None
    assert np.abs(shown.image.astype(int) - seen.image.astype(int)).mean() < 1.0


def test_doing_nothing_ends_at_the_limit_without_success(table: Tabletop) -> None:
    table.reset(SceneSpec(goal=Goal(kind="close", target="top"), seed=0, step_limit=4), render=False)
    results = [table.step(STAY, render=False) for _ in range(4)]
    assert [result.done for result in results] == [False, False, False, True]
    assert not any(result.success for result in results)


def test_success_needs_two_steps_in_a_row(table: Tabletop) -> None:
    table.reset(SceneSpec(goal=Goal(kind="put_on", source="red_cube", target="towel"), seed=8), render=False)
    things = table.snapshot().things
    state = table.state()
    rows = state["objects"].reshape(-1, 13)
    order = list(table.layout.poses)
    rows[order.index("red_cube"), :3] = rows[order.index("towel"), :3] + (0.0, 0.0, things["towel"].info.size[2])
    table.set_state(state)
    results = [table.step(STAY, render=False) for _ in range(4)]
    first = [result.success for result in results].index(True)
    assert first >= 1 and results[first].done


def test_things_on_the_way_are_in_view_and_where_keypoints_say(table: Tabletop) -> None:
    for seed in range(8):
        table.reset(SceneSpec(goal=sample_goal("put_on", seed), seed=seed), render=False)
        for point in table.keypoints().values():
            u, v = tuple(point)[:2]
            assert 0.0 < u < 1.0 and 0.0 < v < 1.0


def test_only_the_scene_is_drawn(table: Tabletop) -> None:
    """A scene with one more object differs from the scene without it only near that object."""
    goal = Goal(kind="pick", source="lemon")
    bare = table.reset(SceneSpec(goal=goal, seed=3, distractors=0)).image
    more = table.reset(SceneSpec(goal=goal, seed=3, objects=("red_can",))).image
    assert bare is not None and more is not None
    changed = (np.abs(bare.astype(int) - more.astype(int)).max(axis=-1) > 12).mean()
    assert 0.002 < changed < 0.12


def test_bad_actions_are_refused_in_words(table: Tabletop) -> None:
    table.reset(SceneSpec(goal=sample_goal("pick", 0), seed=0), render=False)
    for bad in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(ValueError, match="7 finite numbers"):
            table.step(bad)


def test_the_catalog_is_as_large_as_promised() -> None:
    roles = [info.role for info in catalog().values()]
    assert roles.count("graspable") >= 24 and roles.count("target") >= 8 and roles.count("fixture") == 1


def change(scene: SceneSpec, kind: str) -> Disturbance:
    return next(one for one in disturbances(scene) if one.kind == kind)


def test_nudged_and_swapped_things_lie_where_they_were_put_and_nothing_else_moves(table: Tabletop) -> None:
    scene = SceneSpec(goal=sample_goal("put_on", 1_000_000), seed=1_000_000)
    for kind in ("nudge", "swap"):
        table.reset(scene, render=False)
        before, chosen = table.snapshot().things, change(scene, kind)
        table.disturb(chosen)
        put = table.snapshot().things
        for _ in range(3):
            table.step(STAY, render=False)
        after = table.snapshot().things
        for name in before:
            moved = float(np.linalg.norm((put[name].position - before[name].position)[:2]))
            assert (moved > 0.03) == (name in chosen.things), (kind, name, moved)
            assert float(np.linalg.norm(after[name].position - put[name].position)) < 0.01, "it lies still"
    one, two = chosen.things
    assert float(np.linalg.norm((after[one].position - before[two].position)[:2])) < 0.09, "they changed places"


def test_the_same_changes_give_the_same_pictures_and_each_kind_shows(table: Tabletop) -> None:
    scene = SceneSpec(goal=sample_goal("pick", 3), seed=3)
    shown = []
    for _ in range(2):
        pictures = [table.reset(scene).image]
        pictures += [table.disturb(change(scene, kind)).image for kind in ("light", "texture", "camera")]
        shown.append(pictures)
    for first, second in zip(*shown, strict=True):
        np.testing.assert_array_equal(first, second)
    for before, after in pairwise(shown[0]):
        assert np.abs(after.astype(int) - before.astype(int)).mean() > 4


def test_a_nudge_does_not_count_as_moving_it(table: Tabletop) -> None:
    """The rule "was moved" asks what the robot did."""
    scene = SceneSpec(goal=Goal(kind="near", source="carrot", target="eggplant"), seed=4, distractors=0)
    table.reset(scene, render=False)
    table.disturb(change(scene, "nudge"))
    np.testing.assert_array_equal(table._first["eggplant"].position, table.snapshot().things["eggplant"].position)
    assert not any(table.step(STAY, render=False).success for _ in range(4))


def test_what_the_robot_holds_stays_and_what_is_not_there_cannot_be_changed(table: Tabletop) -> None:
    scene = SceneSpec(goal=sample_goal("pick", 1_000_000), seed=1_000_000)
    table.reset(scene, render=False)
    for _ in range(scene.limit):
        if table.step(table.expert_action(), render=False).done:
            break
    held = Disturbance("nudge", (scene.goal.source or "",))
    with pytest.raises(ValueError, match="The robot holds the"):
        table.disturb(held)
    with pytest.raises(ValueError, match="goes by"):
        find(scene, "nudge the moon")
    assert [one for one in disturbances(scene) if find(scene, one.text) != one] == []


def test_official_scenes_stay_as_they_are() -> None:
    twin = TwinScene(twin="stack_cube", seed=0)
    assert disturbances(twin) == []
    with pytest.raises(ValueError, match="official scenes stay as they are"):
        find(twin, "change the light")
