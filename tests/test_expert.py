"""The scripted expert: it succeeds, it is gentle, and it finds its way back from anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sim.expert import STEP, TURN
from sim.scenes import Tabletop, headings
from sim.tasks import KINDS, SceneSpec, sample_goal


@pytest.fixture(scope="module")
def table() -> Iterator[Tabletop]:
    tabletop = Tabletop(image_size=(64, 48))
    yield tabletop
    tabletop.close()


@pytest.mark.parametrize("kind", KINDS)
def test_expert_solves_every_family_in_small_steps(table: Tabletop, kind: str) -> None:
    solved = 0
    for seed in range(5):
        table.reset(SceneSpec(goal=sample_goal(kind, seed), seed=seed, distractors=2), render=False)
        done = success = False
        while not done:
            action = table.expert_action()
            assert np.linalg.norm(action[:3]) <= STEP + 1e-6
            assert np.linalg.norm(action[3:6]) <= TURN + 1e-3
            assert 0.0 <= action[6] <= 1.0
            result = table.step(action, render=False)
            done, success = result.done, result.success
        solved += success
    assert solved >= 4


def test_what_the_expert_has_done_to_a_drawer_lasts(table: Tabletop) -> None:
    """It goes on being asked after its success, as demonstrations do, and does not pull at the drawer again."""
    for kind in ("open", "close"):
        for seed in range(4):
            table.reset(SceneSpec(goal=sample_goal(kind, seed), seed=seed, ending="last"), render=False)
            outcomes = [table.step(table.expert_action(), render=False).success for _ in range(50)]
            first = outcomes.index(True)
            assert first < 40 and all(outcomes[first:]), (kind, seed)


def test_expert_has_no_memory(table: Tabletop) -> None:
    """The answer in a state does not depend on how it was reached, or on having been asked before."""
    spec = SceneSpec(goal=sample_goal("put_in", 2), seed=2)
    table.reset(spec, render=False)
    for _ in range(5):
        table.step(table.expert_action(), render=False)
    state, action = table.state(), table.expert_action()
    np.testing.assert_array_equal(table.expert_action(), action)
    table.reset(spec, render=False)
    table.set_state(state)
    np.testing.assert_allclose(table.expert_action(), action, atol=1e-4)


def test_expert_reopens_a_gripper_that_closed_on_nothing(table: Tabletop) -> None:
    table.reset(SceneSpec(goal=sample_goal("pick", 3), seed=3, distractors=0), render=False)
    for _ in range(5):
        table.step(np.array([0, 0, 0.01, 0, 0, 0, 0], dtype=np.float32), render=False)
    assert table.snapshot().opening < 0.1
    assert table.expert_action()[6] == 1.0


@pytest.mark.parametrize("kind", ["pick", "put_on", "near"])
def test_expert_recovers_from_a_shove(table: Tabletop, kind: str) -> None:
    solved = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        spec = SceneSpec(goal=sample_goal(kind, seed + 20), seed=seed + 20, distractors=0, step_limit=80)
        table.reset(spec, render=False)
        shove = np.array([*generator.normal(0, 0.015, 3), 0, 0, 0.08, seed % 2], dtype=np.float32)
        done = success = False
        for step in range(80):
            result = table.step(shove if 9 <= step < 12 else table.expert_action(), render=False)
            done, success = result.done, result.success
            if done:
                break
        solved += success
    assert solved >= 3


def test_a_heading_is_the_yaw_at_which_the_expert_grasps(table: Tabletop) -> None:
    seen = set()
    for kind, seed in (("pick", 0), ("pick", 1), ("stack", 0), ("stack", 3), ("put_on", 4), ("put_on", 7)):
        goal = sample_goal(kind, seed)
        table.reset(SceneSpec(goal=goal, seed=seed), render=False)
        yaw, period = headings(table)[goal.source or ""]
        while (state := table.snapshot()).opening > 0.9:
            table.step(table.expert_action(), render=False)
        if period:
            missed = (float(state.tool_rotation.as_euler("XYZ")[2]) - yaw + period / 2) % period - period / 2
            assert abs(missed) < 0.3
        seen.add(round(period, 2))
    assert {round(np.pi, 2), round(np.pi / 2, 2)} <= seen, "long things and square ones were among them"
