"""Write the objects (visual GLB, convex collision parts), their data file assets/objects.yaml, and the cabinet.

Run: python assets/build_objects.py [id ...]   (ids: only those meshes, the data file is left alone)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from modelling import cabinet
from modelling.catalogue import GRASPABLES, TARGETS, UNSEEN
from modelling.model import Model
from modelling.shapes import write_glb

ASSETS = Path(__file__).parent
ATTRIBUTES: dict[str, dict[str, Any]] = yaml.safe_load(
    (ASSETS / "modelling" / "attributes.yaml").read_text(encoding="utf-8")
)
HEADER = """\
# Written by `python assets/build_objects.py`; words come from modelling/attributes.yaml, numbers from the shapes.
# Metres and kilograms; object frame: origin on the table under the grasp (targets: under the middle), z up.
# size: visual bounding box in rest pose. grasp.width: across the fingers. grasp.height: height of ee_gripper_link above
# the table for a top-down grasp. grasp.axis: the long axis (fingers close across it), "any" for round things.
# surface.height: support surface above the table; surface.radius: usable radius around the origin.
"""

TIP = 0.0156  # fingertips reach this far beyond ee_gripper_link
FINGER_CLEARANCE = 0.0034  # of the tips above the table
PALM = 0.0206  # deepest a solid may stand up between the fingers, measured from ee_gripper_link towards the palm


def grasp_height(top: float) -> float:
    """Height of ee_gripper_link for a top-down grasp of something `top` metres high: as low as table and palm allow."""
    return round(max(TIP + FINGER_CLEARANCE, top - PALM), 4)


def write_obj(mesh: trimesh.Trimesh, path: Path) -> None:
    lines = ["v " + " ".join(f"{c:.6f}" for c in v) for v in mesh.vertices]
    lines += ["f " + " ".join(str(i + 1) for i in f) for f in mesh.faces]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_model(name: str, model: Model, folder: Path) -> None:
    """Write `folder`/visual.glb and `folder`/collision_<k>.obj."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    write_glb(model.parts, folder / "visual.glb")
    for k, solid in enumerate(model.solids):
        if not (solid.is_watertight and solid.is_convex):
            raise ValueError(f"collision part {k} of {name} is not a closed convex solid; mend its shape")
        write_obj(solid, folder / f"collision_{k}.obj")


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in values]


def entry(name: str, model: Model, role: str) -> dict[str, Any]:
    """One record of objects.yaml."""
    words = dict(ATTRIBUTES[name])
    stackable, mass = words.pop("stackable", False), words.pop("mass")
    record = {**words, "role": role, "size": rounded(model.size)}
    if role == "graspable":
        height = grasp_height(model.grasp_top)
        record["grasp"] = {"width": model.width, "height": height, "axis": model.axis, "stackable": stackable}
    if model.surface is not None:
        height, radius, kind = model.surface
        record["surface"] = {"height": height, "radius": radius, "kind": kind}
    return {
        **record,
        "mass": mass,
        "friction": 1.0,
        "visual": f"objects/{name}/visual.glb",
        "collision": [f"objects/{name}/collision_{k}.obj" for k in range(len(model.solids))],
    }


def cabinet_entry() -> dict[str, Any]:
    words = dict(ATTRIBUTES["cabinet"])
    mass = words.pop("mass")
    size = rounded(np.array(cabinet.SIZE))
    return {**words, "role": "fixture", "size": size, "mass": mass, "friction": 1.0, "urdf": "cabinet/cabinet.urdf"}


def build(ids: list[str]) -> None:
    """Write the meshes of `ids`, or everything and the data file when there are none."""
    makers = {**GRASPABLES, **TARGETS, **UNSEEN}
    unknown = sorted(set(ids) - set(makers))
    if unknown:
        raise ValueError(f"unknown object {unknown[0]!r}; choose from {', '.join(makers)}")
    records = {}
    for name, make in makers.items():
        if ids and name not in ids:
            continue
        model = make()
        write_model(name, model, ASSETS / "objects" / name)
        records[name] = entry(name, model, "target" if name in TARGETS else "graspable")
    if not ids:
        cabinet.build(ASSETS / "cabinet")
        records["cabinet"] = cabinet_entry()
        text = yaml.safe_dump(records, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
        (ASSETS / "objects.yaml").write_text(HEADER + text, encoding="utf-8")


if __name__ == "__main__":
    try:
        build(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
