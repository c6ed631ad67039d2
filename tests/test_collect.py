"""Recordings on a toy world: the expert's action in every state, whatever was done to the robot."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sim.collect import (
    DRIVEN_STEPS,
    KEPT_STEPS,
    Noise,
    Order,
    Tally,
    collect,
    record_episode,
    render_states,
    training_scene,
)
from sim.interface import Action, Episode, Observation
from sim.tasks import Kind, SceneSpec
from sim.worker import SimWorker
from tests import fake_world
from tests.fake_world import FakeWorld

KINDS: tuple[Kind, ...] = ("open", "close")
CALM = Noise(start_chance=0.0, burst_chance=0.0)
ROUGH = Noise(start_chance=1.0, burst_chance=1.0, burst_window=8)
SIZE = (32, 24)


def recorded(seed: int, noise: Noise, render: bool = True) -> Episode:
    scene = training_scene("open", seed, noise, (0, 2), frozenset())
    return record_episode(Order(scene, noise, render), FakeWorld(SIZE))


def gathered(episodes: int = 8, workers: int = 1, **options: object) -> list[Episode]:
    settings: dict[str, object] = {"progress": False, "image_size": SIZE, "world": fake_world.PATH} | options
    return list(collect(KINDS, episodes, workers=workers, **settings))  # type: ignore[arg-type]


def same(one: Episode, two: Episode) -> bool:
    arrays = ("proprio", "actions", "executed", "perturbed", "keypoints")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays) and (
        (one.scene, one.instruction, one.states, one.frames) == (two.scene, two.instruction, two.states, two.frames)
    )


def test_every_part_has_one_row_per_step() -> None:
    episode = recorded(3, ROUGH)
    steps = len(episode.actions)
    assert episode.actions.shape == episode.executed.shape == (steps, 7)
    assert episode.proprio.shape == (steps, 8) and episode.keypoints.shape == (steps, 10)
    assert len(episode.states) == len(episode.frames) == len(episode.perturbed) == steps
    assert all(array.dtype == np.float32 for array in (episode.actions, episode.executed, episode.keypoints))
    assert Image.open(io.BytesIO(episode.frames[0])).size == SIZE


def test_the_stored_action_is_always_the_experts() -> None:
    for seed in range(6):
        episode = recorded(seed, ROUGH, render=False)
        for row, point in enumerate(episode.proprio[:, :3]):
            np.testing.assert_allclose(episode.actions[row, :3], np.clip(-point, -0.02, 0.02), atol=1e-6)
            moved = episode.executed[row, :3]
            assert np.array_equal(moved, episode.actions[row, :3]) or episode.perturbed[row]
            if row + 1 < len(episode.proprio):
                np.testing.assert_allclose(episode.proprio[row + 1, :3], point + moved, atol=1e-6)


def test_noise_is_bounded_and_optional() -> None:
    assert not any(recorded(seed, CALM).perturbed.any() for seed in range(4))
    rough = [recorded(seed, ROUGH, render=False) for seed in range(20)]
    noisy = np.concatenate([episode.executed[episode.perturbed] for episode in rough])
    assert len(noisy) > 20 and np.abs(noisy[:, :3]).max() <= ROUGH.position
    assert np.abs(noisy[:, 3:6]).max() <= ROUGH.rotation
    taught = np.concatenate([episode.actions[episode.perturbed] for episode in rough])
    flipped = (noisy[:, 6] != taught[:, 6]).mean()
    assert 0 < flipped < 0.6
    calm_start = FakeWorld(SIZE).reset(SceneSpec.model_validate(rough[0].scene)).proprio
    assert not np.array_equal(rough[0].proprio[0], calm_start)  # the start was randomised


def test_the_same_seed_gives_the_same_recording_from_any_number_of_workers() -> None:
    one, two = gathered(workers=1), gathered(workers=2)
    assert len(one) == len(two) > 4
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    seeds = [int(str(episode.scene["seed"])) for episode in one]
    assert seeds == sorted(seeds)
    assert {episode.instruction.split()[0] for episode in one} == {"open", "close"}


def test_a_collection_goes_on_where_it_stopped() -> None:
    whole = gathered(6)
    rest = gathered(6, done={0, 1, 2})
    assert [episode.scene["seed"] for episode in rest] == [
        episode.scene["seed"] for episode in whole if int(str(episode.scene["seed"])) > 2
    ]
    assert same(rest[0], next(episode for episode in whole if episode.scene["seed"] == rest[0].scene["seed"]))
    assert gathered(3, done={0, 1, 2}) == []


def test_stopping_early_ends_the_workers() -> None:
    episodes = collect(KINDS, 50, progress=False, image_size=SIZE, world=fake_world.PATH)
    next(episodes)
    episodes.close()  # type: ignore[attr-defined]


def test_failures_are_dropped_and_counted() -> None:
    tally = Tally()
    kept = gathered(6, world="tests.fake_world:Stubborn", tally=tally)
    assert [episode.scene["seed"] for episode in kept] == [0, 2, 4]
    assert tally == Tally(recorded=3, failed=[1, 3], errors=[5])


def test_frames_can_be_rendered_later() -> None:
    blind = recorded(2, ROUGH, render=False)
    assert blind.frames == []
    later = render_states(blind, FakeWorld(SIZE))
    assert len(later) == len(blind.states)
    assert later == recorded(2, ROUGH, render=True).frames


def test_a_demonstration_goes_on_until_what_was_done_has_lasted() -> None:
    for seed in range(4):
        episode = recorded(seed, CALM, render=False)
        near = np.linalg.norm(episode.proprio[:, :3], axis=1) < 0.02
        assert episode.success and near.sum() == KEPT_STEPS and near[-KEPT_STEPS:].all()


def test_evaluation_scenes_are_never_recorded() -> None:
    with pytest.raises(ValueError, match="kept for evaluation"):
        next(collect(KINDS, 10, seed_start=999_995, progress=False))
    with pytest.raises(ValueError, match="at least one task family"):
        next(collect((), 1, progress=False))


def test_the_tabletop_can_be_recorded_and_drawn_again() -> None:
    """The real simulator, in its own process: one disturbed demonstration, whose states give the same pictures."""
    scene = training_scene("pick", 4, Noise(), (1, 1), frozenset())
    with SimWorker((160, 120), deadline_s=120.0, render_threads=2) as worker:
        episode = worker.run(record_episode, Order(scene, Noise(1.0, 3, 1.0, burst_window=4), True))
        drawn = worker.run(render_states, episode)
    assert episode.success and episode.perturbed.any()
    assert episode.instruction.startswith("pick up the ")
    assert episode.keypoints.shape == (len(episode.actions), 10)
    assert len(drawn) == len(episode.frames) == len(episode.actions)
    stored = [np.asarray(Image.open(io.BytesIO(jpeg)), int) for jpeg in episode.frames]
    again = [np.asarray(Image.open(io.BytesIO(jpeg)), int) for jpeg in drawn]
    differences = [float(np.abs(one - two).mean()) for one, two in zip(stored, again, strict=True)]
    assert max(differences) < 0.1  # grey levels of 255
    assert np.std(stored[0]) > 10  # and there is something to see


class Wanderer:
    """A policy that only ever goes up."""

    def reset(self, instruction: str, seed: int = 0) -> None:
        self.instruction = instruction

    def act(self, observation: Observation) -> Action:
        assert observation.image is not None
        return np.array([0, 0, 0.01, 0, 0, 0, 1], np.float32)


def test_where_a_driver_has_led_the_expert_is_asked_and_takes_over() -> None:
    episodes = gathered(driver=Wanderer, noise=CALM)
    assert len(episodes) == 8
    for episode in episodes:
        driven = int(episode.perturbed.sum())
        assert DRIVEN_STEPS[0] <= driven <= DRIVEN_STEPS[1]
        assert episode.perturbed[:driven].all() and episode.success
        np.testing.assert_allclose(episode.executed[:driven, 2], 0.01)
        np.testing.assert_array_equal(episode.executed[driven:], episode.actions[driven:])
        for row, point in enumerate(episode.proprio[:, :3]):
            np.testing.assert_allclose(episode.actions[row, :3], np.clip(-point, -0.02, 0.02), atol=1e-6)
