"""The shipped assets: counts, sizes, data file, collision shapes, and the robot's published figures."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from math import pi
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import trimesh
import yaml
from PIL import Image

ASSETS = Path(__file__).resolve().parents[1] / "assets"
OBJECTS: dict[str, dict[str, Any]] = yaml.safe_load((ASSETS / "objects.yaml").read_text())
GRASPABLES = [k for k, o in OBJECTS.items() if o["role"] == "graspable"]
TARGETS = [k for k, o in OBJECTS.items() if o["role"] == "target"]
SOLIDS = [k for k in OBJECTS if OBJECTS[k]["role"] != "fixture"]

OPEN_GAP, CLOSED_GAP, TIP = 0.056, 0.012, 0.0156

# name: type, parent, child, origin, axis, (lower, upper)
JOINTS: dict[str, tuple[str, str, str, list[float], list[float], tuple[float, float] | None]] = {
    "waist": ("revolute", "base_link", "shoulder_link", [0, 0, 0.072], [0, 0, 1], (-pi, pi)),
    "shoulder": ("revolute", "shoulder_link", "upper_arm_link", [0, 0, 0.03865], [0, 1, 0], (-1.884956, 1.989675)),
    "elbow": ("revolute", "upper_arm_link", "upper_forearm_link", [0.04975, 0, 0.25], [0, 1, 0], (-2.146755, 1.605703)),
    "forearm_roll": ("revolute", "upper_forearm_link", "lower_forearm_link", [0.175, 0, 0], [1, 0, 0], (-pi, pi)),
    "wrist_angle": ("revolute", "lower_forearm_link", "wrist_link", [0.075, 0, 0], [0, 1, 0], (-1.745329, 2.146755)),
    "wrist_rotate": ("revolute", "wrist_link", "gripper_link", [0.065, 0, 0], [1, 0, 0], (-pi, pi)),
    "ee_arm": ("fixed", "gripper_link", "ee_arm_link", [0.043, 0, 0], [1, 0, 0], None),
    "gripper": ("fixed", "ee_arm_link", "gripper_prop_link", [0.0055, 0, 0], [1, 0, 0], None),
    "gripper_bar": ("fixed", "ee_arm_link", "gripper_bar_link", [0, 0, 0], [1, 0, 0], None),
    "ee_bar": ("fixed", "gripper_bar_link", "fingers_link", [0.023, 0, 0], [1, 0, 0], None),
    "left_finger": ("prismatic", "fingers_link", "left_finger_link", [0, 0, 0], [0, 1, 0], (0.015, 0.037)),
    "right_finger": ("prismatic", "fingers_link", "right_finger_link", [0, 0, 0], [0, -1, 0], (0.015, 0.037)),
    "ee_gripper": ("fixed", "fingers_link", "ee_gripper_link", [0.027575, 0, 0], [1, 0, 0], None),
}
MASSES = {
    "base_link": 0.538736, "shoulder_link": 0.480879, "upper_arm_link": 0.430811, "upper_forearm_link": 0.234589,
    "lower_forearm_link": 0.220991, "wrist_link": 0.084957, "gripper_link": 0.072885, "ee_arm_link": 0.001,
    "gripper_prop_link": 0.00434, "gripper_bar_link": 0.034199, "fingers_link": 0.001, "left_finger_link": 0.016246,
    "right_finger_link": 0.016246, "ee_gripper_link": 0.001,
}  # fmt: skip


def floats(text: str) -> list[float]:
    return [float(v) for v in text.split()]


def child(element: ET.Element, name: str) -> ET.Element:
    found = element.find(name)
    assert found is not None, f"<{element.tag}> has no <{name}>"
    return found


def visual_points(name: str) -> np.ndarray:
    scene = trimesh.load_scene(ASSETS / OBJECTS[name]["visual"])
    return np.asarray(scene.to_geometry().vertices)


def test_there_is_enough_to_play_with() -> None:
    wanted = [
        "carrot",
        "eggplant",
        "banana",
        "lemon",
        "orange",
        "apple",
        "pear",
        "plum",
        "strawberry",
        "spoon",
        "sponge",
        "marker",
        "red_can",
        "green_can",
        "blue_can",
        "bottle",
        "mug",
        "red_cube",
        "green_cube",
        "blue_cube",
        "yellow_cube",
        "battery",
        "tape_roll",
    ]
    assert set(wanted) <= set(GRASPABLES) and len(GRASPABLES) >= 24
    assert {"blue_plate", "white_plate", "bowl", "towel", "basket", "tray", "coaster"} <= set(TARGETS)
    assert len(TARGETS) >= 8
    assert OBJECTS["cabinet"]["role"] == "fixture"


def test_names_are_unique() -> None:
    names = [o["name"] for o in OBJECTS.values()]
    assert len(set(names)) == len(names)
    synonyms = [s for o in OBJECTS.values() for s in o["synonyms"]]
    assert not set(names) & set(synonyms)
    assert len(set(synonyms)) == len(synonyms), "a synonym must point to one object"


@pytest.mark.parametrize("name", OBJECTS)
def test_attributes_are_complete(name: str) -> None:
    record = OBJECTS[name]
    for key in ("name", "category", "shape", "material"):
        assert isinstance(record[key], str) and record[key]
    assert isinstance(record["edible"], bool) and (not record["edible"] or record["taste"] is not None)
    assert set(record["names"]) == {"fr", "es", "de", "zh"} and all(record["names"].values())
    assert len(record["use"]) >= 3 and len(record["synonyms"]) >= 3
    for key in ("synonyms", "colours", "use"):
        assert record[key] and all(isinstance(word, str) for word in record[key])
    assert record["taste"] is None or isinstance(record["taste"], str)
    assert (record["taste"] is not None) == (record["category"] in ("fruit", "vegetable", "drink"))
    assert 0.01 <= record["mass"] <= 5 and 0.3 <= record["friction"] <= 2


@pytest.mark.parametrize("name", GRASPABLES)
def test_graspables_fit_the_gripper(name: str) -> None:
    record = OBJECTS[name]
    grasp = record["grasp"]
    assert grasp["axis"] in ("any", "x", "y") and isinstance(grasp["stackable"], bool)
    assert CLOSED_GAP + 0.004 < grasp["width"] < OPEN_GAP - 0.01
    assert grasp["height"] - TIP >= 0.003, "fingertips would touch the table"
    assert grasp["height"] - TIP < record["size"][2] - 0.005, "fingertips would close above the object"
    assert record["mass"] <= 0.15


@pytest.mark.parametrize("name", TARGETS)
def test_targets_have_a_surface(name: str) -> None:
    record = OBJECTS[name]
    surface = record["surface"]
    assert surface["kind"] in ("on", "in")
    assert 0 < surface["height"] <= record["size"][2]
    assert 0.03 <= surface["radius"] <= max(record["size"][:2]) / 2


@pytest.mark.parametrize("name", SOLIDS)
def test_meshes_match_the_data_file(name: str) -> None:
    record = OBJECTS[name]
    scene = trimesh.load_scene(ASSETS / record["visual"])
    assert sum(len(g.faces) for g in scene.geometry.values()) < 2500
    points = visual_points(name)
    assert np.allclose(np.ptp(points, axis=0), record["size"], atol=2e-4)
    assert abs(points[:, 2].min()) < 2e-3, "the object must rest on z = 0"
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    assert record["collision"]
    for path in record["collision"]:
        solid = trimesh.load_mesh(ASSETS / path)
        assert solid.is_watertight and solid.volume > 0
        assert solid.convex_hull.volume == pytest.approx(solid.volume, rel=1e-3), "collision parts must be convex"
        assert len(solid.vertices) <= 255
        low, high = np.minimum(low, solid.bounds[0]), np.maximum(high, solid.bounds[1])
    assert low[2] == pytest.approx(0, abs=1e-3)
    assert np.all(low > points.min(axis=0) - 0.004) and np.all(high < points.max(axis=0) + 0.004)


def test_everything_is_small() -> None:
    folders = ("robots", "objects", "cabinet", "textures")
    total = sum(p.stat().st_size for f in folders for p in (ASSETS / f).rglob("*") if p.is_file())
    assert total < 15e6


def test_textures() -> None:
    tables = sorted((ASSETS / "textures" / "tables").glob("*.jpg"))
    backdrops = sorted((ASSETS / "textures" / "backdrops").glob("*.jpg"))
    assert len(tables) >= 4 and len(backdrops) >= 4
    for path in (*tables, *backdrops):
        with Image.open(path) as picture:
            assert max(picture.size) <= 1024


@pytest.fixture(scope="module")
def builder() -> Iterator[ModuleType]:
    """The script assets/build_objects.py, imported."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("build_objects", ASSETS / "build_objects.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # it puts assets/ on the path for its own package
    yield module
    sys.path[:] = before


def test_rebuilding_gives_the_same_files(builder: ModuleType, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        builder.write_model("carrot", builder.GRASPABLES["carrot"](), tmp_path / folder)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["collision_0.obj", "visual.glb"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    shipped = trimesh.load_mesh(ASSETS / OBJECTS["carrot"]["collision"][0])
    rebuilt = trimesh.load_mesh(tmp_path / "one" / "collision_0.obj")
    assert np.allclose(shipped.bounds, rebuilt.bounds, atol=1e-5)


def test_the_data_file_is_what_the_script_writes(builder: ModuleType) -> None:
    assert builder.entry("mug", builder.GRASPABLES["mug"](), "graspable") == OBJECTS["mug"]
    assert builder.entry("bowl", builder.TARGETS["bowl"](), "target") == OBJECTS["bowl"]


def test_an_unknown_object_gets_one_clear_line(builder: ModuleType) -> None:
    with pytest.raises(ValueError, match="unknown object 'unicorn'; choose from carrot"):
        builder.build(["unicorn"])


def test_robot_has_the_published_kinematics() -> None:
    robot = ET.parse(ASSETS / "robots" / "widowx" / "wx250s.urdf").getroot()
    joints = {j.attrib["name"]: j for j in robot.findall("joint")}
    assert list(joints) == list(JOINTS)
    for name, (kind, parent, kid, origin, axis, limits) in JOINTS.items():
        joint = joints[name]
        assert joint.attrib["type"] == kind
        assert child(joint, "parent").attrib["link"] == parent and child(joint, "child").attrib["link"] == kid
        assert floats(child(joint, "origin").attrib["xyz"]) == pytest.approx(origin)
        assert floats(child(joint, "origin").attrib["rpy"]) == [0, 0, 0]
        assert floats(child(joint, "axis").attrib["xyz"]) == axis
        if limits is None:
            assert joint.find("limit") is None
        else:
            limit = child(joint, "limit").attrib
            assert (float(limit["lower"]), float(limit["upper"])) == pytest.approx(limits, abs=2e-5)
    links = {link.attrib["name"]: link for link in robot.findall("link")}
    masses = {n: float(child(child(link, "inertial"), "mass").attrib["value"]) for n, link in links.items()}
    assert masses == pytest.approx(MASSES)
    for mesh in robot.iter("mesh"):
        assert (ASSETS / "robots" / "widowx" / mesh.attrib["filename"]).is_file()


def test_finger_pads_leave_the_published_gap() -> None:
    robot = ET.parse(ASSETS / "robots" / "widowx" / "wx250s.urdf").getroot()
    inner = {}
    for link in robot.findall("link"):
        name = link.attrib["name"]
        if name in ("left_finger_link", "right_finger_link"):
            side = 1 if name == "left_finger_link" else -1
            edges, tips = [], []
            for collision in link.findall("collision"):
                size = floats(child(child(collision, "geometry"), "box").attrib["size"])
                centre = floats(child(collision, "origin").attrib["xyz"])
                edges.append(side * centre[1] - size[1] / 2)
                tips.append(centre[0] + size[0] / 2)
            inner[name] = min(edges)
            assert max(tips) - 0.027575 == pytest.approx(TIP, abs=5e-4)
    reach = sum(inner.values())
    assert 2 * 0.037 + reach == pytest.approx(OPEN_GAP, abs=1e-3)
    assert 2 * 0.015 + reach == pytest.approx(CLOSED_GAP, abs=1e-3)


def test_self_collision_pairs_name_real_links() -> None:
    folder = ASSETS / "robots" / "widowx"
    names = {link.attrib["name"] for link in ET.parse(folder / "wx250s.urdf").getroot().findall("link")}
    pairs = ET.parse(folder / "wx250s.srdf").getroot().findall("disable_collisions")
    assert pairs
    for pair in pairs:
        assert {pair.attrib["link1"], pair.attrib["link2"]} <= names
        assert pair.attrib["reason"] == "Default"  # SAPIEN ignores every other word


def test_cabinet_drawers() -> None:
    root = ET.parse(ASSETS / "cabinet" / "cabinet.urdf").getroot()
    joints = {j.attrib["name"]: j for j in root.findall("joint")}
    heights = []
    for level in ("bottom", "middle", "top"):
        joint = joints[f"drawer_{level}"]
        limit = child(joint, "limit").attrib
        assert joint.attrib["type"] == "prismatic"
        assert (float(limit["lower"]), float(limit["upper"])) == (0.0, 0.12)
        assert floats(child(joint, "axis").attrib["xyz"]) == [-1, 0, 0]
        assert child(joints[f"mount_{level}"], "child").attrib["link"] == f"handle_{level}"
        heights.append(floats(child(joint, "origin").attrib["xyz"])[2])
        handle = floats(child(joints[f"mount_{level}"], "origin").attrib["xyz"])
        assert heights[-1] + handle[2] - TIP > 0.005, "a gripper must reach this handle from above"
    assert heights == sorted(heights)
    for mesh in root.iter("mesh"):
        assert (ASSETS / "cabinet" / mesh.attrib["filename"]).is_file()
