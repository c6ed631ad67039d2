"""What every scene of a WidowX shares: stepping, the commanded pose, contacts, states of bodies, the camera."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.structs.actor import Actor
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sim.interface import CONTROL_HZ
from sim.rendering import on_nvidia
from sim.robots import CAMERA, POINTING_DOWN, openness

SIM_HZ = 500
FULL_SIZE = (640, 480)


class Stage:
    """Mixed into ManiSkill environments with a WidowX on the CPU. Frames are the robot's base frame, in metres."""

    agent: Any
    scene: Any
    _sensors: Any

    def open_camera(self) -> None:
        """Find the camera; once, after the environment is built."""
        self._camera = self._sensors[CAMERA].camera._render_cameras[0]

    # ---- stepping

    def advance(self, action: NDArray[np.float32]) -> None:
        """One control step of 0.2 s; ManiSkill's own `step` costs twice as much in bookkeeping."""
        command = action.copy()
        command[6] = 2.0 * np.clip(action[6], 0.0, 1.0) - 1.0
        self.agent.set_action(torch.from_numpy(command)[None])
        physics = self.scene.px
        for _ in range(SIM_HZ // CONTROL_HZ):
            physics.step()

    @property
    def _arm(self) -> Any:
        return self.agent.controller.controllers["arm"]

    @property
    def _robot(self) -> Any:
        return self.agent.robot._objs[0]

    def commanded_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tool position [m] and orientation (wxyz) in the base frame that the controller is heading for."""
        raw = self._arm._target_pose.raw_pose[0].double().numpy()
        return raw[:3], raw[3:]

    def finger_position(self) -> float:
        """Mean position of the two finger joints [m]."""
        return float(self._robot.get_qpos()[6:].mean())

    # ---- state

    @property
    def _tool(self) -> sapien.Pose:
        """Where the tool is, in the base frame."""
        return self._robot.pose.inv() * self._arm.ee_link._objs[0].entity.pose

    def measured(self) -> NDArray[np.float32]:
        """(8,), see `sim.interface.Observation`."""
        tool = self._tool
        return np.array([*tool.p, *tool.q, openness(self.finger_position())], np.float32)

    def hand(self) -> dict[str, Any]:
        """The fields of `Snapshot` that describe the tool."""
        tool = self._tool
        position, quaternion = self.commanded_pose()
        return {
            "tool": tool.p.astype(float),
            "tool_rotation": rotation(tool.q) * POINTING_DOWN.inv(),
            "commanded": position,
            "commanded_rotation": rotation(quaternion) * POINTING_DOWN.inv(),
            "opening": openness(self.finger_position()),
        }

    def pressed(self, actors: Mapping[str, Actor]) -> frozenset[str]:
        """Names of the actors that both fingers press on."""
        bodies = {actor._bodies[0]: name for name, actor in actors.items()}
        fingers = [link._objs[0] for link in (self.agent.finger1_link, self.agent.finger2_link)]
        touching: dict[str, set[int]] = {}
        for contact in self.scene.px.get_contacts():
            for body, other in (contact.bodies, contact.bodies[::-1]):
                if body in bodies and other in fingers and any(np.any(point.impulse) for point in contact.points):
                    touching.setdefault(bodies[body], set()).add(fingers.index(other))
        return frozenset(name for name, sides in touching.items() if len(sides) == 2)

    def robot_state(self) -> dict[str, NDArray[np.float64]]:
        """Flat arrays: "robot" (16,) qpos, qvel; "commanded" (7,)."""
        return {
            "robot": np.concatenate([self._robot.get_qpos(), self._robot.get_qvel()]).astype(float),
            "commanded": np.concatenate(self.commanded_pose()),
        }

    def set_robot_state(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Restore what `robot_state` gave."""
        robot = np.asarray(state["robot"], dtype=np.float32)
        self._robot.set_qpos(robot[:8])
        self._robot.set_qvel(robot[8:])
        commanded = torch.tensor(np.asarray(state["commanded"]), dtype=torch.float32)[None]
        self._arm.set_state({"target_pose": commanded})

    # ---- looking

    def picture(self) -> NDArray[np.uint8]:
        """Render the 3rd-view camera: (height, width, 3) uint8 RGB."""
        self.scene.sub_scenes[0].update_render()
        self._camera.take_picture()
        colour = self._camera.get_picture("Color")
        if colour.dtype != np.uint8:
            colour = (np.clip(colour, 0.0, 1.0) * 255).astype(np.uint8)
        return np.ascontiguousarray(colour[..., :3])

    def project_base(self, point: NDArray[np.floating]) -> tuple[float, float]:
        """Point in the robot's base frame [m] to (u, v), 0..1 inside the image."""
        forward, left, up = (self._camera.local_pose.inv() * sapien.Pose(point)).p
        camera = self._camera
        u = (camera.cx - camera.fx * left / forward) / camera.width
        v = (camera.cy - camera.fy * up / forward) / camera.height
        return float(u), float(v)


def camera_config(image_size: tuple[int, int], shader: str = "default", **changes: Any) -> dict[str, dict[str, Any]]:
    """ManiSkill's `sensor_configs` for frames of (width, height) pixels: the whole 4:3 view, whatever its scale."""
    scale = np.array([image_size[0] / FULL_SIZE[0], image_size[1] / FULL_SIZE[1], 1.0])
    intrinsic = np.array([[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]]) * scale[:, None]
    size = {"width": image_size[0], "height": image_size[1]}
    return {CAMERA: dict(**size, intrinsic=intrinsic, shader_pack=shader, **changes)}


def render_backend() -> str:
    """ManiSkill's name for where to render here."""
    return "gpu" if torch.cuda.is_available() and on_nvidia() else "cpu"


def body_rows(actors: Iterable[Actor]) -> NDArray[np.float64]:
    """(13 n,): position, quaternion, linear and angular velocity of each actor."""
    rows = []
    for actor in actors:
        body, pose = actor._bodies[0], actor._objs[0].pose
        rows.append(np.concatenate([pose.p, pose.q, body.linear_velocity, body.angular_velocity]))
    return np.concatenate(rows).astype(float) if rows else np.zeros(0)


def set_body_rows(actors: Iterable[Actor], rows: NDArray[np.float64]) -> None:
    """Restore what `body_rows` gave for the same actors."""
    for actor, row in zip(actors, np.asarray(rows).reshape(-1, 13), strict=True):
        body, entity = actor._bodies[0], actor._objs[0]
        entity.set_pose(sapien.Pose(row[:3], row[3:7]))
        body.linear_velocity, body.angular_velocity = row[7:10], row[10:]


def rotation(quaternion_wxyz: NDArray[np.floating]) -> Rotation:
    """The rotation of a quaternion as SAPIEN writes it."""
    w, x, y, z = (float(value) for value in quaternion_wxyz)
    return Rotation.from_quat([x, y, z, w])
