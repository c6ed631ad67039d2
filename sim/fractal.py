"""SimplerEnv's Google-robot scenes (visual matching) on SAPIEN 3: coke can, move near, drawers, apple in drawer.

One scene holds everything and is built once; a reset moves things in and out. Layouts are in `sim.fractal_layouts`, the
controller in `sim.google_robot`. Everything but the robot, the things and the cabinet is drawn from the task's photo,
so table and floor are plain boxes. SimplerEnv ray-traces its drawer scenes; here they are rasterised, without shadows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import sapien
from numpy.typing import NDArray
from PIL import Image

from sim import fractal_layouts, twin_assets
from sim.fractal_expert import expert_action
from sim.fractal_layouts import CAN, COLOUR, NAMES, TABLE_Z
from sim.google_robot import BASE_Z, FINGER_LINKS, SIM_HZ, GoogleRobot
from sim.interface import Action
from sim.objects import ObjectInfo
from sim.snapshot import Snapshot, Thing
from sim.stage import render_backend, rotation
from sim.tasks import Goal
from sim.twins import TwinScene

FULL_SIZE = (640, 512)
LAMPS = ((0, 0, -1), (-1, -0.5, -1), (1, 1, -1))
TABLE_LIGHT, DRAWER_LIGHT = (0.3, 2.2, 0.7, 0.7), (0.65, 1.3, 0.0, 0.0)
"""Grey levels of the ambient light and of the lamps. Before the cabinet SimplerEnv has ambient light alone, ray-traced;
a lamp from above makes up for the depth that a rasterised picture would lack."""
PARK_Z = -5.0
CABINET = sapien.Pose([-0.295, 0.0, 0.017])
ABOVE_BASE = TABLE_Z - BASE_Z
"""Height of the table in the robot's base frame [m]."""
LIFTED, LIFTED_WELL, LIFTED_STEPS = 0.01, 0.02, 5
MOVED, FELL, SANK = 0.03, 0.15, 0.02
OPEN_TRAVEL, CLOSED_TRAVEL, AJAR = 0.15, 0.05, 0.05
PLACING_FROM = 100
"""Step from which the apple counts as being placed."""
NOTHING = 1e-6
"""Impulses below this are no contact."""


class Fractal:
    """All Google-robot scenes in one SAPIEN scene.

    Args:
        image_size: (width, height) asked for; frames keep SimplerEnv's 5:4 at that width.
    """

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE) -> None:
        self._size = image_size[0], round(image_size[0] * FULL_SIZE[1] / FULL_SIZE[0])
        data = twin_assets.real2sim()
        sapien.physx.set_scene_config(enable_enhanced_determinism=True)
        sapien.physx.set_shape_config(contact_offset=0.005)
        device = sapien.Device("cpu" if render_backend() == "cpu" else "cuda")
        self._scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem(device)])
        self._scene.set_timestep(1.0 / SIM_HZ)
        self._photos = data / "real_inpainting"
        self.robot = GoogleRobot(self._scene, twin_assets.google_urdf(COLOUR))
        self._models = {
            **json.loads((data / "custom" / "info_pick_custom_v0.json").read_text()),
            **json.loads((data / "custom" / "info_pick_custom_baked_tex_v1.json").read_text()),
        }
        self._bodies = {name: self._build(data / "custom" / "models" / name) for name in (CAN, *NAMES)}
        self._table = self._box((0.65, 0.62, 0.87), (-0.295, 0.21))
        self._cabinet = self._build_cabinet(data / "custom" / "mk_station_recolor.urdf")
        self._finger_sides = {self.robot.links[name]: side for side, names in FINGER_LINKS.items() for name in names}
        self._light()
        self._camera = self._mount_camera()
        links = [*self.robot.body.links, *self._cabinet.links]
        kept = [link.entity for link in links] + [body.entity for body in self._bodies.values()]
        self._kept = np.array([entity.per_scene_id for entity in kept])

    # ---- building, once

    def _build(self, folder: Path) -> Any:
        entry = self._models[folder.name]
        density = 200 if folder.name in ("baked_apple_v2", "orange") else entry.get("density", 1000)
        builder = self._scene.create_actor_builder()
        material = sapien.physx.PhysxMaterial(0.5, 0.5, 0.0)
        builder.add_multiple_convex_collisions_from_file(
            str(folder / "collision.obj"), material=material, density=density
        )
        builder.add_visual_from_file(str(twin_assets.visual_of(folder)))
        builder.initial_pose = sapien.Pose([0, len(self._models), PARK_Z])
        entity = builder.build(name=folder.name)
        body = entity.find_component_by_type(sapien.physx.PhysxRigidDynamicComponent)
        body.linear_damping = body.angular_damping = 0.1
        for shape in entity.find_component_by_type(sapien.render.RenderBodyComponent).render_shapes:
            for part in shape.parts:
                if part.material.emission_texture is not None:  # baked colours, drawn black without this
                    part.material.set_emission([1, 1, 1, 1])
                if folder.name != CAN:
                    part.material.roughness, part.material.metallic, part.material.specular = 1.0, 0.0, 0.0
        return body

    def _box(self, size: tuple[float, float, float], centre: tuple[float, float]) -> Any:
        builder = self._scene.create_actor_builder()
        builder.add_box_collision(half_size=[edge / 2 for edge in size])
        entity = builder.build_kinematic(name="table")
        self._table_pose = sapien.Pose([*centre, size[2] / 2])
        return entity

    def _build_cabinet(self, urdf: Path) -> Any:
        loader = self._scene.create_urdf_loader()
        loader.fix_root_link = True
        cabinet = loader.load(str(urdf))
        for joint in cabinet.active_joints:
            joint.set_friction(0.05)
            joint.set_drive_properties(0.0, 1.0)
        return cabinet

    def _light(self) -> None:
        self._lamps = [self._scene.add_directional_light(way, [1.0] * 3) for way in LAMPS]
        for link in self.robot.body.links:
            body = link.entity.find_component_by_type(sapien.render.RenderBodyComponent)
            for shape in body.render_shapes if body else ():
                for part in shape.parts:
                    part.material.specular, part.material.roughness = 0.9, 0.3

    def _mount_camera(self) -> Any:
        width, height = self._size
        mount = self.robot.links["link_camera"].entity
        turn = sapien.Pose(q=[0.5, 0.5, -0.5, 0.5])
        camera = self._scene.add_mounted_camera("overhead_camera", mount, turn, width, height, 1.0, 0.01, 10.0)
        focal = 425.0 * width / FULL_SIZE[0]
        camera.set_focal_lengths(focal, focal)
        camera.set_principal_point(width / 2, height / 2)
        return camera

    # ---- episodes

    def arrange(self, scene: TwinScene) -> None:
        """Lay out an official episode; the robot comes when everything has settled.

        The same episode settles alike to a fraction of a millimetre, not to the last bit: PhysX's order of contacts
        depends on what the scene held before.
        """
        self._layout = fractal_layouts.layout(scene.twin, scene.seed)
        self._step = self._lifted_steps = 0
        self._lifted = self._placed = False
        self.robot.home(20.0, 0.0, 0.0)
        drawer = self._layout.drawer
        self._table.set_pose(self._table_pose if drawer is None else sapien.Pose([0, 0, PARK_Z]))
        self._cabinet.set_pose(CABINET if drawer else sapien.Pose([0, 0, PARK_Z]))
        names = [joint.name for joint in self._cabinet.active_joints]
        opened = [self._layout.opened if name == f"{drawer}_drawer_joint" else 0.0 for name in names]
        self._cabinet.set_qpos(np.array(opened, dtype=np.float32))
        self._cabinet.set_qvel(np.zeros(len(names), dtype=np.float32))
        for index, name in enumerate(self._bodies):
            present = name in self._layout.things
            self._put(name, self._above_ground(name) if present else sapien.Pose([0.5 * index, 5.0, PARK_Z]), present)
        self._drop()
        self.robot.home(*self._layout.robot)
        ambient, *lamps = DRAWER_LIGHT if drawer else TABLE_LIGHT
        self._scene.set_ambient_light([ambient] * 3)
        for lamp, colour in zip(self._lamps, lamps, strict=True):
            lamp.set_color([colour] * 3)
        photo = Image.open(self._photos / f"{self._layout.photo}.png").convert("RGB")
        self._photo = np.asarray(photo.resize(self._size, Image.Resampling.BOX))
        self._first = {name: self._bodies[name].entity.pose for name in self._layout.things}

    def _put(self, name: str, pose: sapien.Pose, present: bool) -> None:
        """Place a thing; one that a scene does not use stands still, unseen, far below."""
        body = self._bodies[name]
        body.kinematic = not present
        body.entity.set_pose(pose)
        picture = body.entity.find_component_by_type(sapien.render.RenderBodyComponent)
        picture.enable() if present else picture.disable()
        if present:
            body.linear_velocity = body.angular_velocity = np.zeros(3)

    def _above_ground(self, name: str) -> sapien.Pose:
        x, y, turn = self._layout.things[name]
        ground = TABLE_Z if self._layout.drawer is None else CABINET.p[2] + 0.865
        half = np.abs(rotation(np.array(turn)).as_matrix()) @ self._half(name)
        return sapien.Pose([x, y, ground + half[2] + 0.005], turn)

    def _drop(self) -> None:
        """Things fall the last millimetres without tipping over, then settle freely."""
        bodies = [self._bodies[name] for name in self._layout.things]
        for body in bodies:
            body.set_locked_motion_axes([False, False, False, True, True, False])
        self._wait(0.5)
        for body in bodies:
            body.set_locked_motion_axes([False] * 6)
            body.linear_velocity = body.angular_velocity = np.zeros(3)
        self._wait(0.5)

    def _wait(self, seconds: float) -> None:
        for _ in range(int(SIM_HZ * seconds)):
            self._scene.physx_system.step()

    def _half(self, name: str) -> NDArray[np.float64]:
        box = self._models[name]["bbox"]
        return (np.array(box["max"]) - np.array(box["min"])) / 2

    def advance(self, action: NDArray[np.floating]) -> None:
        """One control step of 1/3 s; see `GoogleRobot.advance` for the action."""
        self.robot.advance(action)
        self._step += 1
        source = self._layout.source
        if source is None:
            return
        held = source in self.pressed()
        rise = self._bodies[source].entity.pose.p[2] - self._first[source].p[2]
        self._lifted = held and (self._lifted or (rise > LIFTED and not self._leans(source)))
        self._lifted_steps += int(self._lifted and rise > LIFTED_WELL)
        self._placed = self._placed or self._in_drawer(source)

    # ---- success rules

    def satisfied(self) -> bool:
        """SimplerEnv's success rule of the scene, now."""
        layout = self._layout
        if layout.target is not None:
            return self._is_near(str(layout.source), layout.target)
        if layout.drawer is None:
            return self._lifted or self._lifted_steps >= LIFTED_STEPS
        travel = self.travel(layout.drawer)
        if layout.source is not None:
            return self._step >= PLACING_FROM and travel >= AJAR and self._placed
        return travel <= CLOSED_TRAVEL if layout.opened else travel >= OPEN_TRAVEL

    def travel(self, drawer: str) -> float:
        """How far a drawer stands open [m]."""
        names = [joint.name for joint in self._cabinet.active_joints]
        return float(self._cabinet.qpos[names.index(f"{drawer}_drawer_joint")])

    def _is_near(self, source: str, target: str) -> bool:
        now = {name: self._bodies[name].entity.pose.p for name in self._layout.things}
        moved = {name: float(np.linalg.norm((now[name] - self._first[name].p)[:2])) for name in now}
        sunk = {name: float(self._first[name].p[2] - now[name][2]) for name in now}
        away = {name: float(np.linalg.norm((now[name] - now[source])[:2])) for name in now if name != source}
        upright = all(drop < (FELL if name in (source, target) else SANK) for name, drop in sunk.items())
        right_one = moved[source] > MOVED and moved[source] >= max(moved.values())
        reach = self._half_diagonal(source) + self._half_diagonal(target) + 0.10
        closest = all(away[target] <= other + 0.01 for other in away.values())
        return upright and right_one and away[target] < reach and closest

    def _half_diagonal(self, name: str) -> float:
        return float(np.linalg.norm((rotation(self._first[name].q).as_matrix() @ self._half(name))[:2]))

    def _contacts(self, body: Any) -> list[tuple[Any, Any]]:
        """The other side of each contact of `body` that presses: component and shape."""
        found = []
        for contact in self._scene.get_contacts():
            if body in contact.bodies and any(np.linalg.norm(point.impulse) > NOTHING for point in contact.points):
                other = 1 - contact.bodies.index(body)
                found.append((contact.bodies[other], contact.shapes[other]))
        return found

    def pressed(self) -> frozenset[str]:
        """Names of the things that the fingers of both sides press on."""
        sides = {
            name: {self._finger_sides.get(other) for other, _ in self._contacts(self._bodies[name])} - {None}
            for name in self._layout.things
        }
        return frozenset(name for name, touching in sides.items() if len(touching) == 2)

    def _leans(self, name: str) -> bool:
        own = set(self.robot.body.links)
        return any(other not in own for other, _ in self._contacts(self._bodies[name]))

    def _in_drawer(self, name: str) -> bool:
        if self._layout.drawer is None:
            return False
        link = next(link for link in self._cabinet.links if link.name == f"{self._layout.drawer}_drawer")
        floor = link.collision_shapes[2]
        return any(shape == floor for _, shape in self._contacts(self._bodies[name]))

    # ---- state

    @property
    def goal(self) -> Goal:
        """What the expert is asked to do."""
        layout = self._layout
        if layout.drawer and layout.source is None:
            return Goal(kind="close" if layout.opened else "open", target=layout.drawer)
        kind = "put_in" if layout.drawer else "near" if layout.target else "pick"
        return Goal.model_construct(kind=kind, source=layout.source, target=layout.target)

    def snapshot(self) -> Snapshot:
        """Robot and things in the base frame, heights above the table."""
        base, lift = self.robot.body.pose.inv(), np.array([0.0, 0.0, ABOVE_BASE])
        things = {}
        for name in self._layout.things:
            body = self._bodies[name]
            pose, half = base * body.entity.pose, self._half(name)
            turned = rotation(pose.q)
            info = ObjectInfo.model_construct(id=name, size=tuple((2 * half).tolist()), shape="other")
            foot = pose.p - turned.apply([0.0, 0.0, half[2]]) - lift
            things[name] = Thing(info, foot, turned, float(np.linalg.norm(body.linear_velocity)))
        tool, turn = self.robot.tool()
        tool = tool - lift
        return Snapshot(tool, turn, tool, turn, self.robot.opening(), things, self.pressed(), {}, {})

    def expert_action(self) -> Action:
        """What the scripted expert would do now; it stands still before drawers."""
        return expert_action(self.goal, self.snapshot())

    def measured(self) -> NDArray[np.float32]:
        """(8,), see `sim.interface.Observation`."""
        position, turned = self.robot.tool()
        x, y, z, w = turned.as_quat()
        return np.array([*position, w, x, y, z, self.robot.opening()], dtype=np.float32)

    def proprio(self) -> NDArray[np.float32]:
        """(8,) as SimplerEnv's patched Google robot reports it: tool position xyz [m] and quaternion xyzw in the base
        frame, both measured, then how far the gripper is closed, 0..1."""
        position, turned = self.robot.tool()
        return np.array([*position, *turned.as_quat(), 1.0 - self.robot.opening()], dtype=np.float32)

    def centres(self) -> dict[str, NDArray[np.float64]]:
        """Centre of every thing in the base frame [m]."""
        base = self.robot.body.pose.inv()
        return {name: (base * self._bodies[name].entity.pose).p.astype(float) for name in self._layout.things}

    def physics_state(self) -> dict[str, NDArray[np.float64]]:
        """Flat arrays: the robot's (`GoogleRobot.state`), "objects" (13 n,), "cabinet" (6,), "rules" (3,)."""
        rows = []
        for name in self._layout.things:
            body = self._bodies[name]
            pose = body.entity.pose
            rows.append(np.concatenate([pose.p, pose.q, body.linear_velocity, body.angular_velocity]))
        return {
            **self.robot.state(),
            "objects": np.concatenate(rows).astype(float) if rows else np.zeros(0),
            "cabinet": np.concatenate([self._cabinet.qpos, self._cabinet.qvel]).astype(float),
            "rules": np.array([self._step, self._lifted, self._lifted_steps, self._placed], dtype=float),
        }

    def set_physics_state(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Restore what `physics_state` gave in the same episode."""
        self.robot.set_state(state)
        for name, row in zip(self._layout.things, np.asarray(state["objects"]).reshape(-1, 13), strict=True):
            body = self._bodies[name]
            body.entity.set_pose(sapien.Pose(row[:3], row[3:7]))
            body.linear_velocity, body.angular_velocity = row[7:10], row[10:]
        cabinet = np.asarray(state["cabinet"], dtype=np.float32)
        self._cabinet.set_qpos(cabinet[: len(cabinet) // 2])
        self._cabinet.set_qvel(cabinet[len(cabinet) // 2 :])
        step, lifted, steps, placed = np.asarray(state["rules"])
        self._step, self._lifted, self._lifted_steps, self._placed = int(step), bool(lifted), int(steps), bool(placed)

    # ---- looking

    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB: robot, things and cabinet as rendered, everything else from the photo."""
        self._scene.update_render()
        self._camera.take_picture()
        colour = (np.clip(self._camera.get_picture("Color")[..., :3], 0.0, 1.0) * 255).astype(np.uint8)
        kept = np.isin(self._camera.get_picture("Segmentation")[..., 1], self._kept)
        return np.where(kept[..., None], colour, self._photo)

    def project_base(self, point: NDArray[np.floating]) -> tuple[float, float]:
        """Point in the robot's base frame [m] to (u, v), 0..1 inside the image."""
        forward, left, up = (self._camera.global_pose.inv() * self.robot.body.pose * sapien.Pose(point)).p
        width, height = self._size
        focal = 425.0 * width / FULL_SIZE[0]
        return float(0.5 - focal * left / forward / width), float(0.5 - focal * up / forward / height)

    def close(self) -> None:
        """Nothing to free by hand."""
