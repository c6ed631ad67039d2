"""Record the scripted expert: demonstrations that also show how to get back on the path.

A policy trained on perfect demonstrations never sees the states its own small errors lead to. So half of the episodes
start from a random arm pose and half are disturbed by short bursts of random actions. In every state the *expert's*
action is stored (as in DART, arXiv 1703.09327, and DAgger): the noise is what happens, never what is taught.

A demonstration goes on a little after its success, so that it also shows how to keep what is done.

A learned policy's own errors are better noise still. Where a `driver` is given it plays each episode's first steps, and
the expert takes over wherever that has led (DAgger with interventions, arXiv 1011.0686).

Without a driver whole episodes run inside the simulator processes; only finished ones cross the pipe.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from sim.interface import Action, Episode, Policy
from sim.process import Simulator, encode_jpeg
from sim.suite import EVALUATION_SEEDS
from sim.tasks import Kind, SceneSpec, Variation, sample_goal
from sim.worker import TABLETOP, SimWorker, WorkerError, WorkerPool, WorkerStartError

log = logging.getLogger(__name__)

FRAME_QUALITY = 92
"""JPEG quality of stored frames (Pillow)."""
EPISODE_DEADLINE_S = 300.0
"""A rendered episode takes seconds; this only catches a hung renderer."""
KEPT_STEPS = 8
"""Control steps that are recorded after a success, which has to last through them."""
DRIVEN_STEPS = (4, 45)
"""Fewest and most steps that a driver plays before the expert takes over; most episodes end by then."""


@dataclass(frozen=True)
class Noise:
    """How far off the expert's path recordings go. A random action drifts one way, so that it really leads somewhere.

    start_chance: share of episodes whose arm first takes up to `start_steps` unrecorded random actions.
    burst_chance: share of episodes with 1..`bursts` bursts of 1..`burst_steps` random actions, each of which
        begins among the first `burst_window` steps (most episodes are over soon after).
    position: largest translation per axis and step [m]; rotation: largest roll, pitch and yaw [rad].
    flip_chance: share of bursts in which the gripper also does the opposite of what the expert wants.
    """

    start_chance: float = 0.5
    start_steps: int = 5
    burst_chance: float = 0.5
    bursts: int = 3
    burst_steps: int = 4
    burst_window: int = 20
    position: float = 0.03
    rotation: float = 0.1
    flip_chance: float = 0.2


@dataclass(frozen=True)
class Order:
    """One episode to record."""

    scene: SceneSpec
    noise: Noise
    render: bool


@dataclass
class Tally:
    """What became of the episodes that were asked for; failed ones are dropped, errors could not be played."""

    recorded: int = 0
    failed: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)


def collect(
    kinds: Sequence[Kind],
    episodes: int,
    seed_start: int = 0,
    *,
    workers: int = 2,
    noise: Noise = Noise(),
    distractors: tuple[int, int] = (0, 2),
    vary: frozenset[Variation] = frozenset(),
    render: bool = True,
    image_size: tuple[int, int] = (320, 240),
    done: Container[int] = frozenset(),
    tally: Tally | None = None,
    driver: Callable[[], Policy] | None = None,
    progress: bool = True,
    world: str = TABLETOP,
) -> Iterator[Episode]:
    """Record seeds `seed_start` .. `seed_start + episodes - 1`, families in turn, and yield successes in seed order.

    What an episode holds depends on its seed and these settings alone, so a run can stop anywhere and go on later.

    Args:
        kinds: task families; seed s plays `kinds[s % len(kinds)]`.
        noise: disturbances; `Noise(start_chance=0, burst_chance=0)` records the undisturbed expert.
        distractors: smallest and largest number of further objects, drawn from the seed.
        render: store frames now; otherwise `render_states` can draw them later, anywhere.
        image_size: (width, height) of stored frames in pixels.
        done: seeds to leave out, because they are on disk already.
        tally: counts what happened, failures included.
        driver: makes the policy that plays an episode's first `DRIVEN_STEPS`; such steps count as perturbed. Needs
            `render`.

    Raises:
        ValueError: the seeds reach into those reserved for evaluation, or there is no family.
        WorkerStartError: the simulator cannot be built here.
    """
    if not kinds:
        raise ValueError("Name at least one task family to record.")
    if seed_start < 0 or seed_start + episodes > EVALUATION_SEEDS.start:
        raise ValueError(f"Recorded seeds lie in 0..{EVALUATION_SEEDS.start - 1}; larger ones are kept for evaluation.")
    tally = tally if tally is not None else Tally()
    orders = [
        Order(training_scene(kinds[seed % len(kinds)], seed, noise, distractors, vary), noise, render)
        for seed in range(seed_start, seed_start + episodes)
        if seed not in done
    ]
    if not orders:
        return
    with (
        WorkerPool(min(workers, len(orders)), image_size, EPISODE_DEADLINE_S, world) as pool,
        ThreadPoolExecutor(pool.size) as threads,
        tqdm(total=episodes, initial=episodes - len(orders), unit="ep", disable=not progress) as bar,
    ):
        waiting = iter(orders)
        window: deque[tuple[Order, Future[Episode]]] = deque()
        try:
            while True:
                while len(window) < 4 * pool.size and (order := next(waiting, None)):  # bounds what waits in memory
                    window.append((order, threads.submit(_attempt, pool, order, driver)))
                if not window:
                    return
                order, future = window.popleft()
                episode = _settle(order, future, tally)
                bar.update()
                bar.set_postfix_str(f"{len(tally.failed)} failed, {len(tally.errors)} errors")
                if episode is not None:
                    yield episode
        finally:  # also when the caller stops listening
            threads.shutdown(wait=False, cancel_futures=True)
            pool.close()


def training_scene(
    kind: Kind, seed: int, noise: Noise, distractors: tuple[int, int], vary: frozenset[Variation]
) -> SceneSpec:
    """The scene of one recording; it gets more steps than an evaluated one, since disturbances cost some, and goes on
    after a success."""
    low, high = distractors
    rng = np.random.default_rng([seed, 1])
    scene = SceneSpec(goal=sample_goal(kind, seed), seed=seed, distractors=int(rng.integers(low, high + 1)), vary=vary)
    extra = noise.start_steps + 3 * noise.bursts * noise.burst_steps + KEPT_STEPS
    return scene.model_copy(update={"step_limit": scene.limit + extra, "ending": "last"})


def record_episode(order: Order, world: Simulator | SimWorker, driver: Policy | None = None) -> Episode:
    """Play one episode with the expert, until `KEPT_STEPS` after its first success, and write down every step.

    `success` says whether the rule holds at the end.

    Runs inside a simulator process, or beside one where a `driver` plays the first steps instead of random bursts.
    """
    rng = np.random.default_rng([order.scene.seed, 2])
    noise = order.noise
    world.reset(order.scene, render=False)
    if rng.random() < noise.start_chance:
        drift = _drift(rng, noise)
        for _ in range(int(rng.integers(1, noise.start_steps + 1))):
            world.step(_random_action(rng, noise, drift, 1.0), render=False)
    observation = world.observe(render=order.render)
    schedule = _bursts(rng, noise) if driver is None else {}
    driven = 0
    if driver is not None:
        driven = int(rng.integers(DRIVEN_STEPS[0], DRIVEN_STEPS[1] + 1))
        driver.reset(order.scene.text, order.scene.seed)

    rows: list[tuple[np.ndarray, ...]] = []
    states: list[dict[str, list[float]]] = []
    frames: list[bytes] = []
    success = done = False
    left = KEPT_STEPS
    while not done and left:
        expert = np.asarray(world.expert_action(), np.float32)
        burst = schedule.get(len(rows))
        executed = expert
        if burst is not None:
            grip = 1.0 - expert[6] if burst.flip else expert[6]
            executed = _random_action(rng, noise, burst.drift, grip)
        if driver is not None and len(rows) < driven:
            executed = np.asarray(driver.act(observation), np.float32)
        points = world.keypoints()
        rows.append(
            (observation.proprio, expert, executed, np.asarray([*points["source"], *points["target"]], np.float32))
        )
        states.append({name: np.asarray(value, float).tolist() for name, value in world.state().items()})
        if observation.image is not None:
            frames.append(encode_jpeg(observation.image, FRAME_QUALITY))
        left -= success or left < KEPT_STEPS
        result = world.step(executed, render=order.render)
        observation, success, done = result.observation, result.success, result.done

    proprio, actions, taken, keypoints = (np.stack(column).astype(np.float32) for column in zip(*rows, strict=True))
    return Episode(
        scene=order.scene.model_dump(mode="json") | {"vary": sorted(order.scene.vary)},
        instruction=order.scene.text,
        success=success,
        proprio=proprio,
        actions=actions,
        executed=taken,
        perturbed=np.asarray([step < driven or step in schedule for step in range(len(rows))]),
        keypoints=keypoints,
        states=states,
        frames=frames,
    )


def render_states(episode: Episode, world: Simulator) -> list[bytes]:
    """Draw the frames of an episode that was stored as states alone: one JPEG per step, at the world's image size.

    Runs inside a simulator process: `worker.run(render_states, episode, deadline_s=...)`.
    """
    world.reset(SceneSpec.model_validate(episode.scene), render=False)
    frames = []
    for state in episode.states:
        world.set_state({name: np.asarray(value) for name, value in state.items()})
        image = world.observe().image
        assert image is not None
        frames.append(encode_jpeg(image, FRAME_QUALITY))
    return frames


@dataclass(frozen=True)
class _Burst:
    drift: np.ndarray
    flip: bool


def _bursts(rng: np.random.Generator, noise: Noise) -> dict[int, _Burst]:
    """Step number -> the burst it belongs to."""
    schedule: dict[int, _Burst] = {}
    if rng.random() >= noise.burst_chance:
        return schedule
    for _ in range(int(rng.integers(1, noise.bursts + 1))):
        burst = _Burst(_drift(rng, noise), bool(rng.random() < noise.flip_chance))
        first = int(rng.integers(0, noise.burst_window))
        for step in range(first, first + int(rng.integers(1, noise.burst_steps + 1))):
            schedule[step] = burst
    return schedule


def _drift(rng: np.random.Generator, noise: Noise) -> np.ndarray:
    """(6,) direction of a burst; half of what a random action may be."""
    return rng.uniform(-0.5, 0.5, 6) * np.repeat([noise.position, noise.rotation], 3)


def _random_action(rng: np.random.Generator, noise: Noise, drift: np.ndarray, grip: float) -> Action:
    return np.append(drift + _drift(rng, noise), grip).astype(np.float32)


def _attempt(pool: WorkerPool, order: Order, driver: Callable[[], Policy] | None) -> Episode:
    def job(worker: SimWorker) -> Episode:
        return worker.run(record_episode, order) if driver is None else record_episode(order, worker, driver())

    return pool.attempt(job)


def _settle(order: Order, future: Future[Episode], tally: Tally) -> Episode | None:
    """Wait for an episode and count it; None when it failed."""
    try:
        episode = future.result()
    except WorkerStartError:
        raise
    except (WorkerError, ValueError) as error:  # ValueError: a scene that cannot be laid out
        log.warning("seed %d is left out: %s", order.scene.seed, error)
        tally.errors.append(order.scene.seed)
        return None
    if not episode.success:
        tally.failed.append(order.scene.seed)
        return None
    tally.recorded += 1
    return episode
