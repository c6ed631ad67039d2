"""WidowX-250S as SimplerEnv drives it: the agent class and the tool's pose in the base frame.

Gains, limits, camera intrinsics and the control mode `arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos` come
from ManiSkill's own Bridge agent, which is subclassed; the URDF and its meshes are this repository's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sapien
from mani_skill.agents.registration import register_agent
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import WidowX250SBridgeDatasetFlatTable
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BASE_POSE = sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1])
"""Base of the robot in the world; +x of the base looks along -x of the world."""
HOME_QPOS = np.array([-0.018, 0.040, 0.222, -0.005, 1.365, 0.0015, 0.037, 0.037], dtype=np.float32)
"""Six arm joints [rad], two finger joints [m]; gripper over the table, pointing down, open."""
FINGER_CLOSED, FINGER_OPEN = 0.015, 0.037
CAMERA = "3rd_view_camera"
POINTING_DOWN = Rotation.from_euler("y", 90, degrees=True)
"""Tool orientation in the base frame that counts as rpy 0: the tool's x axis looks down, the fingers close along y."""


@register_agent()
class WidowX(WidowX250SBridgeDatasetFlatTable):
    """ManiSkill's Bridge WidowX on this repository's URDF, with SimplerEnv's finger friction (2.0, not 0.3)."""

    uid = "instructvla_widowx"
    urdf_path = str(ASSETS / "robots" / "widowx" / "wx250s.urdf")
    disable_self_collisions = True
    urdf_config = dict(
        _materials=dict(fingers=dict(static_friction=2.0, dynamic_friction=2.0, restitution=0.0)),
        link={
            name: dict(material="fingers", patch_radius=0.01, min_patch_radius=0.01)
            for name in ("left_finger_link", "right_finger_link")
        },
    )

    @property
    def _controller_configs(self) -> dict[str, Any]:
        configs: dict[str, Any] = super()._controller_configs
        for config in configs.values():
            config["gripper"].mimic = {"right_finger": {"joint": "left_finger"}}
        return configs


def tool_rpy(quaternion_wxyz: NDArray[np.floating]) -> NDArray[np.float64]:
    """Roll, pitch, yaw [rad] of a tool orientation in the base frame, relative to pointing straight down."""
    w, x, y, z = (float(value) for value in quaternion_wxyz)
    relative = Rotation.from_quat([x, y, z, w]) * POINTING_DOWN.inv()
    return relative.as_euler("XYZ")


def openness(finger_joint: float) -> float:
    """Opening of the gripper in 0..1 from a finger joint position [m]."""
    return float(np.clip((finger_joint - FINGER_CLOSED) / (FINGER_OPEN - FINGER_CLOSED), 0.0, 1.0))
