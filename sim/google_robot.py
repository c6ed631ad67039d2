"""The Google robot as SimplerEnv drives it, one robot on the CPU: planned end-effector deltas at 3 Hz, 513 Hz physics.

ManiSkill 3 has the robot's picture but no controller. This is SimplerEnv's
`arm_pd_ee_delta_pose_align_interpolate_by_planner_gripper_pd_joint_target_delta_pos_interpolate_by_planner`: every
control step plans a jerk-limited joint path from where the last path broke off, and PD drives follow it. Gains and
limits are those of ManiSkill2_real2sim (`agents/configs/google_robot/defaults.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ruckig
import sapien
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sim.stage import rotation

SIM_HZ, CONTROL_HZ = 513, 3
ARM = ("torso", "shoulder", "bicep", "elbow", "forearm", "wrist", "gripper")
ARM_STIFFNESS = (
    1700.0,
    1737.0471680861954,
    979.975871856535,
    930.0,
    1212.154500274304,
    432.96500923932535,
    468.0013365498738,
)
ARM_DAMPING = (
    1059.9791902443303,
    1010.4720585373592,
    767.2803161582076,
    680.0,
    674.9946964336588,
    274.613381336198,
    340.532560578637,
)
ARM_FORCE = (300.0, 300.0, 100.0, 100.0, 100.0, 100.0, 100.0)
ARM_LIMITS = (1.5, 2.0, 50.0)
"""Velocity [rad/s], acceleration [rad/s^2] and jerk [rad/s^3] of a planned arm path."""
FINGERS = ("finger_right", "finger_left")
FINGER_DELTA, FINGER_CLOSED = 1.31, 1.3
"""What a gripper command of 1 adds to the finger joints' target [rad], and where they are closed; open is 0."""
FINGER_SLACK = 0.01
"""The target may lie this far beyond open and closed [rad], so that closed fingers still press."""
FINGER_LIMITS = (1.0, 7.0, 50.0)
HEAD = ("head_pan", "head_tilt")
SMALL = 0.01
"""A gripper command below this repeats the last target."""
HOME = {
    "torso": -0.2639457174606611,
    "shoulder": 0.0831913360274175,
    "bicep": 0.5017611504652179,
    "elbow": 1.156859026208673,
    "forearm": 0.028583671314766423,
    "wrist": 1.592598203487462,
    "gripper": -1.080652960128774,
    "finger_right": 0.0,
    "finger_left": 0.0,
    "head_pan": -0.00285961,
    "head_tilt": 0.7851361,
}
BASE_Z = 0.07905
FINGER_LINKS = {
    side: (f"link_finger_{side}", f"link_finger_tip_{side}", f"link_finger_nail_{side}") for side in ("left", "right")
}


class JointPath:
    """Positions and velocities of some joints over one control step, continued from step to step."""

    def __init__(self, limits: tuple[float, float, float], joints: int) -> None:
        self._planner = ruckig.Ruckig(joints, 1.0 / SIM_HZ)
        self._input = ruckig.InputParameter(joints)
        self._trajectory = ruckig.Trajectory(joints)
        for name, limit in zip(("velocity", "acceleration", "jerk"), limits, strict=True):
            setattr(self._input, f"max_{name}", [limit] * joints)
        self.restart(np.zeros(joints))

    def restart(self, position: NDArray[np.floating]) -> None:
        """Stand still at a position [rad]."""
        self.position, self.velocity = np.asarray(position, float), np.zeros(len(position))
        self.plan(self.position)

    def plan(self, target: NDArray[np.floating]) -> None:
        """Head for `target` [rad] from where the path is now, at the speed it has now."""
        self._input.current_position, self._input.current_velocity = self.position.tolist(), self.velocity.tolist()
        self._input.target_position = np.asarray(target, float).tolist()
        self._planner.calculate(self._input, self._trajectory)

    def move_to(self, seconds: float) -> None:
        """Follow the plan to a time after `plan`."""
        position, velocity, _ = self._trajectory.at_time(min(seconds, self._trajectory.duration))
        self.position, self.velocity = np.array(position), np.array(velocity)


class GoogleRobot:
    """The robot in a SAPIEN scene whose time step is 1 / `SIM_HZ`. Poses are in its base frame, in metres."""

    def __init__(self, scene: sapien.Scene, urdf: Path) -> None:
        loader = scene.create_urdf_loader()
        loader.fix_root_link = True
        self.body = loader.load(str(urdf))
        self._scene = scene
        self._joints = {joint.name.removeprefix("joint_"): joint for joint in self.body.active_joints}
        self._index = {name: index for index, name in enumerate(self._joints)}
        self.links = {link.name: link for link in self.body.links}
        self.tool_link = self.links["link_gripper_tcp"]
        for link in self.body.links:
            link.disable_gravity = True  # SimplerEnv balances passive forces
        for name, stiffness, damping, force in zip(ARM, ARM_STIFFNESS, ARM_DAMPING, ARM_FORCE, strict=True):
            self._joints[name].set_drive_properties(stiffness, damping, force, "force")
        for name in HEAD:
            self._joints[name].set_drive_properties(2000.0, 900.0, 100.0, "force")
        for name in FINGERS:
            self._joints[name].set_drive_properties(200.0, 8.0, 60.0, "force")
        self._set_friction()
        self._model = self.body.create_pinocchio_model()
        self._tool_index = [link.name for link in self.body.links].index("link_gripper_tcp")
        self._arm_mask = np.array([name in ARM for name in self._joints])
        self._arm_path, self._finger_path = JointPath(ARM_LIMITS, len(ARM)), JointPath(FINGER_LIMITS, 1)
        self._finger_target = 0.0

    def _set_friction(self) -> None:
        for names in FINGER_LINKS.values():
            for name in names:
                nail = "nail" in name
                material = sapien.physx.PhysxMaterial(*((0.1, 0.1) if nail else (2.0, 2.0)), 0.0)
                for shape in self.links[name].collision_shapes:
                    shape.set_physical_material(material)
                    shape.set_patch_radius(0.01 if nail else 0.1)
                    shape.set_min_patch_radius(0.01 if nail else 0.1)

    # ---- control

    def home(self, x: float, y: float, yaw: float) -> None:
        """Stand at (x, y) [m] of the world, looking along -x turned by `yaw` [rad], arm and gripper at rest."""
        turn = Rotation.from_euler("z", yaw + np.pi).as_quat()
        self.body.set_pose(sapien.Pose([x, y, BASE_Z], [turn[3], *turn[:3]]))
        self.body.set_qpos(np.array([HOME[name] for name in self._joints], dtype=np.float32))
        self.body.set_qvel(np.zeros(len(self._joints), dtype=np.float32))
        for name, joint in self._joints.items():
            joint.set_drive_target(HOME[name])
            joint.set_drive_velocity_target(0.0)
        self._arm_path.restart(self._positions(ARM))
        self._finger_path.restart(np.zeros(1))
        self._finger_target = 0.0

    def advance(self, action: NDArray[np.floating]) -> None:
        """One control step of 1/3 s.

        Args:
            action: (7,) dx dy dz [m] and Euler XYZ [rad] in the base frame, added to the tool's present pose; then
                the gripper's relative command, +1 closing, -1 opening, 0 as before.
        """
        tool, turned = self.tool()
        wanted = (Rotation.from_euler("XYZ", action[3:6]) * turned).as_quat()
        pose = sapien.Pose(tool + action[:3], [wanted[3], *wanted[:3]])
        qpos, found, _ = self._model.compute_inverse_kinematics(
            self._tool_index, pose, initial_qpos=self.body.qpos, active_qmask=self._arm_mask, max_iterations=100
        )
        aim = np.array([qpos[self._index[name]] for name in ARM]) if found else self._positions(ARM)
        self._arm_path.plan(aim)
        if abs(action[6]) >= SMALL:
            target = self._finger_path.position[0] + FINGER_DELTA * float(np.clip(action[6], -1.0, 1.0))
            self._finger_target = float(np.clip(target, -FINGER_SLACK, FINGER_CLOSED + FINGER_SLACK))
        self._finger_path.plan(np.array([self._finger_target]))
        for step in range(1, SIM_HZ // CONTROL_HZ + 1):
            self._follow(step / SIM_HZ)
            self._scene.physx_system.step()

    def _follow(self, seconds: float) -> None:
        self._arm_path.move_to(seconds)
        self._finger_path.move_to(seconds)
        for name, position in zip(ARM, self._arm_path.position, strict=True):
            self._joints[name].set_drive_target(position)
        for name in FINGERS:
            self._joints[name].set_drive_target(self._finger_path.position[0])
            self._joints[name].set_drive_velocity_target(self._finger_path.velocity[0])

    # ---- state

    def tool(self) -> tuple[NDArray[np.float64], Rotation]:
        """Position [m] and orientation of `link_gripper_tcp`: its z axis points out of the hand, fingers close
        along y."""
        pose = self.body.pose.inv() * self.tool_link.entity.pose
        return pose.p.astype(float), rotation(pose.q)

    def opening(self) -> float:
        """1 with the fingers open, 0 closed."""
        return float(np.clip(1.0 - self._positions(FINGERS).mean() / FINGER_CLOSED, 0.0, 1.0))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Flat arrays: "robot" (22,) qpos and qvel; "paths" (17,) of arm and fingers, and the fingers' target."""
        paths = (self._arm_path.position, self._arm_path.velocity, self._finger_path.position)
        return {
            "robot": np.concatenate([self.body.qpos, self.body.qvel]).astype(float),
            "paths": np.concatenate([*paths, self._finger_path.velocity, [self._finger_target]]),
        }

    def set_state(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Restore what `state` gave."""
        robot = np.asarray(state["robot"], dtype=np.float32)
        self.body.set_qpos(robot[: len(robot) // 2])
        self.body.set_qvel(robot[len(robot) // 2 :])
        paths = np.asarray(state["paths"], float)
        self._arm_path.position, self._arm_path.velocity = paths[:7], paths[7:14]
        self._finger_path.position, self._finger_path.velocity = paths[14:15], paths[15:16]
        self._finger_target = float(paths[16])

    def _positions(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        qpos = self.body.qpos
        return np.array([qpos[self._index[name]] for name in names], float)
