"""Instruction suites: data files that say which scenes are played, with which words, and what counts as success.

The format is described in `assets/suites/README.md`; the suites that come with the project lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sim import twin_assets
from sim.tasks import Ending, Goal, Kind, SceneSpec, Variation, sample_goal
from sim.twins import TWINS, Scene, TwinScene
from sim.worker import SIMPLER, TABLETOP

SUITES = Path(__file__).resolve().parents[1] / "assets" / "suites"

TRAIN_SEEDS = range(0, 500_000)
"""Scenes that may be recorded as training demonstrations."""
VALIDATION_SEEDS = range(500_000, 1_000_000)
"""Scenes for choosing among checkpoints and settings."""
EVALUATION_SEEDS = range(1_000_000, 2_000_000)
"""Scenes of reported results: never recorded, never tuned on."""

Split = Literal["train", "validation", "evaluation"]


def split_of(seed: int) -> Split:
    """The split that a scene seed belongs to; ValueError outside all of them."""
    for name, seeds in (("train", TRAIN_SEEDS), ("validation", VALIDATION_SEEDS), ("evaluation", EVALUATION_SEEDS)):
        if seed in seeds:
            return name  # type: ignore[return-value]
    raise ValueError(f"Scene seeds lie in 0..{EVALUATION_SEEDS.stop - 1}, {seed} does not.")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seeds(_Strict):
    """`count` consecutive scene seeds from `start`; none of them a training seed."""

    start: int = EVALUATION_SEEDS.start
    count: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Seeds:
        if self.start < TRAIN_SEEDS.stop or self.start + self.count > EVALUATION_SEEDS.stop:
            raise ValueError(
                f"seeds must lie in {VALIDATION_SEEDS.start}..{EVALUATION_SEEDS.stop - 1} "
                "(smaller ones belong to the training data)"
            )
        return self


class Task(_Strict):
    """One row of a result table."""

    name: str = Field(min_length=1, max_length=80)
    group: str = Field(default="", max_length=80)
    instruction: str | None = Field(default=None, min_length=1, max_length=500)
    step_limit: int | None = Field(default=None, ge=1, le=1000)

    def scenes(self, episodes: int | None = None) -> Iterator[Scene]:
        """The scenes of the first `episodes` seeds (all: None)."""
        raise NotImplementedError


class TaskSpec(Task):
    """A goal on our own table, or a family whose goals are drawn from the seeds, and its scenes."""

    kind: Kind | None = None
    goal: Goal | None = None
    then: Goal | None = None
    also: tuple[Goal, ...] = ()
    seeds: Seeds = Seeds()
    distractors: int = Field(default=1, ge=0, le=5)
    objects: tuple[str, ...] | None = None
    vary: frozenset[Variation] = frozenset()

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        if (self.kind is None) == (self.goal is None):
            raise ValueError("give either kind (goals drawn from the seeds) or goal (one fixed goal)")
        if (self.then or self.also) and self.goal is None:
            raise ValueError("then and also need a fixed goal")
        self.scene(self.seeds.start)  # an impossible scene should fail now, not in the middle of a run
        return self

    def scene(self, seed: int) -> SceneSpec:
        """The scene of one episode."""
        goal = self.goal
        if goal is None:
            assert self.kind is not None
            goal = sample_goal(self.kind, seed)
        return SceneSpec(
            goal=goal,
            then=self.then,
            also=self.also,
            seed=seed,
            distractors=self.distractors,
            objects=self.objects,
            vary=self.vary,
            instruction=self.instruction,
            step_limit=self.step_limit,
        )

    def scenes(self, episodes: int | None = None) -> Iterator[SceneSpec]:
        """The scenes of the first `episodes` seeds (all: None); more than `count` simply continues the range."""
        count = self.seeds.count if episodes is None else episodes
        yield from (self.scene(self.seeds.start + index) for index in range(count))


class TwinTask(Task):
    """An official SimplerEnv scene; its episodes are played in the order of their ids."""

    scene: str

    @model_validator(mode="after")
    def _check(self) -> TwinTask:
        if self.scene not in TWINS:
            raise ValueError(f"there is no scene {self.scene!r}; choose one of {', '.join(TWINS)}")
        return self

    def scenes(self, episodes: int | None = None) -> Iterator[TwinScene]:
        """The first `episodes` of the official episodes (all: None)."""
        count = TWINS[self.scene].episodes
        for seed in range(count if episodes is None else min(episodes, count)):
            yield TwinScene(twin=self.scene, seed=seed, instruction=self.instruction, step_limit=self.step_limit)


class Suite(_Strict):
    """A named list of tasks. The reported figure is the mean of the tasks' success rates, each task weighing the same.

    `success` declares the semantics, which move results by tens of points elsewhere: "first" means that an episode ends
    and succeeds at the first control step at which the task's rule holds, and fails at the step limit; "last" that it
    runs to the step limit and succeeds if the rule holds then.
    """

    name: str = Field(min_length=1, max_length=80)
    description: str = ""
    pack: Literal["tabletop"] = "tabletop"
    success: Ending
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)

    world: ClassVar[str] = TABLETOP
    """The simulator that plays it, for `SimWorker`."""

    @model_validator(mode="after")
    def _check(self) -> Suite:
        names = [task.name for task in self.tasks]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two tasks are called {repeated[0]!r}")
        return self

    def scenes(self, episodes: int | None = None) -> Iterator[tuple[Task, Scene]]:
        """Every episode with its task; `episodes` of each task (None: as many as the suite says)."""
        for task in self.tasks:
            for scene in task.scenes(episodes):
                yield task, scene.model_copy(update={"ending": self.success})

    def limited(self, steps: int) -> Self:
        """The same suite with another step limit for every task."""
        return self.model_copy(
            update={"tasks": tuple(task.model_copy(update={"step_limit": steps}) for task in self.tasks)}
        )

    def require_assets(self) -> None:
        """Raise `ValueError` in one line where files are missing that do not come with the project."""


class SimplerSuite(Suite):
    """Official SimplerEnv scenes. `success` "last" is SimplerEnv's own: every episode is played to its step limit, and
    succeeds if the rule holds at its last step."""

    pack: Literal["simpler"]  # type: ignore[assignment]
    tasks: tuple[TwinTask, ...] = Field(min_length=1)  # type: ignore[assignment]

    world: ClassVar[str] = SIMPLER

    def require_assets(self) -> None:
        for task in self.tasks:
            twin_assets.require(task.scene)


def suite_names() -> list[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite by the name of a file in `assets/suites` or by path.

    Raises:
        ValueError: one line that names the file, the place in it and what is wrong there.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ValueError(
                f"There is no suite {str(name_or_path)!r}; choose one of {', '.join(suite_names())}, "
                "or give the path of a .yaml file."
            )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}{where}: is not valid YAML ({problem}).") from None
    except (ValueError, RecursionError) as error:  # a date that is none, lists a thousand deep
        raise ValueError(f"{path}: is not valid YAML ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a suite is a mapping with name, success and tasks.")
    try:
        kind = SimplerSuite if content.get("pack") == "simpler" else Suite
        return kind.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}{_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first complaint as ", tasks[2].seeds.start: what is wrong"."""
    detail = error.errors(include_url=False)[0]
    place = ""
    for part in detail["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    message = str(detail["msg"]).removeprefix("Value error, ").splitlines()[0].rstrip(".")
    return f"{', ' + place if place else ''}: {message}."
