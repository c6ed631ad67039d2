"""System packages that pip cannot bring: a Vulkan driver that SAPIEN accepts, and Chromium for the browser tests.

`make setup` runs `python -m app.system renderer`, `make test` also `python -m app.system browser`. Both look first and
install only what is missing, with apt on Debian and Ubuntu, as root or through sudo; elsewhere they say what to run.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sim.rendering import ROOT, Rendering, drivers, probe, remembered

DRIVER_PACKAGES = ["mesa-vulkan-drivers", "libvulkan1", "libegl1", "libgl1", "libglib2.0-0", "libx11-6", "libxext6"]
"""Mesa's lavapipe, and the libraries that SAPIEN and OpenCV link against."""

OLDEST_MESA = 24
"""Mesa 22.3 (Debian 12) lacks descriptor indexing; 25.0 from Debian's backports is the one that was tried."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TEST_FRAME = ROOT / "runs" / "doctor" / "frame.png"


class SetupError(RuntimeError):
    """Something has to be done by hand; the text says what."""


def apt(*arguments: str, check: bool = True) -> None:
    """Run apt-get with root's rights. Raises `SetupError` where there is no apt, no root and no sudo, or it fails."""
    if shutil.which("apt-get") is None:
        raise SetupError("apt-get is not here; use this system's package manager")
    options = ["-o", "Acquire::Retries=3"]
    command = [*as_root(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments]
    if subprocess.run(command, stdin=None if sys.stdin.isatty() else subprocess.DEVNULL).returncode and check:
        raise SetupError(f"`{' '.join(command)}` failed")


def as_root() -> list[str]:
    """Command prefix that gives root's rights: nothing for root, else sudo."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise SetupError("installing system packages needs root, and there is no sudo")


def candidate_major(package: str) -> int:
    """Major version that apt would install (0 if it knows none)."""
    policy = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True).stdout
    match = re.search(r"Candidate: (?:\d+:)?(\d+)", policy)
    return int(match.group(1)) if match else 0


def enable_backports(codename: str) -> str:
    """Add Debian's backports from the mirror that this machine already uses; returns the release's name."""
    release = f"{codename}-backports"
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout
    mirrors = dict(line.split(" ", 1) for line in reversed(listing.splitlines()) if " " in line)
    if release not in mirrors:
        if codename not in mirrors:
            raise SetupError(f"apt has no package list for {codename}; run `apt-get update` and try again")
        target = f"/etc/apt/sources.list.d/{release}.list"
        line = f"deb {mirrors[codename]} {release} main\n"
        subprocess.run([*as_root(), "tee", target], input=line, text=True, stdout=subprocess.DEVNULL, check=True)
        apt("update", check=False)
    return release


def install_driver() -> None:
    """Install Mesa's software renderer, from backports where the distribution's own is too old."""
    apt("update", check=False)
    arguments = ["install", "-y", "--no-install-recommends"]
    system = platform.freedesktop_os_release()
    if system.get("ID") == "debian" and candidate_major("mesa-vulkan-drivers") < OLDEST_MESA:
        arguments += ["-t", enable_backports(system["VERSION_CODENAME"])]
    apt(*arguments, *DRIVER_PACKAGES)


def find_rendering() -> Rendering:
    """Try this machine's drivers in order; returns the first that renders, else the last failure."""
    outcome = Rendering(None, error="no Vulkan driver is installed")
    for driver in drivers():
        outcome = probe(driver, TEST_FRAME)
        if outcome.works:
            break
    return outcome


def set_up_renderer() -> str:
    """Make sure that SAPIEN renders; remembers the driver that does. Returns a line for the log."""
    outcome = find_rendering()
    if not outcome.works:
        print(f"SAPIEN does not render yet ({outcome.error}); installing Mesa's software renderer", flush=True)
        install_driver()
        outcome = find_rendering()
    if not outcome.works:
        raise SetupError(f"Mesa is installed, but SAPIEN still does not render: {outcome.error}")
    remembered().write_text(f"{outcome.driver}\n")
    return f"SAPIEN renders on {outcome.renderer}"


def find_browser() -> str | None:
    """Path of a Chromium for the browser tests."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def set_up_browser() -> str:
    """Make sure that a Chromium is here. Returns a line for the log."""
    if find_browser() is None:
        apt("update", check=False)
        apt("install", "-y", "--no-install-recommends", "chromium")
    browser = find_browser()
    if browser is None:
        raise SetupError("chromium was installed but cannot be found on PATH")
    return f"browser tests use {browser}"


def main(arguments: list[str]) -> int:
    """Run one set-up step by name. Returns the exit status."""
    steps: dict[str, Callable[[], str]] = {"renderer": set_up_renderer, "browser": set_up_browser}
    if len(arguments) != 1 or arguments[0] not in steps:
        print("usage: python -m app.system renderer|browser", file=sys.stderr)
        return 2
    step = arguments[0]
    try:
        print(steps[step]())
    except SetupError as error:
        python = Path(sys.executable)
        print(f"{error}.\nRun this as root, then the same make command again:\n", file=sys.stderr)
        print(f"    cd {ROOT} && {python} -B -m app.system {step}\n", file=sys.stderr)
        if shutil.which("apt-get") is None:
            wanted = "Mesa's Vulkan drivers (24.3 or newer)" if step == "renderer" else "chromium"
            print(f"On a system without apt, install {wanted} with its own package manager instead.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
