"""A world of one moving point that needs no renderer, for tests of everything around the simulator."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from sim.disturb import Disturbance
from sim.interface import Observation, StepResult

PATH = "tests.fake_world:FakeWorld"
RESET = {"seed": 0}


class FakeWorld:
    """The point starts at a place drawn from the seed and has to come within 2 cm of x = 0, y = 0, z = 0.

    Where the scene's `ending` is "last" it goes on to the limit after a success.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        self.width, self.height = image_size
        self.rebuilds = 0

    def reset(self, spec: Any, render: bool = True) -> Observation:
        """Accepts a SceneSpec or a plain dict with a seed."""
        plain = isinstance(spec, dict)
        seed = spec["seed"] if plain else spec.seed
        if seed < 0:
            raise ValueError("a seed cannot be negative")
        self.limit = 30 if plain else spec.limit
        self.ending = "first" if plain else spec.ending
        self.rng = np.random.default_rng(seed)
        self.point = self.rng.uniform(-0.3, 0.3, 3)
        self.count = 0
        self.rebuilds += 1
        return self.observe(render)

    def observe(self, render: bool = True) -> Observation:
        image = np.full((self.height, self.width, 3), 128 + 100 * self.point[0], np.uint8) if render else None
        proprio = np.zeros(8, np.float32)
        proprio[:3] = self.point
        return Observation(image, proprio, self.count)

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        self.point = self.point + action[:3]
        self.count += 1
        success = bool(np.linalg.norm(self.point) < 0.02)
        over = self.count >= self.limit or (success and self.ending == "first")
        return StepResult(self.observe(render), success, over)

    def disturb(self, change: Disturbance) -> Observation:
        if change.kind != "nudge":
            raise ValueError("a point has no look")
        self.point = self.point + 0.05
        return self.observe()

    def expert_action(self) -> np.ndarray:
        return np.concatenate([np.clip(-self.point, -0.02, 0.02), [0.0, 0.0, 0.0, 1.0]]).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"point": self.point.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.point = np.asarray(state["point"], float)

    def keypoints(self) -> dict[str, Any]:
        uv = (float(self.point[0] + 0.5), float(self.point[1] + 0.5))
        return {"source": (*uv, *map(float, self.point)), "target": (0.5, 0.5, 0.0, 0.0, 0.0)}

    def visible_objects(self) -> dict[str, Any]:
        return {"point": self.keypoints()["source"]}

    def close(self) -> None:
        pass


class BrokenWorld(FakeWorld):
    """Misbehaves on request: the seed of the scene chooses how."""

    CRASH, HANG, NONSENSE, RAISE, UNPICKLABLE = 1, 2, 3, 4, 5

    def reset(self, spec: Any, render: bool = True) -> Observation:
        observation = super().reset(spec, render)
        self.mode = spec["seed"] if isinstance(spec, dict) else spec.seed
        return observation

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        if self.mode == self.CRASH:
            os.abort()
        if self.mode == self.HANG:
            time.sleep(600)
        if self.mode == self.NONSENSE:
            return "all is well"  # type: ignore[return-value]
        if self.mode == self.RAISE:
            raise RuntimeError("the gripper fell off\nsecond line")
        if self.mode == self.UNPICKLABLE:
            return StepResult((_ for _ in ()), False, False)  # type: ignore[arg-type]
        return super().step(action, render)


class UnbuildableWorld:
    """No driver, for example."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        raise ValueError("no Vulkan device was found")


class CrashesOnASeed(BrokenWorld):
    """One evaluation scene kills every simulator that plays it."""

    def reset(self, spec: Any, render: bool = True) -> Observation:
        observation = super().reset(spec, render)
        self.mode = self.CRASH if spec.seed == 1_000_001 else 0
        return observation


class CrashesOnce(BrokenWorld):
    """Dies in the first scene and never again; the file named by $CRASH_FLAG remembers."""

    def reset(self, spec: Any, render: bool = True) -> Observation:
        observation = super().reset(spec, render)
        flag = Path(os.environ["CRASH_FLAG"])
        self.mode = 0 if flag.exists() else self.CRASH
        flag.touch()
        return observation


class Stubborn(FakeWorld):
    """Odd seeds cannot be solved; seed 5 breaks the simulator."""

    def reset(self, spec: Any, render: bool = True) -> Observation:
        self.seed = spec.seed
        return super().reset(spec, render)

    def expert_action(self) -> np.ndarray:
        if self.seed == 5:
            raise RuntimeError("solver diverged")
        return super().expert_action() * np.float32(1 - self.seed % 2)


class CarrotWorld(FakeWorld):
    """A carrot on the left, a mug on the right."""

    def visible_objects(self) -> dict[str, Any]:
        return {"carrot": (0.25, 0.5, 0.0, 0.0, 0.0), "mug": (0.75, 0.5, 0.0, 0.0, 0.0)}
