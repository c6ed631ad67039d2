"""Fetching assets from a server on this machine: verified, resumed, atomic, silent on standard input."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sim import fetch as fetching
from sim.fetch import Source, add_instruct_models, fetch
from sim.twin_assets import BRIDGE, EXTRA, ROBOT


def packed(files: dict[str, bytes], top: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{top}/{name}", content)
    return buffer.getvalue()


SCENES = packed({"custom/info_bridge_custom_v0.json": b"{}", "stages/table.glb": bytes(range(256)) * 900}, "scenes")
ROBOT_FILES = {"wx250s.urdf": b"<robot/>", "meshes/base.stl": b"solid"}


class Server(ThreadingHTTPServer):
    """Serves `content` by path; `cut` is how many bytes of an answer get through before the line breaks."""

    content: dict[str, bytes]
    cut: int | None = None
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.content.get(self.path)
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content, server.asked = {"/scenes.zip": SCENES}, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nothing may be asked"))


def scenes(server: Server, **changes: object) -> Source:
    fields: dict[str, object] = {
        "name": "scenes",
        "url": f"http://127.0.0.1:{server.server_port}/scenes.zip",
        "megabytes": 0.2,
        "licence": "CC BY-NC 4.0",
        "target": BRIDGE,
        "landmark": "custom/info_bridge_custom_v0.json",
        "sha256": hashlib.sha256(SCENES).hexdigest(),
    }
    return Source(**fields | changes)  # type: ignore[arg-type]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_size_and_licence_come_first_and_the_set_arrives_whole(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    fetch([scenes(server)], tmp_path, lines.append)
    assert "0.2 MB from http://127.0.0.1" in lines[0] and "CC BY-NC 4.0" in lines[1]
    assert files(tmp_path) == {f"{BRIDGE}/custom/info_bridge_custom_v0.json", f"{BRIDGE}/stages/table.glb"}
    assert (tmp_path / BRIDGE / "stages/table.glb").read_bytes() == bytes(range(256)) * 900


def test_a_broken_line_leaves_nothing_that_counts_and_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    with pytest.raises(ValueError, match=r"run again to go on: python app\.py assets fetch simpler") as caught:
        fetch([scenes(server)], tmp_path, lambda _: None)
    assert "\n" not in str(caught.value) and not (tmp_path / BRIDGE).exists()
    server.cut = None
    fetch([scenes(server)], tmp_path, lambda _: None)
    assert server.asked == [None, "bytes=100000-"]
    assert (tmp_path / BRIDGE / "custom/info_bridge_custom_v0.json").is_file()


def test_a_finished_but_uninstalled_download_is_not_repeated(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / ".downloads" / "bridge_v2_real2sim_dataset.zip.part"
    partial.parent.mkdir()
    partial.write_bytes(SCENES)
    fetch([scenes(server)], tmp_path, lambda _: None)
    assert (tmp_path / BRIDGE / "stages/table.glb").is_file() and not partial.exists()


def test_a_damaged_archive_is_refused_and_forgotten(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="damaged and was deleted"):
        fetch([scenes(server, sha256="0" * 64)], tmp_path, lambda _: None)
    server.content["/scenes.zip"] = b"<html>not today</html>"
    with pytest.raises(ValueError, match="damaged and was deleted"):
        fetch([scenes(server, sha256=None)], tmp_path, lambda _: None)
    assert files(tmp_path) == set()


def test_files_are_verified_where_the_archive_cannot_be(server: Server, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in ROBOT_FILES.items()))
    robot = scenes(
        server, name="robot", target=ROBOT, landmark="wx250s.urdf", sha256=None, sums=sums,
        url=f"http://127.0.0.1:{server.server_port}/robot.zip",
    )  # fmt: skip
    server.content["/robot.zip"] = packed(ROBOT_FILES | {"wx250s.urdf": b"<robot name='other'/>"}, "robot-main")
    with pytest.raises(ValueError, match=r"wx250s\.urdf is not the file that was expected"):
        fetch([robot], tmp_path / "data", lambda _: None)
    assert files(tmp_path / "data") == set()
    server.content["/robot.zip"] = packed(ROBOT_FILES, "robot-main")
    fetch([robot], tmp_path / "data", lambda _: None)
    assert files(tmp_path / "data") == {f"{ROBOT}/wx250s.urdf", f"{ROBOT}/meshes/base.stl"}


def test_half_a_set_is_replaced_and_a_whole_one_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / BRIDGE / "custom").mkdir(parents=True)
    (tmp_path / BRIDGE / "custom" / "half.json").write_text("{")
    fetch([scenes(server)], tmp_path, lambda _: None)
    assert not (tmp_path / BRIDGE / "custom" / "half.json").exists()
    monkeypatch.setattr(fetching, "missing", lambda folder: [f"{BRIDGE}/custom/models/orange/collision.obj"])
    lines: list[str] = []
    fetch([scenes(server)], tmp_path, lines.append)
    assert lines == [f"scenes: already in {tmp_path / BRIDGE}"] and len(server.asked) == 1


def test_the_models_of_tasks_79_and_80_come_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, folder = tmp_path / "data", tmp_path / "maniskill"
    monkeypatch.setenv("MS2_REAL2SIM_ASSET_DIR", str(checkout))
    lines: list[str] = []
    add_instruct_models(folder, lines.append)
    assert len(lines) == 1 and "orange and opened_coke_can" in lines[0] and "ManiSkill2_real2sim" in lines[0]
    for model in EXTRA:
        for name in ("collision.obj", "textured.dae", "colours.png"):
            path = checkout / "custom" / "models" / model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{model} {name}")
    half = folder / BRIDGE / "custom" / "models" / "orange" / "collision.obj"
    half.parent.mkdir(parents=True)
    half.write_text("broken off")
    add_instruct_models(folder, lines.append)
    assert len(files(folder)) == 6 and half.read_text() == "orange collision.obj"
    add_instruct_models(folder, lines.append)
    assert len(lines) == 3, "there is nothing more to do"


def test_no_server_and_no_page_are_one_sentence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="answered 404"):
        fetch([scenes(server, url=f"http://127.0.0.1:{server.server_port}/gone.zip")], tmp_path, lambda _: None)
    with pytest.raises(ValueError, match=r"cannot be reached .*run again"):
        fetch([scenes(server, url="http://127.0.0.1:9/scenes.zip")], tmp_path, lambda _: None)


def test_a_mirror_of_the_hub_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    scenes, robot = fetching.sources()
    assert scenes.url.startswith("https://mirror.example/datasets/haosulab/") and "github.com" in robot.url
    assert robot.sums is not None and len(robot.sums.read_text().splitlines()) >= 20
