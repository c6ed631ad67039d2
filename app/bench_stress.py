"""What the page stands: strangers' pictures, many visitors at once, comings and goings, and broken simulators.

`app.py bench --stress` starts the page as its own process on 127.0.0.1 and treats it as browsers do, through the page's
own events; nothing goes to any other machine. Every loop is bounded in count and every wait in time.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from app import scenes
from app.bench_crowd import crowd
from app.bench_pictures import try_pictures
from app.health import resident_mb
from app.visitor import Visitor, plainly, watch

SESSIONS, WARM_UP = 100, 20
REBUILDS = 50
WORKERS = 2
START_S = 300.0
ROOT = Path(__file__).resolve().parents[1]


class Server:
    """The page in a process of its own, with a folder of its own to run in."""

    def __init__(self, model: str, folder: Path, workers: int = WORKERS) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        model = str(Path(model).resolve()) if Path(model).is_dir() else model
        command = [sys.executable, str(ROOT / "app.py"), "--model", model, "--port", str(port)]
        command += ["--workers", str(workers)]
        self.address = f"http://127.0.0.1:{port}"
        self.folder = folder
        self._log = (folder / "log.jsonl").open("wb")
        environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Server:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if self.health()["status"] != "loading":
                    return self
            time.sleep(0.5)
        self.__exit__()
        raise ValueError(f"the page did not start within {START_S:g} s; its log: {self.folder / 'log.jsonl'}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._log.close()

    def health(self) -> dict[str, Any]:
        """What `/health` says."""
        told: dict[str, Any] = httpx.get(f"{self.address}/health", timeout=30, trust_env=False).json()
        return told

    @property
    def simulators(self) -> list[int]:
        """Process ids of the page's simulators."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        for task in tasks:  # threads start processes too
            with contextlib.suppress(OSError):
                children += (task / "children").read_text().split()
        return [pid for pid in map(int, sorted(set(children))) if b"spawn_main" in _command_line(pid)]

    @property
    def busiest(self) -> int:
        """Process id of the simulator that works."""

        def ticks(pid: int) -> int:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])  # user and system time

        before = {pid: ticks(pid) for pid in self.simulators}
        time.sleep(1.0)
        return max(before, key=lambda pid: ticks(pid) - before[pid])

    def weight(self) -> tuple[int, int, int]:
        """Megabytes of the page, megabytes of its simulators, number of processes."""
        simulators = self.simulators
        return resident_mb(self.process.pid), sum(map(resident_mb, simulators)), 1 + len(simulators)

    def idle(self, patience_s: float = 60.0) -> float:
        """Seconds until no simulator is in use; ValueError where one stays so."""
        began = time.perf_counter()
        while self.health()["workers"]["busy"]:
            if time.perf_counter() - began > patience_s:
                raise ValueError(f"a simulator is still in use after {patience_s:g} s")
            time.sleep(0.02)
        return time.perf_counter() - began


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# -- visitors ---------------------------------------------------------------------------------------------------------


def come_and_go(server: Server, count: int = SESSIONS, warm_up: int = WARM_UP) -> dict[str, Any]:
    """`count` tabs are opened, used for a moment and closed; memory is compared from after the first `warm_up`."""

    def visit(number: int) -> None:
        httpx.get(server.address, timeout=60, trust_env=False).raise_for_status()
        visitor = Visitor(server.address)
        with visitor.open():
            for _ in visitor.fire("shuffle"):
                pass
        visitor.close()

    for number in range(warm_up):
        visit(number)
    server.idle()
    before = server.weight()
    for number in range(count):
        visit(number)
    server.idle()
    return {"sessions": count, **growth(before, server.weight()), "tabs left": server.health()["visitors"]}


def warm(address: str, tries: int = 5) -> None:
    """Have every simulator build a scene, so that nothing below waits for a first start. `ValueError`: one cannot."""
    status = ""
    for _ in range(tries):
        with ThreadPoolExecutor(WORKERS) as threads:
            lines = list(threads.map(lambda visitor: build(visitor, 0), [Visitor(address) for _ in range(WORKERS)]))
        status = next((line for line in lines if "Ready to run" not in line), "")
        if not status:
            return
    raise ValueError(f"the simulators do not get ready on this machine now: {plainly(status)}")


def build(visitor: Visitor, number: int) -> str:
    """Set up one more scene; the status line then."""
    kinds = list(scenes.FAMILIES.values())
    wish: dict[str, Any] = {"family": kinds[number % len(kinds)], "seed": scenes.FIRST_SEED + number}
    *_, line = (update["status"] for update in visitor.fire("preview", **wish) if "status" in update)
    return str(line)


def rebuild(server: Server, count: int = REBUILDS, warm_up: int = 2 * WORKERS) -> dict[str, Any]:
    """`count` scenes of changing kinds are built, one after the other."""
    visitor = Visitor(server.address)
    for number in range(warm_up):
        build(visitor, number)
    before = server.weight()
    built = sum("Ready to run" in build(visitor, warm_up + number) for number in range(count))
    told = {"scenes built": f"{built} of {count}", **growth(before, server.weight())}
    return told | {"simulators replaced": server.health()["workers"]["restarts"]}


def growth(before: tuple[int, int, int], after: tuple[int, int, int]) -> dict[str, str]:
    """Both weights and the growth in per cent."""
    names = ("page, MB", "simulators, MB", "processes")
    return {
        name: f"{old} -> {new} ({100 * (new - old) / max(old, 1):+.1f} %)"
        for name, old, new in zip(names, before, after, strict=True)
    }


# -- faults -----------------------------------------------------------------------------------------------------------


def started(visitor: Visitor, steps: int = 3, **given: Any) -> tuple[Iterator[dict[str, Any]], str]:
    """A rollout that has made `steps` steps, and the status line then."""
    events = visitor.fire("run", **given)
    line = ""
    for update in events:
        line = update.get("status", line)
        step = re.search(r"Step (\d+)", line)
        if step and int(step.group(1)) >= steps:
            break
    return events, line


def stop(server: Server) -> dict[str, Any]:
    """Press Stop in the middle of a rollout, then close the tab in the middle of another."""
    visitor = Visitor(server.address)
    events, line = started(visitor)
    shown = int(re.findall(r"Step (\d+)", line)[-1])
    began = time.perf_counter()
    list(visitor.fire("stop"))
    stopped = time.perf_counter() - began
    for update in events:
        line = update.get("status", line)
    made = int(re.findall(r"(\d+) steps", line)[0])
    with visitor.open():
        events, _ = started(visitor)
    return {
        "step shown when Stop was pressed": shown,
        "steps made": made,
        "Stop answered after [s]": round(stopped, 2),
        "free after closing the tab [s]": round(server.idle(), 2),
    }


def break_simulator(server: Server, how: signal.Signals) -> dict[str, Any]:
    """Send a simulator a signal in the middle of its rollout: what the page says, and whether the next one works."""
    visitor = Visitor(server.address)
    events, line = started(visitor)
    began = time.perf_counter()
    os.kill(server.busiest, how)
    for update in events:
        line = update.get("status", line)
    spent = time.perf_counter() - began
    following = watch(Visitor(server.address))
    return {
        "the page says": plainly(line),
        "after [s]": round(spent, 1),
        "the next rollout works": following.finished,
        "records": records(server.folder / "recordings"),
    }


def records(folder: Path) -> str:
    """How many recordings there are, and how many of them cannot be read."""
    from app.recording import Recording

    found = [Recording(path) for path in folder.iterdir()]
    return f"{len(found)}, {sum(not (record.whole and record.video.is_file()) for record in found)} of them damaged"


def stress(model: str, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything and tell it line by line. Returns `{"model", "machine", part: figures}`."""
    from app.bench import machine

    result: dict[str, Any] = {"model": model, "machine": machine()}

    def part(name: str, measure: Callable[[], Any]) -> None:
        began = time.perf_counter()
        figures = measure()
        result[name] = figures
        tell(f"\n{name} ({time.perf_counter() - began:.0f} s)")
        for row in figures if isinstance(figures, list) else [figures]:
            tell("  " + ", ".join(f"{key}: {value}" for key, value in row.items()))

    with tempfile.TemporaryDirectory() as folder, Server(model, Path(folder)) as server:
        part("pictures", lambda: try_pictures(Visitor(server.address)))
        warm(server.address)
        part("eight visitors at once", lambda: crowd(server.address, server.folder / "recordings"))
        part("stop", lambda: stop(server))
        part("sessions", lambda: come_and_go(server))
        part("scene rebuilds", lambda: rebuild(server))
        part("simulator killed", lambda: break_simulator(server, signal.SIGKILL))
        part("simulator hung", lambda: break_simulator(server, signal.SIGSTOP))
        result["health"] = server.health()
    return result
