"""What a generalist is compared with: chance, and an expert that an outside planner tells in plain words what to do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from app.endpoint import ChatEndpoint
from sim.interface import Action, Observation, Policy
from sim.suite import Suite

MOST_MOVE, MOST_TURN = 0.03, 0.1
"""Largest random translation [m] and rotation [rad] per axis and step."""
HOLD = 5
"""Steps for which a random gripper command lasts."""

PROMPT = """\
A robot arm understands only short, literal English commands: "pick up the X", "put the X on the Y", "put the X in
the Y", "stack the X on the Y", "move the X near the Y", "open the top/middle/bottom drawer", "close the ... drawer".
You see its table and read what a person wants. Answer with the one command that serves the person next; name objects
by their plainest names."""


class RandomPolicy:
    """Acts without looking: the floor of every table."""

    needs_image = False

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Start the episode's random numbers."""
        self._draw, self._step, self._grip = np.random.default_rng(seed), 0, 1.0

    def act(self, observation: Observation) -> Action:
        """Uniform noise; the gripper changes its mind every second."""
        if self._step % HOLD == 0:
            self._grip = float(self._draw.integers(2))
        self._step += 1
        move = self._draw.uniform(-1, 1, 6) * np.repeat([MOST_MOVE, MOST_TURN], 3)
        return np.append(move, self._grip).astype(np.float32)


class Command(BaseModel):
    """What the planner answers."""

    model_config = ConfigDict(extra="forbid")

    command: str = Field(min_length=1, max_length=200)


class Planner:
    """A vision model that rewrites instructions from the first picture, as the paper's GPT-4o baseline does."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint

    def command(self, observation: Observation, instruction: str) -> str:
        """The instruction in plain words. Raises EndpointError where the endpoint gives nothing usable."""
        assert observation.image is not None
        buffer = io.BytesIO()
        Image.fromarray(observation.image).save(buffer, "JPEG", quality=90)
        text = f"The person says: {instruction}"
        return self._endpoint.complete(PROMPT, text, Command, [buffer.getvalue()]).command


class PlannedPolicy:
    """A policy that follows the planner's words instead of the person's."""

    def __init__(self, planner: Planner, policy: Policy) -> None:
        self._planner, self._policy = planner, policy

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode; the planner is asked at the first picture."""
        self._asked: tuple[str, int] | None = (instruction, seed)

    @property
    def needs_image(self) -> bool:
        """Whether the next `act` looks at a picture."""
        return self._asked is not None or bool(getattr(self._policy, "needs_image", True))

    def act(self, observation: Observation) -> Action:
        """The policy's action under the planner's command."""
        if self._asked is not None:
            instruction, seed = self._asked
            self._policy.reset(self._planner.command(observation, instruction), seed)
            self._asked = None
        return self._policy.act(observation)


def planned(planner: Planner, make: Callable[[], Policy]) -> Callable[[], Policy]:
    """A factory of policies that the planner talks to."""
    return lambda: PlannedPolicy(planner, make())


def told_the_truth(suite: Suite) -> Suite:
    """The suite in the words of its goals' own templates: what a planner that is never wrong would say."""
    plain: dict[str, Any] = {"instruction": None}
    return suite.model_copy(update={"tasks": tuple(task.model_copy(update=plain) for task in suite.tasks)})
