"""Play a suite with a policy and say how often it succeeds, and how sure one can be of that.

Episodes run in parallel simulators; the policy stays in this process, where all episodes share its weights. An episode
depends on its scene seed alone, so the number of workers changes the time and nothing else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from sim.interface import Action, Observation, Policy, StepResult
from sim.suite import Suite, Task
from sim.twins import Scene, TwinScene
from sim.worker import SimWorker, WorkerError, WorkerPool, WorkerStartError

T = TypeVar("T")
PolicyFactory = Callable[[], Policy]
"""Makes the policy of one episode. Policies of several episodes act at the same time from several threads; those that
share weights share a lock. A policy with `needs_image` False before a step gets that step without an image."""


class Pool(AbstractContextManager["Pool"], Protocol):
    """The part of `sim.worker.WorkerPool` used here."""

    size: int

    def attempt(self, job: Callable[[SimWorker], T]) -> T: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode. `seconds` is the control loop alone; `error` a simulator failure (then no success)."""

    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class TaskReport:
    """One task: counts, 95 % Wilson interval, mean length and achieved control rate.

    Episodes lost to simulator failures (`errors`) stay in `episodes`, so they can never raise the rate. `mean_steps`
    covers the played ones, failed or not; `control_hz` is control steps per second of wall time within one episode.
    """

    name: str
    successes: int
    episodes: int
    errors: int
    success_rate: float
    wilson_low: float
    wilson_high: float
    mean_steps: float
    control_hz: float
    group: str = ""


@dataclass(frozen=True)
class Report:
    """The result of `evaluate`; `mean_success` is the unweighted mean of the tasks' rates, 0..1."""

    model: str
    suite: str
    success: str
    mean_success: float
    episodes: int
    errors: int
    control_hz: float
    tasks: list[TaskReport]
    results: list[EpisodeResult]

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote. Raises ValueError for anything else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tasks = [TaskReport(**task) for task in content.pop("tasks")]
            return cls(tasks=tasks, results=[EpisodeResult(**result) for result in content.pop("results")], **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no report of `evaluate --json` ({type(error).__name__}: {error}).") from None

    def save(self, path: Path) -> None:
        """Write as JSON, in one move, so that a reader never meets half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)


class ExpertPolicy:
    """The scripted expert as a policy: it asks the simulator, so it needs one and no image."""

    needs_image = False

    def __init__(self, worker: SimWorker) -> None:
        self._worker = worker

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Nothing to forget: the expert reads the simulator's state."""

    def act(self, observation: Observation) -> Action:
        """The expert's action for the simulator's present state."""
        return self._worker.expert_action()


def wilson(successes: float, episodes: int) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate; (0, 1) when nothing was played."""
    from statsmodels.stats.proportion import proportion_confint  # brings pandas: seconds, so only when needed

    if episodes == 0:
        return 0.0, 1.0
    low, high = proportion_confint(successes, episodes, alpha=0.05, method="wilson")
    return float(low), float(high)


def evaluate(
    suite: Suite,
    make_policy: PolicyFactory | Literal["expert"],
    model: str,
    *,
    episodes: int | None = None,
    workers: int = 2,
    json_path: Path | None = None,
    resume: bool = True,
    progress: bool = True,
    record: bool = False,
    on_episode: Callable[[EpisodeResult, list[bytes]], None] | None = None,
    image_size: tuple[int, int] = (640, 480),
    world: str | None = None,
    open_pool: Callable[..., Pool] = WorkerPool,
) -> Report:
    """Play every task of the suite and report.

    Args:
        make_policy: factory of policies, or "expert" for the scripted expert.
        model: what the report calls the policy; an unfinished run is resumed only under the same name, so it should
            change with the weights.
        episodes: seeds per task; None plays as many as the suite says.
        workers: simulators side by side.
        json_path: where the report goes. Finished episodes are kept beside it in `<name>.episodes.jsonl` until the run
            is complete, and with `resume` they are not played again.
        record: render every step, also those whose image the policy does not need.
        on_episode: called in this thread after each newly played episode with its JPEG frames, first to last.
        image_size: (width, height) of the frames in pixels.
        world: another simulator than the suite's own, as "module:callable".
        open_pool: where the simulators are, here or (`sim.cluster.RayPool`) elsewhere; `make_policy` is called there.

    Raises:
        ValueError: the kept episodes belong to another run, a scene is impossible, or its assets are not here.
        WorkerStartError: the simulator cannot be built here.
    """
    if world is None:
        suite.require_assets()
    scenes = list(suite.scenes(episodes))
    journal = Journal(json_path.with_suffix(".episodes.jsonl"), suite, model, resume) if json_path else None
    finished = dict(journal.finished) if journal else {}
    todo = [(task, scene) for task, scene in scenes if (task.name, scene.seed) not in finished]

    if todo:
        with (
            open_pool(min(workers, len(todo)), image_size, world=world or suite.world) as pool,
            ThreadPoolExecutor(pool.size) as threads,
            tqdm(total=len(scenes), initial=len(scenes) - len(todo), unit="ep", disable=not progress) as bar,
        ):
            try:
                # No name for the list: a finished future, and the frames in it, should go when it has been handled.
                for future in as_completed(
                    [threads.submit(_attempt, pool, make_policy, task, scene, record) for task, scene in todo]
                ):
                    result, frames = future.result()
                    finished[result.task, result.seed] = result
                    if journal:
                        journal.add(result)
                    if on_episode:
                        on_episode(result, frames)
                    bar.update()
                    bar.set_postfix_str(f"{sum(r.success for r in finished.values())}/{len(finished)} succeed")
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                pool.close()  # ends the calls that running episodes wait for
                raise

    report = summarise(suite, model, [finished[task.name, scene.seed] for task, scene in scenes])
    if json_path and journal:
        report.save(json_path)
        journal.discard()
    return report


def summarise(suite: Suite, model: str, results: Sequence[EpisodeResult]) -> Report:
    """Rates, intervals and means of finished episodes."""
    tasks = []
    for task in suite.tasks:
        own = [result for result in results if result.task == task.name]
        successes = sum(result.success for result in own)
        low, high = wilson(successes, len(own))
        tasks.append(
            TaskReport(
                name=task.name,
                successes=successes,
                episodes=len(own),
                errors=sum(result.error is not None for result in own),
                success_rate=successes / len(own),
                wilson_low=low,
                wilson_high=high,
                mean_steps=float(np.mean([result.steps for result in own if result.error is None] or [0])),
                control_hz=_rate(own),
                group=task.group,
            )
        )
    return Report(
        model=model,
        suite=suite.name,
        success=suite.success,
        mean_success=float(np.mean([task.success_rate for task in tasks])),
        episodes=len(results),
        errors=sum(task.errors for task in tasks),
        control_hz=_rate(results),
        tasks=tasks,
        results=list(results),
    )


class Journal:
    """Finished episodes of an unfinished run, one JSON object a line, the first of which names the run."""

    def __init__(self, path: Path, suite: Suite, model: str, resume: bool) -> None:
        self.path = path
        self.finished: dict[tuple[str, int], EpisodeResult] = {}
        # Everything that changes an episode; the number of seeds does not.
        tasks = [task.model_dump(mode="json", exclude={"seeds"}) for task in suite.tasks]
        for task in tasks:
            if "vary" in task:
                task["vary"].sort()
        head: dict[str, object] = {"model": model, "suite": suite.name, "tasks": tasks}
        if suite.success != "first":
            head["success"] = suite.success
        if resume and path.exists():
            self._read(head)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def _read(self, head: dict[str, object]) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]) != head:
            raise ValueError(
                f"{self.path} holds episodes of another model or suite; finish that run, delete the file, "
                "or choose another --json."
            )
        whole = [line for line in lines[1:] if line.endswith("}")]  # a killed run may leave half a line
        for line in whole:
            result = EpisodeResult(**json.loads(line))
            self.finished[result.task, result.seed] = result
        self.path.write_text("".join(line + "\n" for line in [lines[0], *whole]), encoding="utf-8")

    def add(self, result: EpisodeResult) -> None:
        """Remember an episode; one that the simulator failed is left to the next attempt."""
        if result.error is None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")

    def discard(self) -> None:
        """The run is complete: the next one under this name starts afresh."""
        self.path.unlink()


def _attempt(
    pool: Pool, make_policy: PolicyFactory | Literal["expert"], task: Task, scene: Scene, record: bool
) -> tuple[EpisodeResult, list[bytes]]:
    """One episode, repeated on a fresh simulator after a failure, and an error result after the second."""

    def job(worker: SimWorker) -> tuple[EpisodeResult, list[bytes]]:
        policy = ExpertPolicy(worker) if make_policy == "expert" else make_policy()
        return play(worker, policy, scene, task.name, record)

    try:
        return pool.attempt(job)
    except WorkerStartError:
        raise  # no episode would fare better
    except WorkerError as error:
        return EpisodeResult(task.name, scene.seed, scene.text, False, 0, 0.0, str(error)), []


def play(
    worker: SimWorker, policy: Policy, scene: Scene, task: str = "", record: bool = False
) -> tuple[EpisodeResult, list[bytes]]:
    """Play one episode to its end; returns the result and the JPEG frames that were rendered."""
    policy.reset(scene.text, scene.seed)
    render = record or _needs_image(policy)
    observation = worker.reset(scene, render)
    frames = [worker.last_jpeg] if render else []
    began = time.perf_counter()
    reworded = scene.reworded if isinstance(scene, TwinScene) else None
    while True:
        if reworded is not None and observation.step == reworded[0]:
            policy.reset(reworded[1], scene.seed)
        action = policy.act(observation)
        render = record or _needs_image(policy)
        result: StepResult = worker.step(action, render)
        if render:
            frames.append(worker.last_jpeg)
        observation = result.observation
        if result.done:
            seconds = time.perf_counter() - began
            return EpisodeResult(task, scene.seed, scene.text, result.success, observation.step, seconds), frames


def _needs_image(policy: Policy) -> bool:
    return bool(getattr(policy, "needs_image", True))


def _rate(results: Sequence[EpisodeResult]) -> float:
    seconds = sum(result.seconds for result in results)
    return sum(result.steps for result in results) / seconds if seconds else 0.0
