"""The WidowX twins of SimplerEnv: ManiSkill's own Bridge environments, stepped and looked at as our tabletop is.

Geometry, camera, overlay photo, layouts and success rules are ManiSkill's. What is set right here, after SimplerEnv
(ManiSkill2_real2sim): finger friction 2.0 instead of 0.3, damping and contact offset of objects, objects that settle
with the robot out of the way, the eggplant's 24 layouts instead of 64, object scales, and two lists that ManiSkill
keeps on the class, so that a second twin in one process would draw itself on the first one's photo.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill import logger as maniskill_log
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval import put_on_in_scene as official
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv
from mani_skill.utils.structs.types import SceneConfig, SimConfig
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from sim.expert import expert_action
from sim.interface import CONTROL_HZ, Action
from sim.objects import Grasp, ObjectInfo, Surface
from sim.robots import CAMERA, HOME_QPOS, openness, tool_rpy
from sim.snapshot import Snapshot, Thing
from sim.stage import SIM_HZ, Stage, body_rows, camera_config, render_backend, rotation, set_body_rows
from sim.tasks import Goal, Kind
from sim.twins import TwinScene

_GRASPS: dict[str, tuple[Grasp, tuple[float, float], str]] = {
    "bridge_spoon_generated_modified": (Grasp(width=0.024, height=0.013, axis="x"), (0.012, 0.0), "long"),
    "bridge_carrot_generated_modified": (Grasp(width=0.034, height=0.019, axis="x"), (0.008, 0.0), "long"),
    "eggplant": (Grasp(width=0.041, height=0.019, axis="x"), (0.004, 0.0), "long"),
    "baked_green_cube_3cm": (Grasp(width=0.034, height=0.018), (0.0, 0.0), "cube"),
    "orange": (Grasp(width=0.053, height=0.026), (0.0, 0.0), "round"),
}
"""How the expert takes a thing: grasp, the place of it in the object's frame (x, y) [m], shape. The official gripper's
pads stand 4 mm closer than ours, so widths are 4 mm more than measured."""
_SURFACES = {
    "bridge_plate_objaverse_larger": Surface(height=0.006, radius=0.04, kind="on"),
    "table_cloth_generated_shorter": Surface(height=0.01, radius=0.04, kind="on"),
    "dummy_sink_target_plane": Surface(height=0.002, radius=0.04, kind="on"),
}

_REST_Z = {
    "bridge_spoon_generated_modified": 0.884,
    "bridge_plate_objaverse_larger": 0.873,
    "orange": 0.896,
    "table_cloth_generated_shorter": 0.877,
    "opened_coke_can": 0.898,
}
"""Height of the origin of things on the table, a millimetre or two above where they come to rest [m]."""

_INSTRUCT_MODELS: dict[str, dict[str, Any]] = {
    "orange": {
        "bbox": {"min": [-0.035, -0.035, -0.034], "max": [0.035, 0.035, 0.034]},
        "scales": [0.7],
        "density": 800,
    },
    "opened_coke_can": {
        "bbox": {"min": [-0.033, -0.0615, -0.033], "max": [0.033, 0.0615, 0.033]},
        "scales": [0.8],
        "density": 50,
    },
}
"""What SimplerEnv-Instruct adds to the model database."""


def put(kind: Kind, source: str, target: str) -> Goal:
    """A goal among things that are not in our own catalog."""
    return Goal.model_construct(kind=kind, source=source, target=target)


def describe(name: str, entry: dict[str, Any]) -> tuple[ObjectInfo, tuple[float, float]]:
    """What the expert has to know of a thing, from its entry in the model database; and where its origin lies then."""
    box, scale = entry["bbox"], entry["scales"][0]
    size = scale * (np.array(box["max"]) - np.array(box["min"]))
    grasp, spot, shape = _GRASPS.get(name, (None, (0.0, 0.0), "other"))
    info = ObjectInfo.model_construct(
        id=name, shape=shape, size=tuple(size.tolist()), grasp=grasp, surface=_SURFACES.get(name), role="target"
    )
    return info, spot


class BridgeTwin(Stage, BaseBridgeEnv):
    """Mixed into ManiSkill's Bridge environments, ahead of them. Frames are the robot's base frame, in metres."""

    goal: Goal
    objs: dict[str, Any]
    model_db: dict[str, dict[str, Any]]

    SUPPORTED_OBS_MODES = ("none",)

    def __init__(self, image_size: tuple[int, int]) -> None:
        maniskill_log.setLevel("ERROR")  # it warns about its own scenes, whenever one is built
        self._objects_to_remove_from_greenscreen: list[Any] = []  # else shared by every twin of the process
        self._rgb_overlay_images: dict[str, Any] = {}
        super().__init__(
            obs_mode="none",
            reward_mode="none",
            sim_backend="physx_cpu",
            render_backend=render_backend(),
            sensor_configs=camera_config(image_size),
        )
        self.open_camera()
        photo = Image.open(self.rgb_overlay_paths[CAMERA]).convert("RGB")
        self._photo = np.asarray(photo.resize(image_size, Image.Resampling.BOX))
        self._kept = self._segmentation_ids_to_keep.numpy()

    @property
    def _default_sim_config(self) -> SimConfig:
        scene = SceneConfig(enable_enhanced_determinism=True, contact_offset=0.005, cpu_workers=0)
        return SimConfig(sim_freq=SIM_HZ, control_freq=CONTROL_HZ, scene_config=scene)

    # ---- building, once

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.model_db = _INSTRUCT_MODELS | self.model_db
        super()._load_scene(options)
        rubber = sapien.physx.PhysxMaterial(2.0, 2.0, 0.0)
        for link in (self.agent.finger1_link, self.agent.finger2_link):
            for shape in link._objs[0].collision_shapes:
                shape.set_physical_material(rubber)
                shape.set_patch_radius(0.01)
                shape.set_min_patch_radius(0.01)

    def _build_actor_helper(self, model_id: str, *args: Any, **kwargs: Any) -> Any:
        scale = self.model_db[model_id]["scales"][0]
        actor = super()._build_actor_helper(model_id, scale, *args, **kwargs)
        body = actor._bodies[0]
        body.linear_damping = body.angular_damping = 0.1
        return actor

    # ---- arranging, at every reset

    def arrange(self, scene: TwinScene) -> None:
        """Lay out an official episode; the robot goes home."""
        self.reset(options={"episode_id": torch.tensor([scene.seed])})

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        """Out of the objects' way, so that they settle alike whatever the robot did before."""
        self.agent.robot.set_pose(sapien.Pose([-10.0, 0.0, 0.0]))
        self.agent.reset(torch.from_numpy(HOME_QPOS))
        super()._initialize_episode(env_idx, options)

    def _settle(self, t: float = 0.5) -> None:
        """Let objects come to rest. Before ManiSkill's (first, short) settling they drop without tipping over."""
        if t < 1.0:
            bodies = [actor._bodies[0] for actor in self.objs.values()]
            for body in bodies:
                body.set_locked_motion_axes([False, False, False, True, True, False])
            super()._settle(t)
            for body in bodies:
                body.set_locked_motion_axes([False] * 6)
                body.linear_velocity = body.angular_velocity = np.zeros(3)
        super()._settle(t)

    # ---- state

    def satisfied(self) -> bool:
        """ManiSkill's success rule of this environment, now."""
        return bool(self.evaluate()["success"][0])

    def snapshot(self) -> Snapshot:
        """Robot and objects as the scripted expert reads them."""
        base = self._robot.pose.inv()
        things = {}
        for name, actor in self.objs.items():
            pose = base * actor._objs[0].pose
            info, spot = self._infos[name]
            turned = rotation(pose.q)
            foot = pose.p + turned.apply([*spot, -info.size[2] / 2])
            things[name] = Thing(info, foot, turned, float(np.linalg.norm(actor._bodies[0].linear_velocity)))
        return Snapshot(**self.hand(), things=things, pressed=self.pressed(self.objs), drawers={}, handles={})

    def expert_action(self) -> Action:
        """What the scripted expert would do now."""
        return expert_action(self.goal, self.snapshot())

    def proprio(self) -> NDArray[np.float32]:
        """(8,) as on the tabletop: the commanded pose and the measured opening, see `sim.interface.Observation`."""
        position, quaternion = self.commanded_pose()
        opening = openness(self.finger_position())
        return np.array([*position, *tool_rpy(quaternion), 0.0, opening], dtype=np.float32)

    def centres(self) -> dict[str, NDArray[np.float64]]:
        """Centre of every thing in the base frame [m]."""
        things = self.snapshot().things
        return {name: things[name].centre for name in self.objs}

    @cached_property
    def _infos(self) -> dict[str, tuple[ObjectInfo, tuple[float, float]]]:
        return {name: describe(name, self.model_db[name]) for name in self.objs}

    def physics_state(self) -> dict[str, NDArray[np.float64]]:
        """Flat arrays: "robot" (16,) qpos, qvel; "commanded" (7,); "objects" (13 n,), source and target first."""
        return {**self.robot_state(), "objects": body_rows(self.objs.values())}

    def set_physics_state(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Restore what `physics_state` gave in the same episode."""
        self.set_robot_state(state)
        set_body_rows(self.objs.values(), state["objects"])

    # ---- looking

    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB: robot and objects as rendered, everything else from the photo."""
        rendered = super().picture()
        segments = self._camera.get_picture("Segmentation")[..., 1]
        return np.where(np.isin(segments, self._kept)[..., None], rendered, self._photo)


class SpoonOnTowel(BridgeTwin, official.PutSpoonOnTableClothInScene):
    """`widowx_spoon_on_towel`."""

    goal = put("put_on", "bridge_spoon_generated_modified", "table_cloth_generated_shorter")


class CarrotOnPlate(BridgeTwin, official.PutCarrotOnPlateInScene):
    """`widowx_carrot_on_plate`."""

    goal = put("put_on", "bridge_carrot_generated_modified", "bridge_plate_objaverse_larger")


class StackCube(BridgeTwin, official.StackGreenCubeOnYellowCubeBakedTexInScene):
    """`widowx_stack_cube`."""

    goal = put("stack", "baked_green_cube_3cm", "baked_yellow_cube_3cm")


class EggplantInBasket(BridgeTwin, official.PutEggplantInBasketScene):
    """`widowx_put_eggplant_in_basket`, with SimplerEnv's 8 places x 3 headings."""

    goal = put("put_on", "eggplant", "dummy_sink_target_plane")

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        turned = [[1, 0, 0, 0], [0.92388, 0, 0, 0.382683], [0.92388, 0, 0, -0.382683]]
        self.quat_configs = torch.tensor([[turn, [1, 0, 0, 0]] for turn in turned], dtype=torch.float32)
        super()._initialize_episode(env_idx, options)

    def snapshot(self) -> Snapshot:
        """With the wall between basin and basket, which is part of the sink, as something to lift over."""
        seen = super().snapshot()
        wall = ObjectInfo.model_construct(id="wall", shape="other", size=(0.06, 0.03, 0.133), grasp=None, surface=None)
        seen.things["wall"] = Thing(wall, np.array([0.252, -0.03, 0.0]), Rotation.identity(), 0.0)
        return seen


class _FourThings(BaseBridgeEnv):
    """SimplerEnv-Instruct on the Bridge table: source, target and two other things on the corners of a rectangle."""

    goal: Goal
    others: tuple[str, str]

    def __init__(self, **kwargs: Any) -> None:
        names = [str(self.goal.source), str(self.goal.target), *self.others]
        self.objects_excluded_from_greenscreening = names
        places = []
        for half_x, half_y in ((0.075, 0.1), (0.1, 0.12)):
            corners = [(-0.18 + i * half_x, 0.08 + j * half_y) for i in (-1, 1) for j in (-1, 1)]
            for pair in permutations(corners, 2):
                order = [*pair, *(corner for corner in corners if corner not in pair)]
                places.append([(*corner, _REST_Z[name]) for corner, name in zip(order, names, strict=True)])
        turns = [[[0, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]]
        super().__init__(names, torch.tensor(places), torch.tensor(turns), **kwargs)

    def evaluate(self) -> dict[str, Any]:
        return super()._evaluate(success_require_src_completely_on_target=True)


class BabyToolOnPlate(BridgeTwin, _FourThings):
    """SimplerEnv-Instruct 79."""

    goal = put("put_on", "bridge_spoon_generated_modified", "bridge_plate_objaverse_larger")
    others = ("orange", "table_cloth_generated_shorter")


class FruitNotDrinkOnPlate(BridgeTwin, _FourThings):
    """SimplerEnv-Instruct 80."""

    goal = put("put_on", "orange", "bridge_plate_objaverse_larger")
    others = ("bridge_spoon_generated_modified", "opened_coke_can")

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        # ManiSkill turns the box with the object; the orange rolls as it settles, and a ball is as high either way.
        self.episode_source_obj_bbox_world = self.episode_model_bbox_sizes["orange"].float()


ENVIRONMENTS: dict[str, type[BridgeTwin]] = {
    "spoon_on_towel": SpoonOnTowel,
    "carrot_on_plate": CarrotOnPlate,
    "stack_cube": StackCube,
    "eggplant_in_basket": EggplantInBasket,
    "baby_tool_on_plate": BabyToolOnPlate,
    "fruit_not_drink_on_plate": FruitNotDrinkOnPlate,
}
