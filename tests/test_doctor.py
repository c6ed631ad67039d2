"""The doctor's report, the renderer's probe and the set-up steps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app.doctor as doctor
import app.system as system
import sim.rendering as rendering
from app.doctor import Check


def driver_files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_text("{}")
    return [folder / name for name in names]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with its own driver folder, no GPU, nothing remembered and nothing chosen; returns the folder."""
    folder = tmp_path / "icd.d"
    folder.mkdir()
    monkeypatch.setattr(rendering, "FOLDERS", (folder,))
    monkeypatch.setattr(rendering, "nvidia_present", lambda: False)
    monkeypatch.setattr(rendering, "remembered", lambda: tmp_path / "vulkan-driver")
    monkeypatch.setenv(rendering.VARIABLE, "")
    return folder


def with_gpu(monkeypatch: pytest.MonkeyPatch, library: str | None) -> None:
    monkeypatch.setattr(rendering, "nvidia_present", lambda: True)
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: library)


def test_lavapipe_without_a_gpu(machine: Path) -> None:
    driver_files(machine, "intel_icd.json", "lvp_icd.x86_64.json", "nvidia_icd.json", "radeon_icd.json")
    assert rendering.select_driver() == machine / "lvp_icd.x86_64.json"
    assert os.environ[rendering.VARIABLE] == str(machine / "lvp_icd.x86_64.json")


def test_nvidia_first_where_its_library_is(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lavapipe, nvidia = driver_files(machine, "lvp_icd.json", "nvidia_icd.json")
    with_gpu(monkeypatch, "libGLX_nvidia.so.0")
    assert rendering.drivers() == [nvidia, lavapipe]
    assert rendering.select_driver() == nvidia


def test_gpu_for_computing_only_renders_on_the_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lavapipe, _ = driver_files(machine, "lvp_icd.json", "nvidia_icd.json")
    with_gpu(monkeypatch, None)
    assert rendering.drivers() == [lavapipe]


def test_the_users_choice_stays(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver_files(machine, "lvp_icd.json")
    monkeypatch.setenv(rendering.VARIABLE, "/somewhere/mine.json")
    assert rendering.select_driver() == Path("/somewhere/mine.json")
    assert os.environ[rendering.VARIABLE] == "/somewhere/mine.json"


def test_a_driver_that_failed_at_set_up_is_not_tried_again(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lavapipe, nvidia = driver_files(machine, "lvp_icd.json", "nvidia_icd.json")
    with_gpu(monkeypatch, "libGLX_nvidia.so.0")
    rendering.remembered().write_text(f"{lavapipe}\n")
    assert rendering.select_driver() == lavapipe
    monkeypatch.setenv(rendering.VARIABLE, "")
    lavapipe.unlink()
    assert rendering.select_driver() == nvidia


def test_no_driver_chooses_nothing(machine: Path) -> None:
    assert rendering.select_driver() is None
    assert os.environ[rendering.VARIABLE] == ""


def test_probe_draws_a_frame_here(tmp_path: Path) -> None:
    outcome = rendering.probe(rendering.select_driver(), tmp_path / "frame.png")
    assert outcome.works, outcome.error
    frame = np.asarray(Image.open(tmp_path / "frame.png"))
    assert frame.shape == (240, 320, 3)
    assert frame[120, 160, 0] > frame[120, 160, 2] + 30, "the cube in the middle is orange"


def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let the probe's child be a shell script."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(rendering.sys, "executable", str(program))


def test_probe_survives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor(tmp_path, monkeypatch, "kill -SEGV $$")
    outcome = rendering.probe(None, tmp_path / "frame.png")
    assert not outcome.works
    assert outcome.error == "the driver crashed (signal 11)"


def test_probe_survives_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(rendering, "PROBE_SECONDS", 0.3)
    assert "no frame after" in rendering.probe(None, tmp_path / "frame.png").error


def test_probe_passes_on_the_childs_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor(tmp_path, monkeypatch, "echo trace >&2; echo 'RuntimeError: no device' >&2; exit 1")
    assert rendering.probe(None, tmp_path / "frame.png").error == "RuntimeError: no device"


def fine() -> Check:
    return Check("Fine", True, "as it should be", "nothing")


def blocked() -> Check:
    return Check("Blocked", False, "not here", "make it so")


def luxury() -> Check:
    return Check("Luxury", False, "not here either", "buy one", needed=False)


def check_broken_part() -> Check:
    raise OSError("no such library")


def test_report_blocks_on_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.report((fine, blocked)) == 1
    text = capsys.readouterr().out
    assert "mend: make it so" in text
    assert "mend: nothing" not in text
    assert "cannot start" in text


def test_report_passes_without_luxury(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.report((fine, luxury)) == 0
    assert "mend: buy one" in capsys.readouterr().out


def test_a_check_that_raises_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.report((check_broken_part, fine)) == 1
    text = capsys.readouterr().out
    assert "OSError: no such library" in text
    assert "as it should be" in text


def test_packages_are_as_pinned() -> None:
    assert doctor.pinned()["torch"] == "2.13.0"
    assert doctor.pinned()["imageio"]
    assert doctor.check_packages().works, doctor.check_packages().detail


def test_a_wrong_or_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "pinned", lambda: {"numpy": "0.0.1", "no-such-package-here": "1.0"})
    check = doctor.check_packages()
    assert not check.works
    assert "numpy" in check.detail
    assert "no-such-package-here missing" in check.detail


@pytest.mark.parametrize("check", [doctor.check_python, doctor.check_ffmpeg, doctor.check_assets, doctor.check_gpu])
def test_what_set_up_gives_is_found(check: object) -> None:
    (line,) = doctor.examine((check,))  # type: ignore[arg-type]
    assert line.works, line.detail


def test_set_up_leaves_a_working_renderer_alone(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lavapipe,) = driver_files(machine, "lvp_icd.json")
    monkeypatch.setattr(system, "remembered", rendering.remembered)
    monkeypatch.setattr(system, "probe", lambda driver, frame: rendering.Rendering(driver, renderer="soft"))
    monkeypatch.setattr(system, "install_driver", lambda: pytest.fail("nothing to install"))
    assert system.set_up_renderer() == "SAPIEN renders on soft"
    assert rendering.remembered().read_text().strip() == str(lavapipe)


def test_without_root_or_sudo_the_command_is_printed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(system.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    assert system.main(["renderer"]) == 1
    text = capsys.readouterr().err
    assert "no sudo" in text
    assert "-m app.system renderer" in text


@pytest.mark.parametrize(("major", "release"), [(22, True), (25, False)])
def test_old_mesa_comes_from_backports(major: int, release: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(system, "apt", lambda *arguments, check=True: calls.append(arguments))
    monkeypatch.setattr(system, "candidate_major", lambda package: major)
    monkeypatch.setattr(system, "enable_backports", lambda codename: f"{codename}-backports")
    monkeypatch.setattr(
        system.platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    )
    system.install_driver()
    assert calls[0] == ("update",)
    assert ("bookworm-backports" in calls[-1]) is release
    assert "mesa-vulkan-drivers" in calls[-1]


def test_only_nvidias_driver_renders_on_the_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, nvidia = driver_files(machine, "lvp_icd.json", "nvidia_icd.json")
    with_gpu(monkeypatch, None)
    assert not rendering.on_nvidia()
    monkeypatch.setenv(rendering.VARIABLE, str(nvidia))
    assert rendering.on_nvidia()


def test_a_space_installs_what_the_set_up_installs() -> None:
    assert (system.ROOT / "packages.txt").read_text().split() == system.DRIVER_PACKAGES


def test_a_checkpoint_without_its_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import model.config

    checkpoints = tmp_path / "assets" / "checkpoints"
    for name in ("generalist", "nano"):
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / "config.json").write_text("{}")
    (checkpoints / "nano" / "model.safetensors").write_text("")
    monkeypatch.setattr(model.config, "CHECKPOINTS", checkpoints)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    check = doctor.check_checkpoint()
    assert not check.works and check.detail == "assets/checkpoints/generalist/model.safetensors is missing"
    assert "git checkout" in check.mend
