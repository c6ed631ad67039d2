"""From the simulator to the training sets on disk: demonstrations, frames drawn afterwards, and still pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from model.data.episodes import EpisodeWriter, attach_frames, missing_frames
from model.data.scenes import SceneWriter
from sim.collect import EPISODE_DEADLINE_S, Tally, collect, render_states
from sim.interface import Episode, Policy
from sim.scenes import headings
from sim.tasks import KINDS, Kind, SceneSpec, Variation, sample_goal
from sim.worker import SimWorker, WorkerPool

FRAME_SIZE = (320, 240)
"""Stored frames, width and height in pixels; the nano looks at 224 x 168."""
LOOKS: frozenset[Variation] = frozenset(get_args(Variation))
MOST_STEPS = 45
"""Still pictures are taken up to this many control steps into the expert's episode, so that the arm is in them."""


def collect_episodes(
    out: Path,
    kinds: Sequence[Kind],
    episodes: int,
    seed_start: int,
    workers: int,
    render: bool,
    driver: Callable[[], Policy] | None = None,
    vary: bool = False,
) -> Tally:
    """Record demonstrations into `out`; seeds that are there already are left out, so a stopped run goes on.

    With a `driver` they are corrections: it plays first, then the expert takes over. `vary` changes light, table top
    and camera from scene to scene.

    Raises `ValueError` where the seeds reach into those reserved for evaluation.
    """
    tally = Tally()
    with EpisodeWriter(out) as writer:
        recorded = collect(
            kinds,
            episodes,
            seed_start,
            workers=workers,
            render=render,
            image_size=FRAME_SIZE,
            done=writer.done_seeds(),
            tally=tally,
            driver=driver,
            vary=LOOKS if vary else frozenset(),
        )
        for episode in recorded:
            writer.add(episode)
    return tally


def render_missing(out: Path, workers: int) -> int:
    """Draw the frames of episodes that were stored as states alone; returns how many episodes that were."""
    shards = missing_frames(out)
    if not shards:
        return 0
    with _pool(min(workers, len(shards)), len(shards), "shard") as (pool, threads, bar):

        def draw(scene: dict[str, Any], states: list[dict[str, Any]]) -> list[bytes]:
            episode = _bare(scene, states)
            return pool.attempt(lambda worker: worker.run(render_states, episode, deadline_s=EPISODE_DEADLINE_S))

        def attach(shard: int) -> int:
            rendered = attach_frames(out, draw, [shard])
            bar.update()
            return rendered

        return sum(threads.map(attach, shards))


def collect_scenes(
    out: Path, kinds: Sequence[Kind], scenes: int, seed_start: int, workers: int, vary: bool = False
) -> int:
    """Take one picture in each of `scenes` seeded scenes, with what is visible in it; returns how many are new."""
    writer = SceneWriter(out)
    done = writer.done()
    orders = [still_order(kinds, seed, vary) for seed in range(seed_start, seed_start + scenes)]
    orders = [order for order in orders if order.name not in done]
    if not orders:
        return 0
    with _pool(min(workers, len(orders)), len(orders), "picture") as (pool, threads, bar):
        for order, (jpeg, visible, turned) in zip(
            orders, threads.map(lambda order: pool.attempt(lambda worker: take(worker, order)), orders), strict=True
        ):
            goal = order.scene.goal.model_dump(exclude_none=True)
            writer.add(order.name, order.scene.seed, jpeg, visible, goal, turned)
            bar.update()
    return len(orders)


@dataclass(frozen=True)
class StillOrder:
    """One picture to take: the scene, and how many control steps the expert acts before."""

    name: str
    scene: SceneSpec
    steps: int


def still_order(kinds: Sequence[Kind], seed: int, vary: bool = False) -> StillOrder:
    """The picture of a seed: 1 to 5 further objects; one picture in three shows the untouched scene."""
    draw = np.random.default_rng([seed, 3])
    kind = kinds[seed % len(kinds)]
    look = LOOKS if vary else frozenset()
    scene = SceneSpec(goal=sample_goal(kind, seed), seed=seed, distractors=int(draw.integers(1, 6)), vary=look)
    return StillOrder(f"{seed:07d}", scene, max(0, int(draw.integers(-MOST_STEPS // 2, MOST_STEPS))))


def take(
    worker: SimWorker, order: StillOrder
) -> tuple[bytes, dict[str, list[float]], dict[str, tuple[float, float]]]:
    """Play the order; returns the JPEG, object id -> (u, v, x, y, z), and `sim.scenes.headings`."""
    worker.reset(order.scene)
    for _ in range(order.steps):
        if worker.step(worker.expert_action(), render=False).done:
            break
    worker.observe()
    visible = {name: list(place) for name, place in worker.visible_objects().items()}
    return worker.last_jpeg, visible, worker.run(headings)


def parse_kinds(names: str) -> list[Kind]:
    """Task families from "pick,stack"; "all" means every one. Raises `ValueError` naming an unknown family."""
    if names == "all":
        return list(KINDS)
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in KINDS]
    if unknown:
        raise ValueError(f"There is no task family {unknown[0]!r}; choose among {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in wanted]


def _bare(scene: dict[str, Any], states: list[dict[str, Any]]) -> Episode:
    """What `render_states` reads of an episode, and nothing else."""
    none = np.zeros((0,), np.float32)
    return Episode(scene, "", True, none, none, none, none.astype(np.bool_), none, states)


@contextmanager
def _pool(workers: int, total: int, unit: str) -> Iterator[tuple[WorkerPool, ThreadPoolExecutor, tqdm]]:
    with (
        WorkerPool(workers, FRAME_SIZE, EPISODE_DEADLINE_S) as pool,
        ThreadPoolExecutor(workers) as threads,
        tqdm(total=total, unit=unit) as bar,
    ):
        try:
            yield pool, threads, bar
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.close()
            raise
