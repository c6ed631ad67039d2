"""What can be asked of the robot: goals, their words, their success rules, and scenes drawn from a seed."""

from __future__ import annotations

from itertools import permutations
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim import objects
from sim.objects import ObjectInfo

Kind = Literal["pick", "put_on", "put_in", "stack", "near", "open", "close"]
Ending = Literal["first", "last"]
"""When success counts: at the first step at which the rule holds, or at the last step of a whole episode."""
Variation = Literal["light", "texture", "camera"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAWERS = ("top", "middle", "bottom")
STEP_LIMITS: dict[Kind, int] = {
    "pick": 50,
    "put_on": 60,
    "put_in": 60,
    "stack": 60,
    "near": 60,
    "open": 60,
    "close": 60,
}
"""Control steps (0.2 s each) after which an episode of a family ends."""

LIFT_HEIGHT = 0.05
ON_GAP = 0.02
NEAR_GAP = 0.05
OPEN_TRAVEL = 0.08
CLOSED_TRAVEL = 0.015

_TEMPLATES: dict[Kind, str] = {
    "pick": "pick up the {source}",
    "put_on": "put the {source} on the {target}",
    "put_in": "put the {source} in the {target}",
    "stack": "stack the {source} on the {target}",
    "near": "move the {source} near the {target}",
    "open": "open the {target} drawer",
    "close": "close the {target} drawer",
}
_RULES: dict[Kind, str] = {
    "pick": f"the {{source}} is held {LIFT_HEIGHT * 100:.0f} cm or more above where it lay",
    "put_on": "the {source} rests on the {target}, released and still",
    "put_in": "the {source} lies inside the {target}, released and still",
    "stack": "the {source} rests on the {target}, released and still",
    "near": f"the {{source}} was moved, is released, and is within {NEAR_GAP * 100:.0f} cm of the {{target}}",
    "open": f"the {{target}} drawer is pulled out by {OPEN_TRAVEL * 100:.0f} cm or more",
    "close": f"the {{target}} drawer is within {CLOSED_TRAVEL * 100:.1f} cm of shut",
}


class Goal(BaseModel):
    """One task. `source` and `target` are object ids; for open / close `source` is None and `target` names a drawer."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    source: str | None = None
    target: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Goal:
        if self.kind in ("open", "close"):
            if self.source is not None or self.target not in DRAWERS:
                raise ValueError(f"{self.kind} needs no source and a target among {', '.join(DRAWERS)}.")
            return self
        if self.source is None or objects.get(self.source).grasp is None:
            raise ValueError(f"{self.kind} needs a source that can be grasped, not {self.source!r}.")
        if self.kind == "pick":
            if self.target is not None:
                raise ValueError("pick takes no target.")
            return self
        if self.target is None or self.target == self.source:
            raise ValueError(f"{self.kind} needs a target other than its source.")
        if not _accepts(self.kind, objects.get(self.source), objects.get(self.target)):
            raise ValueError(f"{self.kind}: {self.source!r} does not go with {self.target!r}.")
        return self


def _accepts(kind: Kind, source: ObjectInfo, target: ObjectInfo) -> bool:
    """Whether `source` can be brought to `target` in this family."""
    if kind in ("put_on", "put_in"):
        return target.surface is not None and target.surface.kind == kind.removeprefix("put_")
    if kind == "stack":
        return all(info.grasp is not None and info.grasp.stackable for info in (source, target))
    return target.role != "fixture"


def _comfortable(kind: Kind, source: ObjectInfo, target: ObjectInfo) -> bool:
    """Pairs worth drawing: things that fit where they are put, and neighbours small enough to leave room."""
    if kind in ("put_on", "put_in"):
        assert target.surface is not None
        return source.radius <= target.surface.radius + (0.0085 if kind == "put_in" else 0.02)
    return kind != "near" or target.radius <= 0.055


def _named(goal: Goal) -> dict[str, str]:
    source = objects.get(goal.source).name if goal.source else ""
    in_drawer_family = goal.kind in ("open", "close")
    target = goal.target if in_drawer_family or goal.target is None else objects.get(goal.target).name
    return {"source": source, "target": target or ""}


def instruction(goal: Goal) -> str:
    """The family's plain English command, e.g. "put the carrot on the plate"."""
    return _TEMPLATES[goal.kind].format(**_named(goal))


def rule(goal: Goal) -> str:
    """The success rule in words; it must hold for two control steps in a row."""
    return _RULES[goal.kind].format(**_named(goal))


class SceneSpec(BaseModel):
    """A scene: the goal's things, `distractors` more drawn from `seed` (or exactly `objects`), and what varies.

    `then` is a second goal: both have to hold. `also` are further goals, each of which is as good as the whole; what
    they are about has to be among `objects`. `ending`: "first" ends the episode with the first success, "last" plays
    all steps and asks whether the rule holds at the last one.
    """

    model_config = ConfigDict(frozen=True)

    goal: Goal
    then: Goal | None = None
    also: tuple[Goal, ...] = ()
    ending: Ending = "first"
    seed: int = Field(ge=0)
    distractors: int = Field(default=1, ge=0, le=5)
    objects: tuple[str, ...] | None = None
    vary: frozenset[Variation] = frozenset()
    instruction: str | None = None
    step_limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> SceneSpec:
        extra = self.objects or ()
        for object_id in extra:
            if objects.get(object_id).role == "fixture":
                raise ValueError(f"{object_id!r} is a fixture; it cannot be laid out as an extra object.")
        named = self.named
        if set(named) & set(extra) or len(set(extra)) != len(extra):
            raise ValueError("An object can be in a scene only once.")
        if self.then is not None and any(goal.kind in ("open", "close") for goal in self.steps):
            raise ValueError("A drawer cannot be one of two steps: the two goals have to be about objects.")
        if not {name for goal in self.also for name in (goal.source, goal.target) if name} <= {*named, *extra}:
            raise ValueError("What `also` is about must be in the scene: name it under objects.")
        if len(extra) > 5:
            raise ValueError("A scene holds at most 5 extra objects.")
        return self

    @property
    def steps(self) -> tuple[Goal, ...]:
        """What has to hold at once, in the order in which it is done."""
        return (self.goal,) if self.then is None else (self.goal, self.then)

    @property
    def named(self) -> list[str]:
        """Objects and drawers that the steps name, each once."""
        return list(dict.fromkeys(name for goal in self.steps for name in (goal.target, goal.source) if name))

    @property
    def family(self) -> str:
        """The task family."""
        return self.goal.kind

    @property
    def template(self) -> str:
        """The plain command for each step."""
        return ", then ".join(map(instruction, self.steps))

    @property
    def rule(self) -> str:
        """The success rule in words."""
        whole = ", and ".join(map(rule, self.steps))
        return ", or ".join([whole, *map(rule, self.also)])

    @property
    def text(self) -> str:
        """The instruction the policy gets."""
        return self.instruction if self.instruction is not None else self.template

    @property
    def limit(self) -> int:
        """Control steps until the episode ends."""
        return self.step_limit if self.step_limit is not None else sum(STEP_LIMITS[goal.kind] for goal in self.steps)


def goals(kind: Kind) -> list[Goal]:
    """Every goal of a family that `sample_goal` may draw."""
    if kind in ("open", "close"):
        return [Goal(kind=kind, target=drawer) for drawer in DRAWERS]
    drawn = [info for info in objects.catalog().values() if not info.unseen]
    if kind == "pick":
        return [Goal(kind=kind, source=info.id) for info in drawn if info.grasp is not None]
    return [
        Goal(kind=kind, source=source.id, target=target.id)
        for source, target in permutations(drawn, 2)
        if source.grasp is not None and _accepts(kind, source, target) and _comfortable(kind, source, target)
    ]


def sample_goal(kind: Kind, seed: int) -> Goal:
    """One goal of the family, drawn from the seed: same seed, same goal.

    Raises:
        ValueError: the catalog has no goal of this family.
    """
    choices = goals(kind)
    if not choices:
        raise ValueError(f"The catalog has no objects for the family {kind!r}.")
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    return choices[int(generator.integers(len(choices)))]
