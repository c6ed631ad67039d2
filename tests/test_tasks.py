"""Goals, their words, and scenes as data: no simulator needed."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from sim import objects
from sim.layout import AREA, draw_distractors, draw_layout
from sim.tasks import DRAWERS, KINDS, STEP_LIMITS, Goal, SceneSpec, goals, instruction, rule, sample_goal


def test_templates_name_the_things() -> None:
    assert (
        instruction(Goal(kind="put_on", source="carrot", target="white_plate")) == "put the carrot on the white plate"
    )
    assert instruction(Goal(kind="pick", source="lemon")) == "pick up the lemon"
    assert instruction(Goal(kind="open", target="top")) == "open the top drawer"
    assert "top drawer" in rule(Goal(kind="close", target="top"))


@pytest.mark.parametrize(
    "fields",
    [
        dict(kind="pick", source="cabinet"),
        dict(kind="pick", source="unicorn"),
        dict(kind="pick", source="carrot", target="white_plate"),
        dict(kind="open", target="upper"),
        dict(kind="put_on", source="carrot", target="bowl"),
        dict(kind="put_in", source="carrot"),
        dict(kind="stack", source="red_cube", target="red_cube"),
        dict(kind="stack", source="red_cube", target="lemon"),
    ],
)
def test_impossible_goals_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Goal(**fields)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_goals_repeat_and_cover_the_family(kind: str) -> None:
    drawn = [sample_goal(kind, seed) for seed in range(40)]
    assert drawn == [sample_goal(kind, seed) for seed in range(40)]
    assert set(drawn) <= set(goals(kind))
    assert len(set(drawn)) >= min(3, len(goals(kind)))


def test_every_graspable_and_target_takes_part() -> None:
    named = {name for kind in KINDS for goal in goals(kind) for name in (goal.source, goal.target)}
    things = objects.catalog().values()
    assert {info.id for info in things if info.role != "fixture" and not info.unseen} | set(DRAWERS) <= named
    assert not named & {info.id for info in things if info.unseen}


def test_scene_spec_fills_in_text_and_limit() -> None:
    goal = Goal(kind="pick", source="lemon")
    assert SceneSpec(goal=goal, seed=1).text == "pick up the lemon"
    assert SceneSpec(goal=goal, seed=1).limit == STEP_LIMITS["pick"]
    named = SceneSpec(goal=goal, seed=1, instruction="the sour one, please", step_limit=7)
    assert (named.text, named.limit) == ("the sour one, please", 7)
    for bad in (dict(distractors=6), dict(seed=-1), dict(objects=("lemon",)), dict(objects=("cabinet",))):
        with pytest.raises(ValidationError):
            SceneSpec(**{"goal": goal, "seed": 1, **bad})


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_repeat_and_keep_things_apart(kind: str) -> None:
    for seed in range(25):
        spec = SceneSpec(goal=sample_goal(kind, seed), seed=seed, distractors=3)
        layout = draw_layout(spec)
        assert layout == draw_layout(spec)
        wanted = {spec.goal.source, spec.goal.target} - {None, *DRAWERS}
        assert wanted <= set(layout.poses)
        places = list(layout.poses.items())
        for index, (name, (x, y, _)) in enumerate(places):
            assert AREA[0][0] <= x <= AREA[0][1]
            for other, (other_x, other_y, _) in places[:index]:
                narrow = min(objects.get(name).size[:2]) / 2 + min(objects.get(other).size[:2]) / 2
                assert np.hypot(x - other_x, y - other_y) >= narrow


def test_distractors_never_look_like_the_goal() -> None:
    for seed in range(60):
        spec = SceneSpec(goal=sample_goal("stack", seed), seed=seed, distractors=5)
        extra = draw_distractors(spec, np.random.default_rng(seed))
        assert len(extra) == len(set(extra)) == 5
        looks = [(objects.get(name).name, objects.get(name).colours) for name in (spec.goal.source, spec.goal.target)]
        assert not {(objects.get(name).name, objects.get(name).colours) for name in extra} & set(looks)


def test_varying_the_look_leaves_the_poses_alone() -> None:
    goal = sample_goal("put_in", 3)
    plain = draw_layout(SceneSpec(goal=goal, seed=3))
    varied = draw_layout(SceneSpec(goal=goal, seed=3, vary=frozenset({"light", "texture", "camera"})))
    assert varied.poses == plain.poses
    assert varied.camera_shift != plain.camera_shift
    assert varied.light_direction != plain.light_direction
    assert max(np.abs(varied.camera_shift)) <= 0.01
    assert max(np.abs(varied.camera_turn)) <= np.deg2rad(1)
