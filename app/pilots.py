"""Who drives: a model that loads in the background, or the scripted expert. The page treats both alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from app.controller import Simulator, ThinkingPolicy
from sim.interface import Action, Observation
from sim.twins import Scene

State = Literal["loading", "ready", "failed"]


class Pilot(Protocol):
    """What the page asks of whoever drives."""

    name: str

    @property
    def state(self) -> State: ...

    @property
    def error(self) -> str | None:
        """Why it failed and the command that mends it."""

    def describe(self) -> str:
        """One line: who it is and what it was trained on."""

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        """A fresh policy for one rollout."""


class Learned:
    """A model in `model.engine.Engine`."""

    def __init__(self, name: str) -> None:
        """Start loading the model `name` in the background."""
        from app.remote import engine_of  # here, because torch takes seconds to import and the expert needs none of it

        self.name = name
        self._engine = engine_of(name)
        self._engine.start()

    @property
    def state(self) -> State:
        return self._engine.state

    @property
    def error(self) -> str | None:
        return self._engine.error

    def describe(self) -> str:
        return self._engine.describe()

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return self._engine.policy(think)


class Scripted:
    """The scripted expert, for machines where even a small model is too much."""

    name = "expert"
    state: State = "ready"
    error = None

    def describe(self) -> str:
        return "Scripted expert: not a learned model. It reads the simulator's state instead of looking."

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return Expert(simulator, spec, think)


class Expert:
    """The scripted expert in a policy's clothes. It does the scene's own task, whatever the instruction says."""

    needs_image = False
    focus = None

    def __init__(self, simulator: Simulator, spec: Scene, think: bool) -> None:
        self._simulator = simulator
        self._task = spec.template
        self.thinking_due = think
        self.timings: dict[str, float] = {}

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Nothing to forget: everything is read from the simulator's state."""

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        """Say who drives and what it will do, word by word as a model would."""
        self.thinking_due = False
        text = f"Scripted expert, sees the simulator's state. It does the scene's own task: {self._task}."
        for word in text.split(" "):
            yield word + " "

    def act(self, observation: Observation) -> Action:
        """The expert's (7,) action for the present state."""
        return self._simulator.expert_action()
