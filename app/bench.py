"""How fast everything is on this machine, measured in one run the way the page uses it."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.compare import MakePolicy, play_pair
from app.controller import Simulator
from app.events import Command
from app.remote import RemoteEngine, RemotePolicy
from app.steering import Steering
from model.engine import Engine
from model.policy import EXECUTE, InstructPolicy
from model.released_checkpoints import Released
from model.released_policy import ReleasedPolicy
from sim.interface import Observation
from sim.tasks import KINDS, SceneSpec, sample_goal
from sim.worker import SimWorker

AnyEngine = Engine | RemoteEngine
LOADS, PAIRS = 3, 2
SEED = 500_000
QUESTION = "What is on the table?"


@dataclass(frozen=True)
class Row:
    """One figure: median and 95th percentile over `samples` measurements, and the bar it is held against, if any."""

    name: str
    unit: str
    median: float
    p95: float
    samples: int
    bar: str = ""


def scene(number: int = 0) -> SceneSpec:
    """The scene everything is measured on, a validation seed; other numbers are of other families in turn."""
    kind = KINDS[(number + 1) % len(KINDS)]
    return SceneSpec(goal=sample_goal(kind, seed=SEED + number), seed=SEED + number)


def summarise(name: str, unit: str, values: list[float], slow_end: int = 95, bar: str = "") -> Row:
    """Median and p95; for rates pass `slow_end=5`, so that p95 is the slow end there too."""
    if not values:
        raise ValueError(f"nothing was measured for {name!r}")
    slow = float(np.percentile(values, slow_end))
    return Row(name, unit, round(statistics.median(values), 2), round(slow, 2), len(values), bar)


def measure(call: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of `times` calls, after one that warms up."""
    call()
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - started))
    return spent


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model_name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model_name = names[0] if names else model_name
    return {
        "cpu": model_name,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def bench_loading(load: Callable[[], AnyEngine]) -> tuple[AnyEngine, Row]:
    """Load the model `LOADS` times; returns the last engine, ready."""
    spent = []
    for _ in range(LOADS):
        started = time.perf_counter()
        engine = load()
        spent.append(time.perf_counter() - started)
    return engine, summarise("model load", "s", spent)


def bench_text(engine: AnyEngine, worker: SimWorker, times: int) -> list[Row]:
    """Time to the first token and decoding rate, of thoughts and of answers: each time another scene and request."""
    first: dict[str, list[float]] = {"thought": [], "answer": []}
    rate: dict[str, list[float]] = {"thought": [], "answer": []}
    policy = engine.policy(think=True)
    for number in range(times):
        observation = worker.reset(scene(number))
        assert observation.image is not None
        policy.reset(scene(number).text)
        for kind in first:
            started = time.perf_counter()
            stream = policy.think(observation) if kind == "thought" else engine.ask(observation.image, QUESTION)
            moments = [time.perf_counter() for _ in stream]
            if moments:
                first[kind].append(1e3 * (moments[0] - started))
            if len(moments) > 1:
                rate[kind].append((len(moments) - 1) / (moments[-1] - moments[0]))
    rows = [summarise(f"time to first token, {kind}", "ms", values) for kind, values in first.items() if values]
    return rows + [summarise(f"decoding, {kind}", "tokens/s", v, slow_end=5) for kind, v in rate.items() if v]


def bench_planning(engine: AnyEngine, observation: Observation, times: int) -> list[Row]:
    """The two halves of a plan without a thought: VLM pass to the latent action, then flow matching."""
    policy = engine.policy(think=False)
    passes: list[float] = []
    sampling: list[float] = []
    for _ in range(times + 1):
        policy.reset(scene().text)
        policy.act(observation)
        passes.append(policy.timings["plan"])
        sampling.append(policy.timings["flow"])
    return [summarise("VLM pass", "ms", passes[1:]), summarise("action sampling", "ms", sampling[1:])]


def bench_simulator(worker: SimWorker, times: int) -> list[Row]:
    """Physics of one control step, and one 640 x 480 frame, both as they reach the caller through the pipe."""
    worker.reset(scene())
    steps = measure(lambda: worker.step(worker.expert_action(), render=False), times)
    frames = measure(lambda: worker.observe(render=True), times)
    return [summarise("simulator step, with the expert's action", "ms", steps), summarise("frame", "ms", frames)]


def control_steps(policy: InstructPolicy | ReleasedPolicy | RemotePolicy, worker: SimWorker, limit: int) -> list[float]:
    """Seconds of each control step of one rollout that shows every frame, as the page does."""
    policy.reset(scene().text)
    observation = worker.reset(scene())
    spent = []
    for _ in range(limit):
        started = time.perf_counter()
        result = worker.step(policy.act(observation))
        spent.append(time.perf_counter() - started)
        observation = result.observation
        if result.done:
            break
    return spent


def bench_control(engine: AnyEngine, worker: SimWorker, limit: int) -> list[Row]:
    """End-to-end control steps per second, without and with thoughts: over chunks of `EXECUTE` steps, over all."""
    rows = []
    for think in (False, True):
        spent = control_steps(engine.policy(think=think), worker, limit)
        chunks = [spent[i : i + EXECUTE] for i in range(0, len(spent) - EXECUTE + 1, EXECUTE)]
        rates = [len(chunk) / sum(chunk) for chunk in chunks]
        name = f"end to end, {'thinking' if think else 'not thinking'}"
        rows.append(summarise(name, "steps/s", rates, slow_end=5))
        rows.append(summarise(f"{name}, whole rollout", "steps/s", [len(spent) / sum(spent)]))
    return rows


def bench_pairs(engine: Engine, simulators: Sequence[SimWorker], times: int, limit: int) -> list[Row]:
    """Seconds of a pair of Compare, thinking and not, of at most `limit` control steps each.

    Played one after the other; at the same time; and at the same time with forward passes made for both, as the page
    does with two simulators.
    """

    def shared(command: Command, simulator: Simulator) -> InstructPolicy:
        policy = engine.policy(command.think)
        assert isinstance(policy, InstructPolicy)
        return policy

    def own(command: Command, simulator: Simulator) -> InstructPolicy:
        policy = shared(command, simulator)
        policy.batcher = policy.batcher.company(1)
        return policy

    def play(worlds: Sequence[SimWorker], make: MakePolicy) -> None:
        for _ in play_pair(commands, worlds, [make, make], Steering()):
            pass

    spec = scene().model_copy(update={"step_limit": limit})
    commands = [Command(spec, think=think) for think in (True, False)]
    ways: dict[str, tuple[Sequence[SimWorker], MakePolicy]] = {
        "one after the other": (simulators[:1], shared),
        "at once": (simulators, own),
        "at once, passes shared": (simulators, shared),
    }
    rows = []
    for name, (worlds, make) in ways.items():
        spent = measure(partial(play, worlds, make), times)
        rows.append(summarise(f"pair, {name}", "s", [0.001 * milliseconds for milliseconds in spent]))
    return rows


def bench(load: Callable[[], AnyEngine], model: str, times: int, limit: int = 60) -> dict[str, Any]:
    """Measure everything. Returns `{"model", "about", "machine", "rows": [{name, unit, median, p95, samples}]}`.

    Args:
        load: returns a ready engine, freshly loaded each time.
        model: what the report calls it.
        times: measurements per figure.
        limit: control steps of the end-to-end rollouts.
    """
    engine, loading = bench_loading(load)
    if isinstance(engine, Engine) and isinstance(engine.loaded, Released):
        from app.bench_released import bench_released

        rows = [loading, *bench_released(engine.loaded, times)]
        return {"model": model, "about": engine.describe(), "machine": machine(), "rows": [asdict(row) for row in rows]}
    with SimWorker() as worker:
        observation = worker.reset(scene())
        rows = [
            loading,
            *bench_text(engine, worker, times),
            *bench_planning(engine, observation, times),
            *bench_simulator(worker, times),
            *bench_control(engine, worker, limit),
        ]
        if isinstance(engine, Engine):
            with SimWorker() as other:
                rows += bench_pairs(engine, [worker, other], PAIRS, limit)
    return {"model": model, "about": engine.describe(), "machine": machine(), "rows": [asdict(row) for row in rows]}
