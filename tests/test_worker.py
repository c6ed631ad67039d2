"""A simulator may crash, hang or talk nonsense; the caller gets a sentence and a fresh process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sim.disturb import Disturbance
from sim.process import Simulator
from sim.worker import RECYCLE_AT, SimWorker, WorkerError, WorkerPool, WorkerStartError
from tests import fake_world
from tests.fake_world import RESET, BrokenWorld

STILL = np.zeros(7, np.float32)
BROKEN = "tests.fake_world:BrokenWorld"


def small(world: str = fake_world.PATH, deadline_s: float = 20.0) -> SimWorker:
    return SimWorker((32, 24), deadline_s=deadline_s, world=world)


def gone(pid: int) -> bool:
    """True when no process, not even a zombie, has this id."""
    return not Path(f"/proc/{pid}").exists()


def double_count(factor: int, world: Simulator) -> int:
    return factor * world.observe(render=False).step


def test_a_worker_offers_the_methods_of_the_world() -> None:
    with small() as worker:
        first = worker.reset(RESET)
        assert first.image is not None and first.image.shape == (24, 32, 3) and first.step == 0
        result = worker.step(worker.expert_action())
        assert result.observation.step == 1 and not result.done
        assert worker.last_jpeg[:2] == b"\xff\xd8"
        before = worker.last_jpeg
        blind = worker.step(STILL, render=False)
        assert blind.observation.image is None and worker.last_jpeg == before
        saved = worker.state()
        worker.step(np.full(7, 0.01, np.float32))
        worker.set_state(saved)
        np.testing.assert_array_equal(worker.observe().proprio, blind.observation.proprio)
        assert set(worker.keypoints()) == {"source", "target"}
        before = worker.observe().proprio
        assert worker.disturb(Disturbance("nudge", ("point",))).proprio[0] > before[0]
        with pytest.raises(ValueError, match="no look"):
            worker.disturb(Disturbance("light"))
        worker.step(STILL)
        assert set(worker.timings) == {"simulate", "render", "encode"} and worker.timings["encode"] > 0
        assert worker.run(double_count, 2) == 8


def test_bad_requests_leave_the_worker_alive() -> None:
    with small() as worker:
        with pytest.raises(ValueError, match="negative"):
            worker.reset({"seed": -1})
        worker.reset(RESET)
        with pytest.raises(ValueError, match="7 finite numbers"):
            worker.step(np.array([np.nan] * 7))
        with pytest.raises(ValueError, match="7 finite numbers"):
            worker.step(np.zeros(6, np.float32))
        assert worker.healthy and worker.step(STILL).observation.step == 1


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (BrokenWorld.CRASH, r"crashed during step \(exit code -6\)"),
        (BrokenWorld.HANG, "did not finish step within 1 s"),
        (BrokenWorld.NONSENSE, "answered step with a str"),
        (BrokenWorld.RAISE, "failed during step: the gripper fell off$"),
        (BrokenWorld.UNPICKLABLE, "failed during step"),
    ],
)
def test_a_broken_simulator_is_one_sentence_and_restart_mends_it(mode: int, sentence: str) -> None:
    with small(BROKEN, deadline_s=1.0) as worker:
        worker.reset({"seed": mode})
        pid = worker._process.pid
        assert pid is not None
        with pytest.raises(WorkerError, match=sentence) as caught:
            worker.step(STILL)
        assert "\n" not in str(caught.value)
        assert gone(pid) and not worker.healthy
        with pytest.raises(WorkerError, match="has to be restarted"):
            worker.observe()
        worker.restart()
        worker.reset(RESET)
        assert worker.step(STILL).observation.step == 1


def test_a_garbled_pipe_is_reported() -> None:
    with small() as worker:
        worker.reset(RESET)
        worker.run(write_garbage_first)
        with pytest.raises(WorkerError, match="could not be read"):
            worker.observe()


def write_garbage_first(world: Simulator) -> None:
    """Stand in for a native library that writes to our pipe: bytes that are no message precede the next answer."""
    import gc
    from multiprocessing.connection import Connection

    pipe = next(item for item in gc.get_objects() if isinstance(item, Connection) and item.writable and not item.closed)
    threading.Timer(0.1, lambda: pipe.send_bytes(b"libGL error")).start()
    observe = world.observe
    world.observe = lambda *arguments: (threading.Event().wait(0.5), observe(*arguments))[1]  # type: ignore[method-assign]


def test_a_world_that_cannot_be_built_says_why() -> None:
    with (
        small("tests.fake_world:UnbuildableWorld") as worker,
        pytest.raises(WorkerStartError, match="no Vulkan device"),
    ):
        worker.reset(RESET)
    with small("tests.fake_world:Missing") as worker, pytest.raises(WorkerStartError, match="Missing"):
        worker.observe()


def test_processes_are_recycled_before_the_renderer_leaks() -> None:
    with small() as worker:
        pids = set()
        for seed in range(RECYCLE_AT + 2):
            assert worker.reset({"seed": seed}).step == 0
            pids.add(worker._process.pid)
        assert len(pids) == 2


def test_close_ends_a_call_in_progress_and_leaves_no_process() -> None:
    worker = small(BROKEN, deadline_s=60.0)
    worker.reset({"seed": BrokenWorld.HANG})
    pid = worker._process.pid
    assert pid is not None
    closer = threading.Timer(0.2, worker.close)
    closer.start()
    with pytest.raises(WorkerError, match="was closed"):
        worker.step(STILL)
    closer.join()
    assert gone(pid)
    worker.close()
    with pytest.raises(WorkerError, match="was closed"):
        worker.restart()


def test_an_interrupted_call_does_not_answer_the_next_one() -> None:
    with small() as worker:
        worker.reset(RESET)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, a shell ignores it
        threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(KeyboardInterrupt):
            worker.run(sleep, 5.0)
        with pytest.raises(WorkerError, match="has to be restarted"):
            worker.observe()


def sleep(seconds: float, world: Simulator) -> None:
    time.sleep(seconds)


def test_a_forgotten_worker_goes_away() -> None:
    worker = small()
    worker.reset(RESET)
    pid = worker._process.pid
    assert pid is not None
    del worker
    assert gone(pid)


def test_simulators_die_with_their_parent() -> None:
    """Even when the parent is killed outright while the simulator hangs in a call."""
    program = (
        "import os, threading\n"
        "from tests.fake_world import BrokenWorld\n"
        "from sim.worker import SimWorker\n"
        "if __name__ == '__main__':\n"
        "    worker = SimWorker((32, 24), world='tests.fake_world:BrokenWorld')\n"
        "    worker.reset({'seed': BrokenWorld.HANG})\n"
        "    print(worker._process.pid, flush=True)\n"
        "    threading.Timer(0.3, os._exit, (9,)).start()\n"
        "    worker.step([0.0] * 7)\n"
    )
    script = [sys.executable, "-c", program]
    done = subprocess.run(script, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert done.returncode == 9, done.stderr
    pid = int(done.stdout)
    for _ in range(100):
        if (
            gone(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        ):  # whoever adopted it may be slow to reap
            return
        threading.Event().wait(0.1)
    pytest.fail("the simulator outlived its parent")


def test_thread_limits_reach_the_child_and_only_the_child() -> None:
    before = os.environ.get("LP_NUM_THREADS")
    with SimWorker((32, 24), world=fake_world.PATH, render_threads=1) as worker:
        assert worker.run(environment, "LP_NUM_THREADS") == "1"
        assert worker.run(environment, "OMP_NUM_THREADS") == "1"
    assert os.environ.get("LP_NUM_THREADS") == before


def environment(name: str, world: Simulator) -> str | None:
    return os.environ.get(name)


def test_a_pool_leases_each_worker_once_and_replaces_broken_ones() -> None:
    with WorkerPool(2, (32, 24), deadline_s=20.0, world=BROKEN) as pool:
        one, two = pool.lease(), pool.lease()
        assert one is not two
        with pytest.raises(WorkerError, match="All 2 simulators are in use"):
            pool.lease(timeout_s=0)
        with pytest.raises(WorkerError, match="in use"):
            pool.lease(timeout_s=0.05)
        one.reset({"seed": BrokenWorld.CRASH})
        with pytest.raises(WorkerError):
            one.step(STILL)
        pool.release(one)
        again = pool.lease(timeout_s=0)
        again.reset(RESET)
        assert again.step(STILL).observation.step == 1
        pool.release(again)
        pool.release(two)
        two._process.kill()  # while nobody uses it
        two._process.join()
        assert all(pool.lease().reset(RESET).step == 0 for _ in range(2))
    assert not one.healthy and not two.healthy
    with pytest.raises(ValueError, match="at least one"):
        WorkerPool(0)


def test_a_job_is_tried_twice() -> None:
    seen: list[int | None] = []

    def job(worker: SimWorker) -> str:
        seen.append(worker._process.pid)
        worker.reset({"seed": BrokenWorld.CRASH if len(seen) == 1 else 0})
        worker.step(STILL)
        return "done"

    with WorkerPool(1, (32, 24), world=BROKEN) as pool:
        assert pool.attempt(job) == "done"
        assert len(set(seen)) == 2
