"""The scene pack `simpler`: which official SimplerEnv scenes can be played, in whose words, judged by which rule.

Names, instructions, episode grids and limits are SimplerEnv's (`simpler_env.ENVIRONMENTS`) and SimplerEnv-Instruct's
(tasks 79 and 80 of InstructVLA's benchmark). An episode id is all that varies: the same id is the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Robot = Literal["widowx", "google_robot"]
Ending = Literal["first", "last"]
"""When success counts: at the first step at which the rule holds, or at the last step of a whole episode."""

_ON = (
    "{source} is over {target} (within half of its diagonal), its underside at most {gap} cm above it{touching}"
)
_PLATE = _ON.format(source="{source}", target="the plate", gap=2, touching=", and presses on it")


@dataclass(frozen=True)
class Twin:
    """One official scene: `episodes` layouts, the instruction, and the success rule in words."""

    robot: Robot
    instruction: str
    rule: str
    episodes: int
    step_limit: int


TWINS: dict[str, Twin] = {
    "spoon_on_towel": Twin(
        "widowx",
        "put the spoon on the towel",
        _ON.format(source="the spoon", target="the towel", gap=2, touching=""),
        episodes=24,
        step_limit=120,
    ),
    "carrot_on_plate": Twin("widowx", "put carrot on plate", _PLATE.format(source="the carrot"), 24, 120),
    "stack_cube": Twin(
        "widowx",
        "stack the green block on the yellow block",
        _ON.format(source="the green block", target="the yellow block", gap=2, touching=", and presses on it"),
        episodes=24,
        step_limit=120,
    ),
    "eggplant_in_basket": Twin(
        "widowx",
        "put eggplant into yellow basket",
        _ON.format(source="the eggplant", target="the floor of the basket", gap=6, touching=""),
        episodes=24,
        step_limit=120,
    ),
    "baby_tool_on_plate": Twin(
        "widowx",
        "put the tool that can be used to feed a baby on the plate",
        _PLATE.format(source="the spoon"),
        episodes=24,
        step_limit=120,
    ),
    "fruit_not_drink_on_plate": Twin(
        "widowx",
        "I do not want the drink, please put the fruit on the plate",
        _PLATE.format(source="the orange"),
        episodes=24,
        step_limit=120,
    ),
}


class TwinScene(BaseModel):
    """One episode of one official scene. `seed` is the official episode id, and seeds the policy's draws."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    twin: str
    seed: int = Field(ge=0)
    instruction: str | None = None
    step_limit: int | None = Field(default=None, ge=1)
    ending: Ending = "first"

    @model_validator(mode="after")
    def _check(self) -> TwinScene:
        if self.twin not in TWINS:
            raise ValueError(f"there is no scene {self.twin!r}; known: {', '.join(TWINS)}")
        if self.seed >= self.official.episodes:
            raise ValueError(f"{self.twin} has the episodes 0..{self.official.episodes - 1}, {self.seed} is none")
        return self

    @property
    def official(self) -> Twin:
        """What SimplerEnv says of this scene."""
        return TWINS[self.twin]

    @property
    def family(self) -> str:
        """The scene's name."""
        return self.twin

    @property
    def template(self) -> str:
        """The official instruction."""
        return self.official.instruction

    @property
    def text(self) -> str:
        """The instruction the policy gets."""
        return self.instruction if self.instruction is not None else self.template

    @property
    def rule(self) -> str:
        """The success rule in words."""
        return self.official.rule

    @property
    def limit(self) -> int:
        """Control steps until the episode ends."""
        return self.step_limit if self.step_limit is not None else self.official.step_limit
