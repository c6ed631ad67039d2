"""The scene pack `simpler`: which official SimplerEnv scenes can be played, in whose words, judged by which rule.

Names, instructions, episode grids and limits are SimplerEnv's (`simpler_env.ENVIRONMENTS`) and SimplerEnv-Instruct's
(tasks 79 and 80 of InstructVLA's benchmark). An episode id is all that varies: the same id is the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim import fractal_layouts
from sim.fractal_layouts import DRAWERS
from sim.tasks import Ending, SceneSpec

Robot = Literal["widowx", "google_robot"]


@dataclass(frozen=True)
class Twin:
    """One official scene: `episodes` layouts, the instruction, and the success rule in words."""

    robot: Robot
    instruction: str
    rule: str
    episodes: int
    step_limit: int
    reworded: tuple[int, str] | None = None
    """A step at which the instruction changes, and the new one."""


def _put(instruction: str, source: str, target: str, gap: int = 2, presses: bool = True) -> Twin:
    contact = " and it presses on it" if presses else ""
    rule = f"{source} is over {target} (within half its diagonal), at most {gap} cm above it{contact}"
    return Twin("widowx", instruction, rule, episodes=24, step_limit=120)


def _google(instruction: str, rule: str, episodes: int, steps: int, reworded: tuple[int, str] | None = None) -> Twin:
    return Twin("google_robot", instruction, rule, episodes, steps, reworded)


def _drawer(verb: str, name: str, rule: str) -> Twin:
    return _google(f"{verb} {name} drawer", f"the {name} drawer {rule}", episodes=9, steps=113)


_CAN = _google("pick coke can", "the can was lifted off the table, held by the fingers alone", 25, 80)
TWINS: dict[str, Twin] = {
    "spoon_on_towel": _put("put the spoon on the towel", "the spoon", "the towel", presses=False),
    "carrot_on_plate": _put("put carrot on plate", "the carrot", "the plate"),
    "stack_cube": _put("stack the green block on the yellow block", "the green block", "the yellow block"),
    "eggplant_in_basket": _put(
        "put eggplant into yellow basket", "the eggplant", "the floor of the basket", gap=6, presses=False
    ),
    "baby_tool_on_plate": _put(
        "put the tool that can be used to feed a baby on the plate", "the spoon", "the plate"
    ),
    "fruit_not_drink_on_plate": _put(
        "I do not want the drink, please put the fruit on the plate", "the orange", "the plate"
    ),
    "pick_horizontal_coke_can": _CAN,
    "pick_vertical_coke_can": _CAN,
    "pick_standing_coke_can": _CAN,
    "move_near": _google(
        "move {source} near {target}",
        "the {source} was moved, to within 10 cm of the {target}, which is closest to it; nothing fell over",
        episodes=60,
        steps=80,
    ),
    **{f"open_{name}_drawer": _drawer("open", name, "is pulled out by 15 cm or more") for name in DRAWERS},
    **{f"close_{name}_drawer": _drawer("close", name, "is within 5 cm of shut") for name in DRAWERS},
    "apple_in_top_drawer": _google(
        "open top drawer",
        "from step 100 on, the apple has touched the floor of the top drawer, which is open by 5 cm or more",
        episodes=27,
        steps=200,
        reworded=(100, "place apple into top drawer"),
    ),
}
"""By name. `baby_tool_on_plate` and `fruit_not_drink_on_plate` are tasks 79 and 80 of SimplerEnv-Instruct. 120 steps
are InstructVLA's limit for the WidowX; SimplerEnv itself stops the first three after 60."""


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
        return self.official.instruction.format(**self._names)

    @property
    def reworded(self) -> tuple[int, str] | None:
        """A step at which the instruction changes, and the new one; none when the words are not the official ones."""
        return self.official.reworded if self.instruction is None else None

    @property
    def vary(self) -> frozenset[str]:
        """Nothing: official scenes always look the same."""
        return frozenset()

    @property
    def text(self) -> str:
        """The instruction the policy gets."""
        return self.instruction if self.instruction is not None else self.template

    @property
    def rule(self) -> str:
        """The success rule in words."""
        return self.official.rule.format(**self._names)

    @property
    def _names(self) -> dict[str, str]:
        """Words for source and target where they differ from episode to episode."""
        if self.twin != "move_near":
            return {}
        places = fractal_layouts.layout(self.twin, self.seed)
        return {role: fractal_layouts.NAMES[str(getattr(places, role))] for role in ("source", "target")}

    @property
    def limit(self) -> int:
        """Control steps until the episode ends."""
        return self.step_limit if self.step_limit is not None else self.official.step_limit


Scene = SceneSpec | TwinScene
"""A scene of either pack: both have `seed`, `family`, `template`, `text`, `rule` and `limit`."""


def load_scene(fields: dict[str, Any]) -> Scene:
    """The scene whose `model_dump` this is."""
    return TwinScene.model_validate(fields) if "twin" in fields else SceneSpec.model_validate(fields)
