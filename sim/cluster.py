"""Simulators on a Ray cluster instead of in processes of this machine: `evaluate(open_pool=partial(RayPool, ...))`.

Each actor owns one simulator and plays whole episodes, policy included, so nothing but finished episodes crosses the
network. Ray trusts its own network and sends Python objects over it: keep the cluster's ports closed to strangers.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from sim.worker import TABLETOP, SimWorker, WorkerError, WorkerPool

log = logging.getLogger(__name__)

T = TypeVar("T")
INSTALL = 'Ray is not installed: run "python -m pip install -r requirements-ray.txt" first.'
STORE_BYTES = 100_000_000
"""Shared memory of a cluster that is started here; episodes are small."""
HERE = "local"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_worker_niceness": "0",  # models and simulators run at the priority they have without Ray
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a machine that is busy loading a model opens its door slowly
}


def require_ray() -> ModuleType:
    """The `ray` package. Raises `ValueError` with the command that installs it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ValueError(INSTALL) from None
    module: ModuleType = ray
    return module


def join(address: str, cpus: int | None = None) -> ModuleType:
    """Connect this process to the cluster at `address`; "local" starts one here with `cpus` CPUs (None: all).

    Raises `ValueError` where there is none.
    """
    ray = require_ray()
    if ray.is_initialized():
        return ray
    own: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            configure_logging=False,
            log_to_driver=False,
            **(own if address == HERE else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"No Ray cluster answers at {address}: start one with `ray start --head`.") from error
    return ray


class Player:
    """What runs in an actor: one simulator, replaced when it breaks, as on one machine."""

    def __init__(self, image_size: tuple[int, int], deadline_s: float, world: str) -> None:
        self._pool = WorkerPool(1, image_size, deadline_s, world)

    def attempt(self, job: Callable[[SimWorker], T]) -> T:
        """As `WorkerPool.attempt`."""
        return self._pool.attempt(job)


class RayPool:
    """`sim.worker.WorkerPool` for jobs that can travel, with its simulators in `size` actors of a cluster.

    Args:
        size, image_size, deadline_s, world: as for `WorkerPool`.
        address: of the cluster's head, as "10.0.0.1:6379" or "ray://..."; "local" starts a cluster on this machine.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, or it is smaller than `size`.
    """

    def __init__(
        self,
        size: int,
        image_size: tuple[int, int] = (640, 480),
        deadline_s: float = 60.0,
        world: str = TABLETOP,
        *,
        address: str,
    ) -> None:
        self.size = size
        self._own = not require_ray().is_initialized()
        self._ray = join(address, size)
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if cpus < size:
            self._leave()
            raise ValueError(f"The cluster has {cpus} CPUs and each simulator takes one: use --workers {max(cpus, 1)}.")
        self._make = self._ray.remote(num_cpus=1)(Player).remote
        self._settings = (image_size, deadline_s, world)
        self._closed = False
        self._actors = [self._make(*self._settings) for _ in range(size)]
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for actor in self._actors:
            self._free.put(actor)

    def attempt(self, job: Callable[[SimWorker], T]) -> T:
        """Run `job` next to a free simulator; when its machine is lost, once more next to a fresh one."""
        actor = self._free.get()
        try:
            try:
                return self._run(actor, job)
            except self._ray.exceptions.RayActorError as error:
                if self._closed:
                    raise WorkerError("The simulators were closed.") from None
                log.warning("a simulator was lost (%s); trying again on a fresh one", type(error).__name__)
                self._actors.remove(actor)
                actor = self._make(*self._settings)
                self._actors.append(actor)
                return self._run(actor, job)
        except self._ray.exceptions.RayActorError:
            raise WorkerError("The machine of a simulator was lost twice.") from None
        finally:
            self._free.put(actor)

    def _run(self, actor: Any, job: Callable[[SimWorker], T]) -> T:
        try:
            result: T = self._ray.get(actor.attempt.remote(job))
            return result
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the job's own error, as if it had run here

    def close(self) -> None:
        """End every actor, and leave the cluster."""
        if self._closed:
            return
        self._closed = True
        for actor in self._actors:
            self._ray.kill(actor)
        self._leave()

    def _leave(self) -> None:
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
