"""One SAPIEN scene that holds the whole catalog, built once: a reset only moves things, so nothing leaks.

Objects that a scene does not use are parked: taken out of physics and rendering, far from the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
import torch
import trimesh
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.structs.actor import Actor
from mani_skill.utils.structs.articulation import Articulation
from mani_skill.utils.structs.types import SceneConfig, SimConfig
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sim import objects
from sim.interface import CONTROL_HZ
from sim.layout import TABLE_Z, TEXTURES, Layout
from sim.objects import ASSETS, ObjectInfo
from sim.robots import BASE_POSE, HOME_QPOS, WidowX
from sim.snapshot import Snapshot, Thing
from sim.stage import (
    FULL_SIZE,
    SIM_HZ,
    Stage,
    body_rows,
    camera_config,
    render_backend,
    rotation,
    set_body_rows,
)

PARK_Z = -5.0
TABLE_X, TABLE_Y = (-0.75, 0.55), (-0.75, 0.80)
"""The table's extent in the world [m]: it fills the lower part of the camera's view."""
AMBIENT, SUN = 0.42, 1.7
"""Grey levels of the ambient and the one directional light, which casts no shadow: a shadow map costs CPU time."""
BACKDROP_X = -1.1


def _quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


class World(Stage, BaseEnv):
    """ManiSkill environment with robot, table, catalog and cabinet; `arrange(layout)` sets the stage.

    On a CPU, SAPIEN's "minimal" shader takes two thirds of the time of its "default", for the same picture to half a
    grey level on average.
    """

    SUPPORTED_OBS_MODES = ("none",)
    SUPPORTED_REWARD_MODES = ("none",)

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE, shader: str = "minimal") -> None:
        self.actors: dict[str, Actor] = {}
        self._present: list[str] = []
        self.cabinet: Articulation
        super().__init__(
            obs_mode="none",
            reward_mode="none",
            robot_uids=WidowX,
            sim_backend="physx_cpu",
            render_backend=render_backend(),
            sensor_configs=camera_config(image_size, shader, near=0.02, far=5.0),
        )
        self.open_camera()
        self._camera_rest = self._camera.local_pose

    @property
    def _default_sim_config(self) -> SimConfig:
        scene = SceneConfig(enable_enhanced_determinism=True, contact_offset=0.005, cpu_workers=0)
        return SimConfig(sim_freq=SIM_HZ, control_freq=CONTROL_HZ, scene_config=scene)

    # ---- building, once

    def _load_agent(self, options: dict[str, Any]) -> None:  # type: ignore[override]
        super()._load_agent(options, BASE_POSE)

    def _load_scene(self, options: dict[str, Any]) -> None:
        self._build_table()
        for info in objects.catalog().values():
            if info.role != "fixture":
                self.actors[info.id] = self._build_object(info)
        self._present = list(self.actors)
        loader = self.scene.create_urdf_loader()
        loader.fix_root_link = True
        loader.name = "cabinet"
        builder = loader.parse(str(ASSETS / "cabinet" / "cabinet.urdf"))["articulation_builders"][0]
        builder.initial_pose = sapien.Pose([0, 0, PARK_Z])
        self.cabinet = builder.build()
        for joint in self.cabinet.active_joints:
            joint.set_friction(0.5)
            joint.set_drive_properties(stiffness=0.0, damping=8.0)

    def _build_table(self) -> None:
        """A solid slab whose top is one textured quad; textures are swapped on the quad's material."""
        builder = self.scene.create_actor_builder()
        centre = [(TABLE_X[0] + TABLE_X[1]) / 2, (TABLE_Y[0] + TABLE_Y[1]) / 2, TABLE_Z - 0.05]
        half = [(TABLE_X[1] - TABLE_X[0]) / 2, (TABLE_Y[1] - TABLE_Y[0]) / 2, 0.05]
        builder.add_box_collision(sapien.Pose(centre), half)
        builder.initial_pose = sapien.Pose()
        table = builder.build_static(name="table")
        (x0, x1), (y0, y1), wall = TABLE_X, TABLE_Y, BACKDROP_X
        top = [(x0, y0, TABLE_Z), (x1, y0, TABLE_Z), (x1, y1, TABLE_Z), (x0, y1, TABLE_Z)]
        back = [(wall, 1.2, 1.6), (wall, -0.4, 1.6), (wall, -0.4, 0.4), (wall, 1.2, 0.4)]
        self._table_look = _Look("tables", top, repeat=2.0)
        self._backdrop_look = _Look("backdrops", back, repeat=1.0)
        body = sapien.render.RenderBodyComponent()
        for look in (self._table_look, self._backdrop_look):
            body.attach(look.shape)
        table._objs[0].add_component(body)

    def _build_object(self, info: ObjectInfo) -> Actor:
        builder = self.scene.create_actor_builder()
        material = sapien.physx.PhysxMaterial(info.friction, info.friction, 0.0)
        volume = sum(float(trimesh.load(path, force="mesh").convex_hull.volume) for path in info.collision)
        for path in info.collision:
            builder.add_convex_collision_from_file(str(path), material=material, density=info.mass / volume)
        builder.add_visual_from_file(str(info.visual))
        builder.initial_pose = sapien.Pose([0.3 * len(self.actors), 0.0, PARK_Z])
        actor = builder.build(name=info.id)
        body = actor._bodies[0]
        body.linear_damping, body.angular_damping = 0.5, 20.0 if info.yaw_period == 0 else 5.0
        body.solver_position_iterations = 20
        return actor

    def _load_lighting(self, options: dict[str, Any]) -> None:
        scene = self.scene.sub_scenes[0]
        scene.set_ambient_light([AMBIENT] * 3)
        self._sun = sapien.render.RenderDirectionalLightComponent()
        entity = sapien.Entity()
        entity.add_component(self._sun)
        scene.add_entity(entity)

    # ---- arranging, at every reset

    def arrange(self, layout: Layout) -> None:
        """Set all poses, the light, the texture and the camera; the robot goes home."""
        # PhysX hands out handles like a stack: taking things out in reverse order makes every reset start alike.
        for object_id in reversed(self._present):
            self._set_enabled(object_id, False)
            self.actors[object_id]._objs[0].set_pose(self._parking(object_id))
        self._present = list(layout.poses)
        for object_id, (x, y, yaw) in layout.poses.items():
            self.actors[object_id]._objs[0].set_pose(sapien.Pose([x, y, TABLE_Z + 0.0005], _quaternion(yaw)))
            self._set_enabled(object_id, True)
        self._arrange_cabinet(layout)
        self.dress(layout)
        self.agent.robot.set_pose(BASE_POSE)
        self.reset()
        self.agent.reset(torch.from_numpy(HOME_QPOS))
        self.agent.controller.reset()

    def _parking(self, object_id: str) -> sapien.Pose:
        return sapien.Pose([0.3 * list(self.actors).index(object_id), 0.0, PARK_Z])

    def _set_enabled(self, object_id: str, enabled: bool) -> None:
        """Put an object into physics and rendering, or take it out; out also forgets its old contacts."""
        actor = self.actors[object_id]
        for component in (actor._bodies[0], _render_body(actor._objs[0])):
            component.enable() if enabled else component.disable()

    def _arrange_cabinet(self, layout: Layout) -> None:
        pose = layout.cabinet
        x, y, yaw = pose if pose is not None else (0.0, 0.0, 0.0)
        z = TABLE_Z if pose is not None else PARK_Z
        self.cabinet.set_pose(sapien.Pose([x, y, z], _quaternion(yaw)))
        for link in self.cabinet.links:
            render = _render_body(link._objs[0].entity)
            if render is not None and render.is_enabled != (pose is not None):
                render.enable() if pose is not None else render.disable()
        names = [joint.name for joint in self.cabinet.active_joints]
        opening = dict(zip(("drawer_top", "drawer_middle", "drawer_bottom"), layout.drawers, strict=True))
        self.cabinet.set_qpos(torch.tensor([[opening[name] for name in names]], dtype=torch.float32))
        self.cabinet.set_qvel(torch.zeros(1, len(names)))

    def dress(self, layout: Layout) -> None:
        """Set light, texture and camera alone."""
        direction = np.array(layout.light_direction) / np.linalg.norm(layout.light_direction)
        turn, _ = Rotation.align_vectors(direction[None], np.array([[1.0, 0.0, 0.0]]))
        x, y, z, w = turn.as_quat()
        self._sun.entity.set_pose(sapien.Pose(q=[w, x, y, z]))
        self._sun.set_color([SUN * layout.light_gain] * 3)
        self._table_look.show(layout.texture)
        self._backdrop_look.show(layout.texture)
        x, y, z, w = Rotation.from_euler("XYZ", layout.camera_turn).as_quat()
        shift = sapien.Pose(self._camera_rest.p + np.array(layout.camera_shift), self._camera_rest.q)
        self._camera.set_local_pose(shift * sapien.Pose(q=[w, x, y, z]))

    def put(self, object_id: str, position: NDArray[np.float64]) -> None:
        """Set a thing down at `position` (3,) [m, base frame], turned as it is and at rest."""
        actor = self.actors[object_id]
        body, entity = actor._bodies[0], actor._objs[0]
        x, y, z = position
        entity.set_pose(sapien.Pose((BASE_POSE * sapien.Pose([x, y, z + 0.001])).p, entity.pose.q))
        body.linear_velocity = body.angular_velocity = np.zeros(3, np.float32)

    # ---- contacts

    def grasped(self, object_id: str) -> bool:
        """Whether both fingers press on the object."""
        return bool(self.agent.is_grasping(self.actors[object_id])[0])

    def touched(self, object_id: str) -> bool:
        """Whether any part of the gripper presses on the object."""
        actor = self.actors[object_id]
        fingers = (self.agent.finger1_link, self.agent.finger2_link)
        forces = [self.scene.get_pairwise_contact_forces(finger, actor) for finger in fingers]
        return any(float(torch.linalg.norm(force)) > 1e-3 for force in forces)

    # ---- state

    def snapshot(self, layout: Layout) -> Snapshot:
        """Robot and the layout's objects in the base frame."""
        base = BASE_POSE.inv()
        things = {}
        for object_id in layout.poses:
            actor = self.actors[object_id]
            pose = base * actor._objs[0].pose
            speed = float(np.linalg.norm(actor._bodies[0].linear_velocity))
            things[object_id] = Thing(objects.get(object_id), pose.p.astype(float), rotation(pose.q), speed)
        drawers, handles = {}, {}
        if layout.cabinet is not None:
            qpos = self.cabinet._objs[0].get_qpos()
            for joint, value in zip(self.cabinet.active_joints, qpos, strict=True):
                name = joint.name.removeprefix("drawer_")
                drawers[name] = float(value)
                handle = self.cabinet.links_map[f"handle_{name}"]._objs[0].entity.pose
                handles[name] = (base * handle).p.astype(float)
        return Snapshot(
            **self.hand(),
            things=things,
            pressed=self.pressed({name: self.actors[name] for name in things}),
            drawers=drawers,
            handles=handles,
        )

    def physics_state(self, layout: Layout) -> dict[str, NDArray[np.float64]]:
        """Flat arrays: "robot" (16,) qpos, qvel; "commanded" (7,); "objects" (13 n,) as laid out; "cabinet" (6,)."""
        cabinet = self.cabinet._objs[0]
        return {
            **self.robot_state(),
            "objects": body_rows(self.actors[object_id] for object_id in layout.poses),
            "cabinet": np.concatenate([cabinet.get_qpos(), cabinet.get_qvel()]).astype(float),
        }

    def set_physics_state(self, layout: Layout, state: dict[str, NDArray[np.float64]]) -> None:
        """Restore what `physics_state` gave for the same layout."""
        self.set_robot_state(state)
        set_body_rows((self.actors[object_id] for object_id in layout.poses), state["objects"])
        cabinet = np.asarray(state["cabinet"], dtype=np.float32)
        self.cabinet._objs[0].set_qpos(cabinet[: len(cabinet) // 2])
        self.cabinet._objs[0].set_qvel(cabinet[len(cabinet) // 2 :])


def _render_body(entity: sapien.Entity) -> Any:
    return entity.find_component_by_type(sapien.render.RenderBodyComponent)


class _Look:
    """A flat quad whose texture can be exchanged among the pictures of one folder of `assets/textures`."""

    def __init__(self, folder: str, corners: list[tuple[float, float, float]], repeat: float) -> None:
        files = sorted((ASSETS / "textures" / folder).glob("*.jpg"))
        if len(files) < TEXTURES:
            raise ValueError(f"assets/textures/{folder} holds {len(files)} pictures, {TEXTURES} are needed.")
        self._textures = [sapien.render.RenderTexture2D(str(path), mipmap_levels=6) for path in files[:TEXTURES]]
        self._material = sapien.render.RenderMaterial(base_color=[1, 1, 1, 1], roughness=0.9, specular=0.1)
        vertices = np.array(corners, dtype=np.float32)
        normal = np.cross(vertices[1] - vertices[0], vertices[2] - vertices[0])
        normals = np.tile((normal / np.linalg.norm(normal)).astype(np.float32), (4, 1))
        uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32) * repeat
        triangles = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.uint32)
        self.shape = sapien.render.RenderShapeTriangleMesh(vertices, triangles, normals, uv, self._material)

    def show(self, index: int) -> None:
        """Put on the picture with this index."""
        self._material.set_base_color_texture(self._textures[index])
