"""A whole page on worlds of one moving point, and a pilot who thinks what it was told, to try strangers on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app import page as front
from app.controller import Simulator, ThinkingPolicy
from app.pilots import Expert, Turn
from app.sessions import Sessions
from app.settings import Settings
from sim.interface import Image, Observation
from sim.twins import Scene
from sim.worker import WorkerPool
from tests.fake_world import FakeWorld
from tests.test_page_states import FakePilot

SIZE = (32, 24)
SECRET = "nobody may read this"


class Talker(Expert):
    """Thinks what it was told, word by word."""

    def reset(self, instruction: str, seed: int = 0) -> None:
        self.words = instruction.split(" ")

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        self.thinking_due = False
        for word in self.words:
            time.sleep(0.02)  # slower than those who watch, also on a busy machine
            yield f"{word} "


@dataclass
class Endless:
    """An answer that nobody ends but the listener."""

    words: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                self.words += 1
                yield "and "
                time.sleep(0.02)
        finally:
            self.ended.set()


class TalkingPilot(FakePilot):
    """Its policies think what they were told; "and?" is answered without end."""

    def __init__(self) -> None:
        super().__init__()
        self.endless = Endless()

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return Talker(simulator, spec, think)

    def ask(self, image: Image, question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        if question == "and?":
            self.endless = Endless()
            return iter(self.endless)
        return super().ask(image, question, history)


@dataclass
class Site:
    """A page, and what is behind it."""

    address: str
    sessions: Sessions
    pilot: TalkingPilot
    folder: Path

    def records(self) -> list[str]:
        """Names of what was recorded so far."""
        return sorted(path.name for path in (self.folder / "recordings").glob("2*"))

    def freed(self) -> bool:
        """Whether every simulator is free, soon."""
        until = time.monotonic() + 60
        while self.sessions.holding and time.monotonic() < until:
            time.sleep(0.05)
        return self.sessions.holding == 0


@contextmanager
def public_site(folder: Path) -> Iterator[Site]:
    """Two simulators, each a process with a world of one moving point, whose frames tell scene and step."""
    (folder / "secret.txt").write_text(SECRET)
    recordings = folder / "recordings"
    recordings.mkdir()
    (recordings / "kept").mkdir()
    (recordings / "kept" / "events.jsonl").write_text('{"type": "Recording"}')
    (recordings / "link").symlink_to(folder)
    pilot = TalkingPilot()
    with WorkerPool(2, SIZE, world="tests.public_site:Marked") as pool:
        sessions = Sessions(pool, size=2)
        page = front.build(pilot, sessions, recordings, Settings())
        address = front.launch(page, "127.0.0.1", None, recordings, Settings())
        yield Site(address, sessions, pilot, folder)
        page.close()


class Marked(FakeWorld):
    """Frames that show the seed and the step."""

    def observe(self, render: bool = True) -> Observation:
        observation = super().observe(render)
        if observation.image is not None:
            marks = np.random.default_rng([self.seed, observation.step]).integers(0, 255, 3, np.uint8)
            observation.image[:] = marks
        return observation

    def reset(self, spec: Any, render: bool = True) -> Observation:
        self.seed = spec.seed
        return super().reset(spec, render)
