"""What works on this machine, and for each thing that does not, the command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from app.system import TEST_FRAME, find_browser
from sim.rendering import ROOT, nvidia_present, probe, select_driver


@dataclass(frozen=True)
class Check:
    """One line of the report. Without a `needed` thing the page cannot start; `mend` is what to run or do."""

    name: str
    works: bool
    detail: str
    mend: str = ""
    needed: bool = True


def check_python() -> Check:
    """Python 3.11 or 3.12."""
    version = sys.version_info[:2]
    works = version in ((3, 11), (3, 12))
    return Check("Python", works, sys.version.split()[0], "put Python 3.11 or 3.12 on PATH, then make clean setup")


def pinned() -> dict[str, str]:
    """Package name to version, as in `requirements.txt`."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pattern = re.compile(r"([A-Za-z0-9_-]+)(?:\[[^]]*\])?==(\S+)")
    return {match.group(1): match.group(2) for line in lines if (match := pattern.match(line))}


def check_packages() -> Check:
    """Installed packages are those pinned; a local build suffix (`+cpu`) is the same version."""
    wrong = []
    for name, wanted in pinned().items():
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name} {found}, wanted {wanted}")
    detail = "; ".join(wrong) if wrong else f"{len(pinned())} as pinned"
    return Check("Packages", not wrong, detail, f"{sys.executable} -m pip install -r requirements.txt")


def check_renderer() -> Check:
    """Renders a test frame in a child process."""
    mend = f"{sys.executable} -m app.system renderer"
    outcome = probe(select_driver(), TEST_FRAME)
    if not outcome.works:
        return Check("Renderer", False, f"{outcome.error} (driver {outcome.driver})", mend)
    size = TEST_FRAME.stat().st_size
    return Check("Renderer", True, f"{outcome.renderer}; test frame {TEST_FRAME.relative_to(ROOT)}, {size} bytes", mend)


def check_gpu() -> Check:
    """A GPU for the model; never needed."""
    import torch

    if torch.cuda.is_available():
        return Check("GPU", True, torch.cuda.get_device_name(), needed=False)
    if nvidia_present():
        mend = f"{sys.executable} -m pip install --force-reinstall torch=={pinned()['torch']}   (a CUDA build)"
        return Check("GPU", False, "an NVIDIA driver is loaded, but torch cannot use it", mend, needed=False)
    return Check("GPU", True, f"none; the model runs on {os.cpu_count()} CPU cores", needed=False)


def check_base_weights() -> Check:
    """The language backbone's weights are in the cache."""
    from model.checkpoints import find_base_weights

    folder = find_base_weights()
    mend = f"{sys.executable} app.py doctor --fetch"
    if folder is None:
        return Check("Base weights", False, "SmolLM2-135M-Instruct is not here yet", mend)
    return Check("Base weights", True, f"SmolLM2-135M-Instruct in {folder}", mend)


def check_checkpoint() -> Check:
    """The shipped checkpoints are complete; the generalist shares tensors of stage 1's."""
    from model.config import GENERALIST, STAGE1, folder_of

    files = [folder_of(name) / file for name in (GENERALIST, STAGE1) for file in ("config.json", "model.safetensors")]
    missing = [str(path.relative_to(ROOT)) for path in files if not path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6 if not missing else 0
    detail = f"{missing[0]} is missing" if missing else f"{GENERALIST} and {STAGE1}, {size:.0f} MB"
    mend = "git checkout -- assets/checkpoints   (or serve without it: app.py --model expert)"
    return Check("Checkpoint", not missing, detail, mend)


def check_released() -> Check:
    """Released checkpoints that were converted and start at once; never needed."""
    from model.checkpoints import cache_folder

    found = sorted(path.parent.name for path in (cache_folder() / "released").glob("*/source.json"))
    mend = f"{sys.executable} app.py --model HUB_ID   (12 GB each; they contain Eagle2's weights, CC-BY-NC-4.0)"
    return Check("Released", bool(found), ", ".join(found) or "no released checkpoint here", mend, needed=False)


def check_assets() -> Check:
    """Every mesh that the catalog names is there."""
    from sim.objects import catalog

    things = catalog()
    meshes = [path for info in things.values() for path in (info.visual, info.urdf, *info.collision) if path]
    missing = [path.name for path in meshes if not path.is_file()]
    detail = f"{', '.join(missing[:3])} missing" if missing else f"{len(things)} objects"
    return Check("Assets", not missing, detail, "git checkout -- assets")


def listed(files: Iterable[str], begun: bool) -> str:
    """Every missing file on a line of its own; where a set is not there at all, its first file stands for it."""
    files = list(files)
    return "".join(f"\n{'':25}{name}" for name in files) if begun else f": {files[0]}, ..."


def check_simpler() -> Check:
    """The official SimplerEnv scenes; never needed."""
    from sim.twin_assets import BRIDGE, EXTRA_HINT, FETCH, is_extra, missing, root

    absent = missing()
    if not absent:
        return Check("SimplerEnv", True, f"official scenes in {root()}", needed=False)
    detail = f"{len(absent)} files missing in {root()}{listed(absent, (root() / BRIDGE).is_dir())}"
    extra = all(map(is_extra, absent))
    mend = f"for tasks 79 and 80, which alone need these files, {EXTRA_HINT}" if extra else FETCH
    return Check("SimplerEnv", False, detail, mend, needed=False)


def check_google() -> Check:
    """SimplerEnv's Google-robot scenes; never needed."""
    from sim.twin_assets import GOOGLE_HINT, missing_google, real2sim

    absent = missing_google()
    if not absent:
        return Check("Google robot", True, f"official scenes in {real2sim()}", needed=False)
    detail = f"{len(absent)} files missing{listed(map(str, absent), real2sim().is_dir())}"
    return Check("Google robot", False, detail, GOOGLE_HINT, needed=False)


def check_ffmpeg() -> Check:
    """The ffmpeg that comes with imageio writes the videos."""
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    mend = f"{sys.executable} -m pip install --force-reinstall imageio-ffmpeg"
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30)
    return Check("ffmpeg", answer.returncode == 0, answer.stdout.partition(" Copyright")[0] or program, mend)


def check_browser() -> Check:
    """Chromium, for the browser tests alone."""
    browser = find_browser()
    mend = f"{sys.executable} -m app.system browser"
    return Check("Chromium", browser is not None, browser or "not found; only the tests need it", mend, needed=False)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_packages,
    check_renderer,
    check_gpu,
    check_base_weights,
    check_checkpoint,
    check_released,
    check_assets,
    check_simpler,
    check_google,
    check_ffmpeg,
    check_browser,
)


def examine(checks: tuple[Callable[[], Check], ...] = CHECKS) -> Iterator[Check]:
    """Run every check; one that raises is a failed line (a broken install must not end the report)."""
    for check in checks:
        try:
            yield check()
        except Exception as error:
            name = check.__name__.removeprefix("check_").replace("_", " ").capitalize()
            reason = (str(error).splitlines() or [""])[0]
            yield Check(name, False, f"{type(error).__name__}: {reason}", "make setup")


def report(checks: tuple[Callable[[], Check], ...] = CHECKS) -> int:
    """Print the report line by line. Returns 1 where the page could not start, else 0."""
    blocked = False
    for check in examine(checks):
        mark = "ok     " if check.works else "MISSING" if check.needed else "absent "
        print(f"{mark}  {check.name:<12}  {check.detail}", flush=True)
        if not check.works and check.mend:
            print(f"{'':9}{'':14}mend: {check.mend}")
        blocked |= check.needed and not check.works
    print("The page cannot start yet." if blocked else "The page can start: make demo")
    return int(blocked)
