"""The house's rules: who may import whom, file sizes, and nothing that only exists on one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("app", "model", "sim")
PYTHON = sorted(path for room in (*ROOMS, "assets", "tests") for path in (ROOT / room).rglob("*.py"))
TEXTS = [
    path
    for path in [*ROOT.glob("*"), *(ROOT / ".ci").glob("*"), *(p for room in ROOMS for p in (ROOT / room).rglob("*"))]
    if path.is_file() and path.suffix in ("", ".py", ".md", ".toml", ".txt", ".yaml", ".css", ".js", ".json")
]
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|work)/")


def imported(path: Path) -> Iterator[str]:
    """Every module name that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports between rooms are spelled out"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("path", sorted((ROOT / "model").rglob("*.py")), ids=lambda p: p.name)
def test_model_knows_only_the_interface(path: Path) -> None:
    for name in imported(path):
        assert room_of(name) != "app", f"{path.name} imports {name}"
        allowed = name == "sim.interface" or name.startswith("sim.interface.")
        assert room_of(name) != "sim" or allowed, f"{path.name} imports {name}; only sim.interface is shared"


@pytest.mark.parametrize("path", sorted((ROOT / "sim").rglob("*.py")), ids=lambda p: p.name)
def test_sim_knows_neither_model_nor_page(path: Path) -> None:
    assert not [name for name in imported(path) if room_of(name) in ("app", "model", "gradio")]


def test_gradio_stays_on_the_page() -> None:
    for room in ("model", "sim"):
        for path in (ROOT / room).rglob("*.py"):
            assert "gradio" not in {room_of(name) for name in imported(path)}, path
    for name in ("controller", "events", "sessions", "recording"):
        path = ROOT / "app" / f"{name}.py"
        assert "gradio" not in {room_of(module) for module in imported(path)}, f"{name} must not know Gradio"


def test_one_place_chooses_the_vulkan_driver() -> None:
    variable = "VK_ICD" + "_FILENAMES"
    owners = [p.relative_to(ROOT).as_posix() for p in PYTHON if variable in p.read_text(encoding="utf-8")]
    assert [owner for owner in owners if not owner.startswith("tests/")] == ["sim/rendering.py"]


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", [p for p in PYTHON if p.stat().st_size], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_say_what_they_are(path: Path) -> None:
    if path.parent.name != "tests":
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in TEXTS
        if (match := MACHINE_PATHS.search(path.read_text(encoding="utf-8")))
    ]
    assert not found


def test_shared_reference_material_is_not_used() -> None:
    outside = re.compile(r"\.\./shared|shared/(?:sim_assets|weights|reference|fixtures)")
    assert not [path for path in TEXTS if outside.search(path.read_text(encoding="utf-8"))]


def test_the_model_imports_where_only_torch_and_transformers_are() -> None:
    """A training machine may have nothing else; what transformers itself requires comes with it."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "model").rglob("*.py")]
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"peft", "pyarrow", "pandas", "matplotlib", "gradio", "mani_skill", "sapien", "scipy",
                                   "statsmodels", "imageio", "av", "trimesh", "pydantic"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    __import__(name.removesuffix(".__init__"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
