"""On a Ray cluster of two workers: the same episodes as here, and a model behind Ray Serve. Skipped without Ray."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.remote import RemoteEngine
from app.wire import MAX_MESSAGE
from model.engine import Engine
from model.released_random import write_random_run
from sim import cluster
from sim.cluster import HERE, RayPool
from sim.evaluate import Report, evaluate
from sim.worker import WorkerPool
from tests import fake_world
from tests.test_evaluate import SIZE, START, SUITE, NoisyPolicy, untimed
from tests.tiny import TINY_RELEASED, observation

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two CPUs on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: python -m pip install -r requirements-ray.txt")
    try:
        cluster.join(HERE, cpus=2)
        assert ray.get(ray.remote(lambda: "up").remote(), timeout=90) == "up"
    except Exception as error:  # a container may forbid what Ray itself needs: shared memory, ports, many processes
        ray.shutdown()
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield ray
    ray.shutdown()


def lose_this_machine(flag: Path, worker: object) -> str:
    """The whole actor dies, the first time."""
    if not flag.exists():
        flag.touch()
        os._exit(1)
    return "played"


def play(open_pool: Callable[..., Any]) -> Report:
    """One scene of the suite crashes its simulator, every time."""
    world = "tests.fake_world:CrashesOnASeed"
    options: dict[str, Any] = {"image_size": SIZE, "progress": False, "world": world, "open_pool": open_pool}
    return evaluate(SUITE, NoisyPolicy, "noisy", workers=2, **options)


def test_a_cluster_plays_the_same_episodes_whatever_is_lost(ray: Any, tmp_path: Path) -> None:
    def cluster_with_a_loss(*arguments: Any, **options: Any) -> RayPool:
        pool = RayPool(*arguments, **options, address=HERE)
        assert pool.attempt(partial(lose_this_machine, tmp_path / "flag")) == "played"
        return pool

    there = play(cluster_with_a_loss)
    assert untimed(there) == untimed(play(WorkerPool))
    assert [(result.seed, result.success) for result in there.results if result.error] == [(START + 1, False)]


def test_more_simulators_than_cpus_is_one_sentence(ray: Any) -> None:
    with pytest.raises(ValueError, match="use --workers 2"):
        RayPool(3, SIZE, world=fake_world.PATH, address=HERE)


def test_without_ray_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-ray\.txt"):
        RayPool(1, address=HERE)


def test_a_model_behind_ray_serve_acts_and_answers_as_at_home(ray: Any, tmp_path: Path) -> None:
    from app.replicas import deploy

    folder = write_random_run(tmp_path / "run", TINY_RELEASED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = deploy(str(folder), "127.0.0.1", port, most=2)
    try:
        here, there = Engine(str(folder)).wait(), RemoteEngine(f"http://127.0.0.1:{port}").wait()
        assert there.fingerprint() == here.fingerprint()
        image = observation(0).image
        assert image is not None
        assert "".join(there.ask(image, "what is it?")) == "".join(here.ask(image, "what is it?"))
        refused = [httpx.post(f"{there.name}/ask", content=body) for body in (pickle.dumps(0), bytes(MAX_MESSAGE + 1))]
        assert [answer.status_code for answer in refused] == [400, 413]
        seen: list[list[Any]] = []
        remote = there.policy(True)
        for policy in (here.policy(True), remote):
            policy.reset("pick up the cube", 3)
            thought = list(policy.think(observation(0)))
            seen.append([thought, *(policy.act(observation(step)).tolist() for step in range(3))])
        assert seen[0] == seen[1]
        assert np.isfinite(seen[0][1]).all()
        remote.close()
    finally:
        serve.shutdown()
