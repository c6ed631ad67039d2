"""Which files of the official SimplerEnv assets a scene needs, and which of them are not on this machine.

They lie where ManiSkill keeps them: `$MS_ASSET_DIR/data`, by default `~/.maniskill/data`. They are never part of this
project (ManiSkill says CC BY-NC 4.0 of its assets; the robot's repository names no licence).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from sim import fractal_layouts as layouts
from sim.twins import TWINS

ROBOT, BRIDGE = "robots/widowx", "tasks/bridge_v2_real2sim_dataset"
FETCH = "python app.py assets fetch simpler"
VISUALS = ("obj", "dae", "glb")
_MODELS = {
    "spoon_on_towel": ("bridge_spoon_generated_modified", "table_cloth_generated_shorter"),
    "carrot_on_plate": ("bridge_carrot_generated_modified", "bridge_plate_objaverse_larger"),
    "stack_cube": ("baked_green_cube_3cm", "baked_yellow_cube_3cm"),
    "eggplant_in_basket": ("eggplant", "dummy_sink_target_plane", "sink"),
    "baby_tool_on_plate": (
        "bridge_spoon_generated_modified",
        "bridge_plate_objaverse_larger",
        "orange",
        "table_cloth_generated_shorter",
    ),
    "fruit_not_drink_on_plate": (
        "orange",
        "bridge_plate_objaverse_larger",
        "bridge_spoon_generated_modified",
        "opened_coke_can",
    ),
}
EXTRA = ("orange", "opened_coke_can")
"""Models of SimplerEnv-Instruct that ManiSkill's set lacks; ManiSkill2_real2sim has them."""
MODELS = "custom/models"
"""Where models lie, in ManiSkill's Bridge set and in the folder `data` of ManiSkill2_real2sim alike."""


def root() -> Path:
    """ManiSkill's asset folder, where mani_skill itself looks."""
    return Path(os.environ.get("MS_ASSET_DIR") or Path.home() / ".maniskill") / "data"


WIDOWX = tuple(name for name, twin in TWINS.items() if twin.robot == "widowx")
GOOGLE_HINT = (
    "git clone https://github.com/simpler-env/ManiSkill2_real2sim, and MS2_REAL2SIM_ASSET_DIR set to its folder data"
)


def real2sim() -> Path:
    """The folder `data` of ManiSkill2_real2sim with the Google robot's scenes, where it looks itself."""
    return Path(os.environ.get("MS2_REAL2SIM_ASSET_DIR") or root() / "real2sim")


def google_urdf(colour: str) -> Path:
    """The Google robot's description: beside the scenes in ManiSkill2_real2sim, or where ManiSkill keeps it."""
    name = f"google_robot_meta_sim_fix_wheel_fix_fingertip_{colour}.urdf"
    beside = real2sim().parent / "mani_skill2_real2sim" / "assets" / "descriptions" / "googlerobot_description" / name
    return beside if beside.is_file() else root() / "robots" / "googlerobot" / name


def visual_of(folder: Path) -> Path:
    """The mesh to draw a model with: ManiSkill's order of preference."""
    choices = [folder / f"textured.{kind}" for kind in VISUALS]
    return next((path for path in choices if path.is_file()), choices[1])


def missing_google() -> list[Path]:
    """Files that the Google robot's scenes need and that are not there."""
    data = real2sim()
    custom = data / "custom"
    wanted = [google_urdf(layouts.COLOUR), custom / "mk_station_recolor.urdf"]
    wanted += [custom / f"info_pick_custom_{kind}.json" for kind in ("v0", "baked_tex_v1")]
    for model in (layouts.CAN, *layouts.NAMES):
        folder = data / MODELS / model
        wanted += [folder / "collision.obj", visual_of(folder)]
    photos = ["google_coke_can_real_eval_1", "google_move_near_real_eval_1"]
    photos += [f"open_drawer_{stand}" for stand in layouts.STANDS]
    wanted += [data / "real_inpainting" / f"{photo}.png" for photo in photos]
    return [path for path in wanted if not path.is_file()]


def missing(twins: Iterable[str] = WIDOWX, folder: Path | None = None) -> list[str]:
    """Needed files that are not there, as paths below ManiSkill's asset folder (or `folder`)."""
    base = folder or root()
    wanted = [f"{ROBOT}/wx250s.urdf", *_meshes(base / ROBOT / "wx250s.urdf")]
    for twin in twins:
        sink = twin == "eggplant_in_basket"
        database = "info_bridge_custom_baked_tex_v0.json" if twin == "stack_cube" else "info_bridge_custom_v0.json"
        wanted += [
            f"{BRIDGE}/custom/{database}",
            f"{BRIDGE}/real_inpainting/{'bridge_sink' if sink else 'bridge_real_eval_1'}.png",
            f"{BRIDGE}/stages/bridge_table_1_v{2 if sink else 1}.glb",
        ]
        for model in _MODELS[twin]:
            place = f"{BRIDGE}/{MODELS}/{model}"
            wanted += [f"{place}/collision.obj", f"{place}/{visual_of(base / place).name}"]
    return [path for path in dict.fromkeys(wanted) if not (base / path).is_file()]


def require(twin: str) -> None:
    """Raise `ValueError` in one line that says what to run where files of a scene are missing."""
    if TWINS[twin].robot == "google_robot":
        lacking = missing_google()
        if lacking:
            raise ValueError(f"{twin} lacks {len(lacking)} files ({lacking[0]}, ...); get them with: {GOOGLE_HINT}")
        return
    absent = missing([twin])
    if not absent:
        return
    if all(is_extra(path) for path in absent):
        raise ValueError(f"{twin} lacks {absent[0]} below {root()}; {EXTRA_HINT}")
    raise ValueError(
        f"{twin} needs SimplerEnv's own assets ({len(absent)} files are not in {root()}); get them with: {FETCH}"
    )


EXTRA_HINT = f"{GOOGLE_HINT} (of it 8 MB are used, Apache-2.0); then: {FETCH}"


def is_extra(path: str) -> bool:
    """Whether a missing file belongs to what SimplerEnv-Instruct alone needs."""
    return any(f"/{MODELS}/{model}/" in path for model in EXTRA)


def _meshes(urdf: Path) -> list[str]:
    """The files that the robot's description names."""
    if not urdf.is_file():
        return []
    names = dict.fromkeys(mesh.attrib["filename"] for mesh in ElementTree.parse(urdf).iter("mesh"))
    return [f"{ROBOT}/{name}" for name in names]
