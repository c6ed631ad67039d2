"""Which Vulkan driver SAPIEN renders with, and whether it really does.

SAPIEN reads `VK_ICD_FILENAMES` when it is imported and cannot change its mind afterwards, so `sim/__init__.py` calls
`select_driver()` before anything else in this package runs. This module imports the standard library alone.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "VK_ICD_FILENAMES"
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"))
PROBE_SECONDS = 180.0


@dataclass(frozen=True)
class Rendering:
    """Result of one probe: the driver file, the renderer's own name, or the error that a child process met."""

    driver: Path | None
    renderer: str = ""
    error: str = ""

    @property
    def works(self) -> bool:
        """Whether a frame came out."""
        return bool(self.renderer)


def nvidia_present() -> bool:
    """True where an NVIDIA kernel driver is loaded."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def drivers() -> list[Path]:
    """Vulkan driver files worth trying here, best first: NVIDIA where there is such a GPU, then Mesa's lavapipe."""
    found = [path for folder in FOLDERS if folder.is_dir() for path in sorted(folder.glob("*.json"))]
    lavapipe = [path for path in found if path.name.startswith("lvp_icd")]
    if not nvidia_present() or ctypes.util.find_library("GLX_nvidia") is None:
        return lavapipe
    return [path for path in found if path.name.startswith("nvidia_icd")] + lavapipe


def remembered() -> Path:
    """File in which set-up notes the driver that rendered, so that a broken better one is not tried again."""
    return Path(sys.prefix) / "vulkan-driver"


def select_driver() -> Path | None:
    """Point SAPIEN at a driver by environment; a value that the user set stays. Returns the driver file, if any."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    choices = drivers()
    if remembered().is_file():
        noted = Path(remembered().read_text().strip())
        choices = [noted, *choices] if noted.is_file() else choices
    if choices:
        os.environ[VARIABLE] = str(choices[0])
    return choices[0] if choices else None


def on_nvidia() -> bool:
    """True where the selected driver is NVIDIA's: a GPU that only computes must not be asked to render."""
    driver = select_driver()
    return driver is not None and "nvidia" in driver.name


def draw(path: Path) -> str:
    """Render one lit cube (320 x 240) into `path` (PNG) and return the renderer's name.

    Imports what a simulator worker imports, so a missing system library shows here. Raises `RuntimeError` for a
    frame without contrast: some drivers start and then draw nothing.
    """
    import mani_skill.envs  # noqa: F401
    import numpy as np
    import sapien
    from PIL import Image

    system = sapien.render.RenderSystem()
    scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), system])
    scene.set_ambient_light([0.3, 0.3, 0.3])
    scene.add_directional_light([1.0, 0.5, -1.0], [1.0, 1.0, 1.0])
    cube = scene.create_actor_builder()
    cube.add_box_visual(half_size=[0.2, 0.2, 0.2], material=[0.9, 0.4, 0.1])
    cube.build_static(name="cube").set_pose(sapien.Pose([1.0, 0.0, 0.0], [0.9, 0.2, 0.2, 0.3]))
    camera = scene.add_camera("camera", width=320, height=240, fovy=1.0, near=0.01, far=10.0)
    scene.update_render()
    camera.take_picture()
    frame = np.clip(camera.get_picture("Color")[..., :3] * 255, 0, 255).astype(np.uint8)
    if int(frame.max()) - int(frame.min()) < 30:
        raise RuntimeError("the driver returned an empty frame")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)
    return str(system.device.name)


def probe(driver: Path | None, frame: Path) -> Rendering:
    """Render a test frame with `driver` in a child process: a crash or hang there is a sentence here."""
    code = (
        "import json, pathlib, sys; from sim.rendering import draw; "
        "print(json.dumps(draw(pathlib.Path(sys.argv[1]))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if driver is not None:
        environment[VARIABLE] = str(driver)
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, str(frame)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Rendering(driver, error=f"no frame after {PROBE_SECONDS:.0f} s")
    if child.returncode == 0:
        return Rendering(driver, renderer=json.loads(child.stdout.strip().splitlines()[-1]))
    if child.returncode < 0:
        return Rendering(driver, error=f"the driver crashed (signal {-child.returncode})")
    lines = child.stderr.strip().splitlines()
    return Rendering(driver, error=lines[-1] if lines else f"exit status {child.returncode}")
