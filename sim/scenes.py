"""`Tabletop`: a scene that a policy or the expert can act in, one 0.2 s control step at a time."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from sim.disturb import Disturbance, moved, relooked
from sim.expert import expert_action, heading
from sim.interface import ACTION_DIM, Action, Observation, StepResult
from sim.layout import Layout, draw_layout
from sim.robots import openness, tool_rpy
from sim.snapshot import Snapshot
from sim.success import HOLD_STEPS, achieved, satisfied
from sim.tasks import SceneSpec
from sim.world import FULL_SIZE, World

State = dict[str, NDArray[np.float64]]
Keypoint = tuple[float, float, float, float, float]
"""u, v in 0..1 inside the frame, then x, y, z [m] in the robot's base frame."""


class Tabletop:
    """One simulator in this process. Built once; `reset` only moves things.

    Args:
        image_size: (width, height) of the frames; the picture is always the whole 4:3 view, only its scale changes.
    """

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE) -> None:
        self._world = World(image_size)
        self._spec: SceneSpec | None = None
        self.render_ms = 0.0
        """How long the latest picture took."""

    # ---- episodes

    def reset(self, spec: SceneSpec, render: bool = True) -> Observation:
        """Set up a scene; the same spec gives the same scene to the last pose."""
        self._spec, self._layout = spec, draw_layout(spec)
        self._world.arrange(self._layout)
        self._step, self._streak, self._changes = 0, 0, 0
        self._first = self.snapshot().things
        return self.observe(render)

    def step(self, action: Action, render: bool = True) -> StepResult:
        """Run one control step.

        Args:
            action: (7,) dx dy dz [m], droll dpitch dyaw [rad], gripper 1 open / 0 closed.
            render: False skips the camera; the observation's image is then None.

        Raises:
            ValueError: the action has another shape or is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise ValueError(f"An action is {ACTION_DIM} finite numbers, not {action!r}.")
        self._world.advance(action)
        self._step += 1
        spec = self._active
        self._streak = self._streak + 1 if achieved(spec, self.snapshot(), self._first, self._world) else 0
        success = self._streak >= HOLD_STEPS
        over = self._step >= spec.limit or (success and spec.ending == "first")
        return StepResult(self.observe(render), success, over)

    def observe(self, render: bool = True) -> Observation:
        """What the robot sees and feels now.

        The tool's pose is the one that the controller is heading for, because that is what an action is added to: the
        arm itself lags up to 4 cm behind, and a policy without memory could not tell how far it has already asked for.
        """
        position, quaternion = self._world.commanded_pose()
        proprio = np.array(
            [*position, *tool_rpy(quaternion), 0.0, openness(self._world.finger_position())], dtype=np.float32
        )
        started = time.perf_counter()
        picture = self._world.picture() if render else None
        self.render_ms = 1e3 * (time.perf_counter() - started) if render else 0.0
        return Observation(picture, proprio, self._step, self._world.measured())

    def disturb(self, change: Disturbance) -> Observation:
        """Move things or change the look between two control steps; what was moved counts from where it now lies.

        Raises:
            ValueError: the robot holds the thing, or there is no room for it.
        """
        if change.things:
            for name, position in moved(change, self.snapshot()).items():
                self._world.put(name, position)
            now = self.snapshot().things
            self._first = {**self._first, **{name: now[name] for name in change.things}}
        else:
            generator = np.random.default_rng([self._active.seed, 13, self._changes])
            self._layout = relooked(change, self._layout, generator)
            self._world.dress(self._layout)
        self._changes += 1
        return self.observe()

    @property
    def _active(self) -> SceneSpec:
        if self._spec is None:
            raise ValueError("There is no scene yet; call reset(spec) first.")
        return self._spec

    @property
    def layout(self) -> Layout:
        """Where things were put, and how the scene looks."""
        return self._layout

    # ---- privileged

    def snapshot(self) -> Snapshot:
        """The state that the expert and the success rules read."""
        return self._world.snapshot(self._layout)

    def expert_action(self) -> Action:
        """What the scripted expert would do now, whatever happened before: the first step that is not done."""
        state, steps = self.snapshot(), self._active.steps
        undone = (goal for goal in steps[:-1] if not satisfied(goal, state, self._first, self._world))
        return expert_action(next(undone, steps[-1]), state)

    def keypoints(self) -> dict[str, Keypoint]:
        """Where source and target are (for drawers: the handle, as both): u, v in the frame, x, y, z in the base."""
        goal, state = self._active.goal, self.snapshot()
        if goal.source is None:
            handle = self._keypoint(state.handles[goal.target or ""])
            return {"source": handle, "target": handle}
        source = self._keypoint(state.things[goal.source].centre)
        return {"source": source, "target": self._keypoint(state.things[goal.target].centre) if goal.target else source}

    def visible_objects(self) -> dict[str, Keypoint]:
        """Centre of every object of the scene, by id."""
        return {object_id: self._keypoint(thing.centre) for object_id, thing in self.snapshot().things.items()}

    def _keypoint(self, point: NDArray[np.float64]) -> Keypoint:
        u, v = self._world.project_base(point)
        return u, v, float(point[0]), float(point[1]), float(point[2])

    def state(self) -> State:
        """Everything that `set_state` needs to continue from here, as flat arrays."""
        progress = np.array([self._step, self._streak], dtype=float)
        return {**self._world.physics_state(self._layout), "progress": progress}

    def set_state(self, state: State) -> None:
        """Continue from a state that `state()` gave in the same scene (same spec)."""
        self._world.set_physics_state(self._layout, state)
        self._step, self._streak = (int(value) for value in np.asarray(state["progress"]))

    def close(self) -> None:
        """Free the simulator."""
        self._world.close()


def headings(world: Tabletop) -> dict[str, tuple[float, float]]:
    """`sim.expert.heading` of everything that can be grasped, by id. Runs in a simulator's process:
    `worker.run(headings)`."""
    things = world.snapshot().things
    return {name: heading(thing) for name, thing in things.items() if thing.info.grasp is not None}
