"""Who drives: a model that loads in the background, or the scripted expert. The page treats both alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from app.controller import Simulator, ThinkingPolicy
from sim.interface import Action, Image, Observation
from sim.twins import Scene

if TYPE_CHECKING:
    from model.engine import Changes

State = Literal["loading", "ready", "failed"]
LOADING_POLL_S = 0.2
Turn = tuple[str, str]
"""A question and its answer."""


class Pilot(Protocol):
    """What the page asks of whoever drives."""

    name: str

    @property
    def pictures(self) -> int:
        """The most pictures that a question may be about; 0 where it answers none."""

    points: bool
    """Whether it may show where in the picture it is about to act; its first plan says whether it does."""

    @property
    def state(self) -> State: ...

    @property
    def error(self) -> str | None:
        """Why it failed and the command that mends it."""

    @property
    def fingerprint(self) -> str:
        """Tells weights apart; empty for what has none."""

    def start(self) -> None:
        """Begin to load, unless that has begun."""

    def retry(self) -> None:
        """Load once more what did not load."""

    def describe(self) -> str:
        """One line: who it is and what it was trained on."""

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        """A fresh policy for one rollout."""

    def ask(self, image: Image | Sequence[Image], question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        """Stream an answer about a picture or several, after earlier turns about them. `ValueError`: it cannot."""


class Learned:
    """A model in `model.engine.Engine`."""

    points = True

    def __init__(self, name: str, schedule: Changes = ()) -> None:
        """The model `name`, of which nothing is in memory before `start`; `schedule` is `model.engine.Engine`'s."""
        from app.remote import engine_of  # here, because torch takes seconds to import and the expert needs none of it

        self.name = name
        self._again = threading.Lock()
        self._schedule = schedule
        self._engine = engine_of(name, schedule)

    def start(self) -> None:
        self._engine.start()

    @property
    def state(self) -> State:
        return self._engine.state

    @property
    def error(self) -> str | None:
        return self._engine.error

    @property
    def pictures(self) -> int:
        return self._engine.pictures

    @cached_property
    def fingerprint(self) -> str:
        try:
            return self._engine.fingerprint()[:8]
        except RuntimeError:  # it says itself why it does not load
            return ""

    def retry(self) -> None:
        from app.remote import engine_of

        with self._again:
            if self._engine.state == "failed":
                self._engine = engine_of(self.name, self._schedule)
                self.__dict__.pop("fingerprint", None)
                self._engine.start()

    def describe(self) -> str:
        return self._engine.describe()

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return self._engine.policy(think)

    def ask(self, image: Image | Sequence[Image], question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        return self._engine.ask(image, question, history=history)


class Scripted:
    """The scripted expert, for machines where even a small model is too much."""

    name = "expert"
    pictures = 0
    points = False
    state: State = "ready"
    error = None
    fingerprint = ""

    def start(self) -> None:
        """It always is ready."""

    def retry(self) -> None:
        """There is nothing to load."""

    def describe(self) -> str:
        return "Scripted expert: not a learned model. It reads the simulator's state instead of looking."

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return Expert(simulator, spec, think)

    def ask(self, image: Image | Sequence[Image], question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        raise ValueError("The scripted expert answers no questions: start the page with --model generalist.")


class Expert:
    """The scripted expert in a policy's clothes. It does the scene's own task, whatever the instruction says."""

    needs_image = False
    focus = None
    heat = None
    gate = None

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

    def instruct(self, instruction: str) -> None:
        """Nothing changes: it does the scene's own task, whatever the instruction says."""

    def rethink(self, observation: Observation, thought: str) -> None:
        """Raises `ValueError`: its words are not where its actions come from."""
        raise ValueError("The scripted expert does not act on thoughts: start the page with --model generalist.")

    def act(self, observation: Observation) -> Action:
        """The expert's (7,) action for the present state."""
        return self._simulator.expert_action()


def pilot_of(name: str, schedule: Changes = ()) -> Pilot:
    """Who drives by that name: `expert`, or whatever `app.remote.engine_of` takes. Nothing is loaded yet."""
    return Scripted() if name == "expert" else Learned(name, schedule)


def problem_when_loaded(pilot: Pilot, stop: threading.Event) -> str | None:
    """Have a model loaded, and wait; why it cannot drive, or None when it can.

    One that did not load is loaded again meanwhile: what was missing, a download say, may be there by now.
    """
    pilot.start()
    while pilot.state == "loading" and not stop.wait(LOADING_POLL_S):
        pass
    if pilot.state == "failed":
        error = pilot.error
        pilot.retry()
        return f'{error} Run "python app.py doctor" to see what is missing, then try again.'
    return "Stopped before the model was loaded." if stop.is_set() else None
