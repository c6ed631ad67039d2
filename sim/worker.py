"""A simulator in its own process, and a pool of them: every call has a deadline, every failure is one sentence.

>>> with WorkerPool(2) as pool:
...     worker = pool.lease()
...     observation = worker.reset(spec)
...     result = worker.step(action, render=False)
...     pool.release(worker)  # a broken worker is replaced here
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn, TypeVar

import numpy as np

from sim.disturb import Disturbance
from sim.interface import ACTION_DIM, Action, Observation, StepResult
from sim.process import Call, Fault, JpegObservation, Reply, Run, child_environment, serve

log = logging.getLogger(__name__)

T = TypeVar("T")

TABLETOP = "sim.scenes:Tabletop"
SIMPLER = "sim.simpler:Simpler"
EITHER = "sim.packs:EitherPack"
"""The worlds there are: our own table, the official scenes, and one that plays both."""
START_DEADLINE_S = 180.0
"""Importing ManiSkill, compiling shaders and loading every mesh takes tens of seconds on a busy two-core machine."""
RECYCLE_AT = 18
"""Scenes built in one process before it is replaced: SAPIEN fails after about 27 (haosulab/ManiSkill#1477)."""


class WorkerError(RuntimeError):
    """The simulator crashed, hung or answered nonsense; the text is one plain sentence for the person who asked."""


class WorkerStartError(WorkerError):
    """The simulator could not even be built; a new process would most likely fail in the same way."""


class SimWorker:
    """The methods of `sim.scenes.Tabletop`, executed in a spawned process that owns one renderer.

    The process starts at once and is awaited by the first call. After a WorkerError the worker stays broken until
    `restart()`. A ValueError (an impossible scene, say) is the world's own complaint and leaves the worker usable.
    One thread at a time may call; `close()` may come from any thread and ends a call in progress.

    Args:
        image_size: (width, height) of the frames in pixels.
        deadline_s: seconds each call may take before the process is killed.
        world: "module:callable" that builds the world, called with `image_size`.
        render_threads: threads of Mesa's software renderer; None leaves it all cores.
        start_deadline_s: seconds the world may take to be built.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (640, 480),
        deadline_s: float = 60.0,
        world: str = TABLETOP,
        render_threads: int | None = None,
        start_deadline_s: float = START_DEADLINE_S,
    ) -> None:
        self.image_size = image_size
        self.deadline_s = deadline_s
        self.start_deadline_s = start_deadline_s
        self._world = world
        self._render_threads = render_threads
        self.restarts = 0
        self.timings: dict[str, float] = {}
        """Milliseconds per part of the latest call (`sim.process.Reply`)."""
        self._lock = threading.RLock()
        self._jpeg: bytes | None = None
        self._closed = False
        self._start()

    # -- the methods of a world -----------------------------------------------------------------------------------

    def reset(self, spec: Any, render: bool = True) -> Observation:
        """Set up the scene (`sim.tasks.SceneSpec`); ValueError when it cannot be built."""
        with self._lock:
            if self._rebuilds >= RECYCLE_AT:
                log.info("replacing a simulator process that has built %d scenes", self._rebuilds)
                self.restart()
            return self._observation(self._call("reset", spec, render))

    def step(self, action: Action, render: bool = True) -> StepResult:
        """Execute one (7,) action; without `render` the observation has no image and costs a tenth."""
        checked = np.asarray(action, np.float32)
        if checked.shape != (ACTION_DIM,) or not np.isfinite(checked).all():
            raise ValueError(f"an action is {ACTION_DIM} finite numbers, not {action!r}")
        result = self._expect(StepResult, self._call("step", checked, render), "step")
        self._observation(result.observation)
        return result

    def observe(self, render: bool = True) -> Observation:
        """What the robot sees now."""
        return self._observation(self._call("observe", render))

    def disturb(self, change: Disturbance) -> Observation:
        """Move things or change the look; what is seen then. ValueError where that cannot be done."""
        return self._observation(self._call("disturb", change))

    def expert_action(self) -> Action:
        """The scripted expert's (7,) action for the present state."""
        return self._expect(np.ndarray, self._call("expert_action"), "expert_action")

    def state(self) -> dict[str, Any]:
        """Everything needed to come back to this moment with `set_state`."""
        return self._expect(dict, self._call("state"), "state")

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to a moment of the same scene."""
        self._call("set_state", state)

    def keypoints(self) -> dict[str, Any]:
        """The source and the target -> (u, v, x, y, z): image position in [0, 1], base-frame position in metres."""
        return self._expect(dict, self._call("keypoints"), "keypoints")

    def visible_objects(self) -> dict[str, Any]:
        """Object id -> (u, v, x, y, z) for every object of the scene."""
        return self._expect(dict, self._call("visible_objects"), "visible_objects")

    # -- the process ----------------------------------------------------------------------------------------------

    @property
    def last_jpeg(self) -> bytes:
        """The latest frame exactly as it crossed the pipe; WorkerError before the first one."""
        if self._jpeg is None:
            raise WorkerError("The simulator has not rendered a frame yet.")
        return self._jpeg

    @property
    def healthy(self) -> bool:
        """Whether the process is there and has not failed a call."""
        return not self._broken and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def run(self, function: Callable[..., T], *args: Any, deadline_s: float | None = None) -> T:
        """Call an importable `function(*args, world)` inside the process and return its (picklable) result."""
        result: T = self._request(Run(function, args), function.__name__, deadline_s or self.deadline_s)
        return result

    def restart(self) -> None:
        """Replace the process by a fresh one; returns at once, the next call waits until it is ready."""
        self.restarts += 1
        self._finalizer()
        with self._lock:
            self._start()

    def close(self) -> None:
        """End the process; harmless when repeated."""
        self._closed = True
        self._broken = True
        self._finalizer()

    def _start(self) -> None:
        if self._closed:
            raise WorkerError("This simulator was closed.")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._world, self.image_size), name="simulator", daemon=True
        )
        with child_environment(self._render_threads):
            self._process.start()
        theirs.close()
        self._ready = self._broken = False
        self._rebuilds = 0
        # Runs on close(), restart(), garbage collection and interpreter exit, whichever comes first.
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)

    def _call(self, method: str, *args: Any) -> Any:
        return self._request(Call(method, args), method, self.deadline_s)

    def _request(self, message: Call | Run, what: str, deadline_s: float) -> Any:
        with self._lock:
            if self._broken:
                raise WorkerError("This simulator has stopped and has to be restarted.")
            try:
                if not self._ready:
                    self._await_ready()
                self._connection.send(message)
                return self._receive(what, deadline_s)
            except OSError:
                self._fail(f"The simulator process crashed before {what}.")
            except (KeyboardInterrupt, SystemExit):
                self._broken = True  # the answer still to come would be taken for the next call's
                raise

    def _await_ready(self) -> None:
        try:
            self._receive("start-up", self.start_deadline_s)
        except WorkerError as error:
            raise WorkerStartError(str(error)) from error
        self._ready = True

    def _receive(self, what: str, deadline_s: float) -> Any:
        try:
            if not self._connection.poll(deadline_s):
                self._fail(f"The simulator did not finish {what} within {deadline_s:g} s and was stopped.")
            reply = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(1.0)  # so that the exit code is known
            self._fail(f"The simulator process crashed during {what} (exit code {self._process.exitcode}).")
        except WorkerError:
            raise
        except Exception:  # bytes that are no message, for instance a native library writing to the wrong file
            log.exception("unreadable answer of the simulator")
            self._fail(f"The simulator's answer to {what} could not be read.")
        if isinstance(reply, Fault):
            if reply.bad_input:
                raise ValueError(reply.sentence)
            log.error("simulator error during %r\n%s", what, reply.trace)
            self._fail(f"The simulator failed during {what}: {reply.sentence}")
        reply = self._expect(Reply, reply, what)
        self._rebuilds, self.timings = reply.rebuilds, reply.timings
        return reply.value

    def _expect(self, kind: type[T], value: Any, what: str) -> T:
        if not isinstance(value, kind):
            self._fail(f"The simulator answered {what} with a {type(value).__name__}, not a {kind.__name__}.")
        return value

    def _observation(self, value: Any) -> Observation:
        observation = self._expect(JpegObservation, value, "observation")
        if observation.jpeg is not None:
            self._jpeg = observation.jpeg
        return observation

    def _fail(self, sentence: str) -> NoReturn:
        """A process in an unknown state is worth nothing: end it, then tell the caller."""
        self._broken = True
        self._finalizer()
        raise WorkerError("The simulator was closed." if self._closed else sentence)

    def __enter__(self) -> SimWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WorkerPool:
    """`size` simulators to be leased one per session or episode.

    Args:
        size: number of processes; they start at once, in parallel.
        image_size, deadline_s, world: as for `SimWorker`.
    """

    def __init__(
        self,
        size: int,
        image_size: tuple[int, int] = (640, 480),
        deadline_s: float = 60.0,
        world: str = TABLETOP,
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one simulator, not {size}")
        self.size = size
        self._closed = False
        share = max(1, (os.cpu_count() or 1) // size)  # renderers side by side must not fight for the cores
        self._workers = [SimWorker(image_size, deadline_s, world, render_threads=share) for _ in range(size)]
        self._free: queue.SimpleQueue[SimWorker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def lease(self, timeout_s: float | None = None) -> SimWorker:
        """Wait up to `timeout_s` (None: for ever) for a free worker; WorkerError when all stay busy."""
        try:
            worker = self._free.get(block=timeout_s != 0, timeout=timeout_s)
        except queue.Empty:
            raise WorkerError(f"All {self.size} simulators are in use; please try again in a moment.") from None
        if not worker.healthy:  # died while nobody used it
            worker.restart()
        return worker

    def release(self, worker: SimWorker) -> None:
        """Give a leased worker back; a broken one gets a new process first."""
        if self._closed:
            return
        if not worker.healthy:
            worker.restart()
        self._free.put(worker)

    @property
    def restarts(self) -> int:
        """How often a process was replaced: broken ones, and those that had built enough scenes."""
        return sum(worker.restarts for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the simulators."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def attempt(self, job: Callable[[SimWorker], T]) -> T:
        """Run `job` on a leased worker; after a WorkerError once more on a fresh process, then let the error out."""
        worker = self.lease()
        try:
            try:
                return job(worker)
            except WorkerError as error:
                log.warning("%s Trying again on a fresh one.", error)
                worker.restart()
                return job(worker)
        finally:
            self.release(worker)

    def close(self) -> None:
        """End every process."""
        self._closed = True
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(process: SpawnProcess, connection: Connection) -> None:
    """Kill and reap. A renderer has nothing to save, and a hung one would not listen to anything gentler."""
    process.kill()
    process.join(10.0)
    connection.close()
