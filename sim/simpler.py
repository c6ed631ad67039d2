"""`Simpler`: the official SimplerEnv scenes behind the same interface as our own tabletop."""

from __future__ import annotations

import time
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from sim import twin_assets
from sim.bridge import ENVIRONMENTS, BridgeTwin
from sim.disturb import FIXED, Disturbance
from sim.fractal import Fractal
from sim.interface import ACTION_DIM, Action, Observation, StepResult
from sim.stage import FULL_SIZE
from sim.twins import TwinScene

State = dict[str, NDArray[np.float64]]
Keypoint = tuple[float, float, float, float, float]
"""u, v in 0..1 inside the frame, then x, y, z [m] in the robot's base frame."""

Environment = BridgeTwin | Fractal


class Simpler:
    """One simulator in this process. A scene's environment is built when it is first asked for, and kept.

    Args:
        image_size: (width, height) of the frames; the picture is always the whole view, only its scale changes.
    """

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE) -> None:
        self._image_size = image_size
        self._environments: dict[str, Environment] = {}
        self._scene: TwinScene | None = None
        self.render_ms = 0.0
        """How long the latest picture took."""

    @property
    def rebuilds(self) -> int:
        """Environments built in this process (see `SimWorker`)."""
        return len(self._environments)

    # ---- episodes

    def reset(self, spec: TwinScene, render: bool = True) -> Observation:
        """Lay out an official episode; the same spec gives the same scene to the last pose.

        Raises:
            ValueError: the official assets are not here; the message names the command that fetches them.
        """
        twin_assets.require(spec.twin)
        name = _environment_of(spec)
        if name not in self._environments:
            build = Fractal if name == "google_robot" else ENVIRONMENTS[name]
            self._environments[name] = build(self._image_size)
        self._scene, self._step = spec, 0
        self._environment.arrange(spec)
        return self.observe(render)

    def step(self, action: Action, render: bool = True) -> StepResult:
        """Run one control step (WidowX: 0.2 s, as `Tabletop.step`; Google robot: 1/3 s, see `GoogleRobot.advance`)."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise ValueError(f"An action is {ACTION_DIM} finite numbers, not {action!r}.")
        self._environment.advance(action)
        self._step += 1
        success, over = self._environment.satisfied(), self._step >= self._active.limit
        if self._active.ending == "last":
            return StepResult(self.observe(render), success and over, over)
        return StepResult(self.observe(render), success, success or over)

    def observe(self, render: bool = True) -> Observation:
        """What the robot sees and feels now."""
        started = time.perf_counter()
        place, picture = self._environment, self._environment.picture() if render else None
        self.render_ms = 1e3 * (time.perf_counter() - started) if render else 0.0
        return Observation(picture, place.proprio(), self._step, place.measured())

    def disturb(self, change: Disturbance) -> NoReturn:
        """Raises ValueError: official scenes stay as they are."""
        raise ValueError(FIXED)

    @property
    def _active(self) -> TwinScene:
        if self._scene is None:
            raise ValueError("There is no scene yet; call reset(spec) first.")
        return self._scene

    @property
    def _environment(self) -> Environment:
        return self._environments[_environment_of(self._active)]

    # ---- privileged

    def expert_action(self) -> Action:
        """What the scripted expert would do now, whatever happened before."""
        return self._environment.expert_action()

    def keypoints(self) -> dict[str, Keypoint]:
        """Where source and target are: u, v in the frame, x, y, z in the base; empty before drawers."""
        goal, seen = self._environment.goal, self.visible_objects()
        if goal.source is None:
            return {}
        return {"source": seen[goal.source], "target": seen[goal.target or goal.source]}

    def visible_objects(self) -> dict[str, Keypoint]:
        """Centre of every object of the scene, by its official id."""
        return {name: self._keypoint(centre) for name, centre in self._environment.centres().items()}

    def _keypoint(self, point: NDArray[np.float64]) -> Keypoint:
        u, v = self._environment.project_base(point)
        return u, v, float(point[0]), float(point[1]), float(point[2])

    def state(self) -> State:
        """Everything that `set_state` needs to continue from here, as flat arrays."""
        return {**self._environment.physics_state(), "progress": np.array([self._step], dtype=float)}

    def set_state(self, state: State) -> None:
        """Continue from a state that `state()` gave in the same scene (same spec)."""
        self._environment.set_physics_state(state)
        self._step = int(np.asarray(state["progress"])[0])

    def close(self) -> None:
        """Free the simulators."""
        for environment in self._environments.values():
            environment.close()


def _environment_of(scene: TwinScene) -> str:
    """All scenes of the Google robot share one environment; each of the WidowX's has its own."""
    return "google_robot" if scene.official.robot == "google_robot" else scene.twin
