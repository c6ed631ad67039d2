"""`Simpler`: the official SimplerEnv scenes behind the same interface as our own tabletop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim import twin_assets
from sim.bridge import ENVIRONMENTS, BridgeTwin
from sim.expert import expert_action
from sim.interface import ACTION_DIM, Action, Observation, StepResult
from sim.robots import openness, tool_rpy
from sim.stage import FULL_SIZE
from sim.twins import TwinScene

State = dict[str, NDArray[np.float64]]
Keypoint = tuple[float, float, float, float, float]
"""u, v in 0..1 inside the frame, then x, y, z [m] in the robot's base frame."""


class Simpler:
    """One simulator in this process. A scene's environment is built when it is first asked for, and kept.

    Args:
        image_size: (width, height) of the frames; the picture is always the whole view, only its scale changes.
    """

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE) -> None:
        self._image_size = image_size
        self._environments: dict[str, BridgeTwin] = {}
        self._scene: TwinScene | None = None

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
        if spec.twin not in self._environments:
            self._environments[spec.twin] = ENVIRONMENTS[spec.twin](self._image_size)
        self._scene, self._step = spec, 0
        self._environment.arrange(spec.seed)
        return self.observe(render)

    def step(self, action: Action, render: bool = True) -> StepResult:
        """Run one control step of 0.2 s; as `Tabletop.step`."""
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
        """What the robot sees and feels now; `proprio` as on the tabletop (the commanded pose)."""
        position, quaternion = self._environment.commanded_pose()
        opening = openness(self._environment.finger_position())
        proprio = np.array([*position, *tool_rpy(quaternion), 0.0, opening], dtype=np.float32)
        return Observation(self._environment.picture() if render else None, proprio, self._step)

    @property
    def _active(self) -> TwinScene:
        if self._scene is None:
            raise ValueError("There is no scene yet; call reset(spec) first.")
        return self._scene

    @property
    def _environment(self) -> BridgeTwin:
        return self._environments[self._active.twin]

    # ---- privileged

    def expert_action(self) -> Action:
        """What the scripted expert would do now, whatever happened before."""
        return expert_action(self._environment.goal, self._environment.snapshot())

    def keypoints(self) -> dict[str, Keypoint]:
        """Where source and target are: u, v in the frame, x, y, z in the base."""
        goal, seen = self._environment.goal, self.visible_objects()
        return {"source": seen[str(goal.source)], "target": seen[str(goal.target)]}

    def visible_objects(self) -> dict[str, Keypoint]:
        """Centre of every object of the scene, by its official id."""
        things = self._environment.snapshot().things
        return {name: self._keypoint(things[name].centre) for name in self._environment.objs}

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
