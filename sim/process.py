"""The child side of a simulator process: what crosses the pipe, and the loop that answers it.

A renderer that crashes takes its process with it and a hung one can only be killed, so every simulator lives behind
this pipe. Messages are the four small types below; images cross as JPEG inside `JpegObservation`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from sim.disturb import Disturbance
from sim.interface import Action, Image, Observation, StepResult

LIVE_JPEG_QUALITY = 90
"""Pillow quality of frames on the pipe: no visible loss at 640x480, about 35 kB."""


class Simulator(Protocol):
    """What a simulator offers in its own process; `sim.scenes.Tabletop` is one, tests bring small fakes.

    An optional attribute `rebuilds: int` counts scenes built in this process (see `SimWorker`), another, `render_ms`,
    says how long its latest picture took.
    """

    def reset(self, spec: Any, render: bool = True) -> Observation: ...
    def step(self, action: Action, render: bool = True) -> StepResult: ...
    def observe(self, render: bool = True) -> Observation: ...
    def disturb(self, change: Disturbance) -> Observation: ...
    def expert_action(self) -> Action: ...
    def state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    def keypoints(self) -> dict[str, Any]: ...
    def visible_objects(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


_ENVIRONMENT = threading.Lock()

METHODS = frozenset(
    {"reset", "step", "observe", "disturb", "expert_action", "state", "set_state", "keypoints", "visible_objects"}
)


@dataclass(frozen=True)
class Call:
    """Parent to child: call this method of the world."""

    method: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """Parent to child: call an importable `function(*args, world)` next to the world, e.g. a whole episode."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Reply:
    """Child to parent: the result, how many scenes this process has built so far, and the call's milliseconds per part.

    The parts are "render", "encode" (JPEG) and "simulate", which is the rest.
    """

    value: Any
    rebuilds: int
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """Child to parent: one sentence for the caller, the traceback for the log.

    `bad_input` is True for a ValueError of the world: the request was wrong, the simulator is fine.
    """

    sentence: str
    trace: str
    bad_input: bool


class JpegObservation(Observation):
    """An Observation whose image is kept as JPEG and decoded when first looked at."""

    jpeg: bytes | None

    def __init__(
        self,
        jpeg: bytes | None,
        proprio: NDArray[np.float32],
        step: int,
        measured: NDArray[np.float32] | None = None,
    ) -> None:
        fields = {"jpeg": jpeg, "proprio": proprio, "step": step, "measured": measured}
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the base class is frozen

    @cached_property
    def image(self) -> Image | None:  # type: ignore[override]
        """(height, width, 3) uint8 RGB, or None when the step was not rendered."""
        return None if self.jpeg is None else decode_jpeg(self.jpeg)

    def __reduce__(self) -> tuple[type[JpegObservation], tuple[Any, ...]]:
        return JpegObservation, (self.jpeg, self.proprio, self.step, self.measured)


def encode_jpeg(image: Image, quality: int = LIVE_JPEG_QUALITY) -> bytes:
    """JPEG bytes of an (height, width, 3) uint8 RGB image."""
    buffer = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes) -> Image:
    """(height, width, 3) uint8 RGB image of JPEG bytes."""
    return np.asarray(PillowImage.open(io.BytesIO(jpeg)).convert("RGB"))


def pack(value: Any) -> Any:
    """Replace raw images by JPEG in the two types that carry them; everything else passes as it is."""
    if isinstance(value, StepResult):
        return replace(value, observation=pack(value.observation))
    if isinstance(value, Observation):
        jpeg = None if value.image is None else encode_jpeg(value.image)
        return JpegObservation(jpeg, value.proprio, value.step, value.measured)
    return value


def build_world(path: str, image_size: tuple[int, int]) -> Simulator:
    """Build the world named "module:callable" with frames of image_size (width, height) pixels."""
    module, _, name = path.partition(":")
    world: Simulator = getattr(importlib.import_module(module), name)(image_size=image_size)
    return world


def answer(world: Simulator, message: Call | Run) -> Any:
    """Do what the message asks."""
    if isinstance(message, Run):
        return message.function(*message.args, world)
    if message.method not in METHODS:
        raise ValueError(f"a simulator has no method {message.method!r}")
    return getattr(world, message.method)(*message.args)


def serve(connection: Connection, world_path: str, image_size: tuple[int, int]) -> None:
    """Build the world, report ready with a Reply, then answer messages until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which then closes the pipe
    _leave_with_parent()
    try:
        world = build_world(world_path, image_size)
    except Exception as error:
        connection.send(replace(_fault(error), bad_input=False))
        return
    connection.send(Reply(None, _rebuilds(world)))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            break
        try:
            reply: Reply | Fault = _timed(world, message)
        except Exception as error:
            reply = _fault(error)
        try:
            connection.send(reply)
        except BrokenPipeError:
            break
        except Exception as error:  # an answer that cannot be pickled
            connection.send(_fault(error))
    world.close()


@contextlib.contextmanager
def child_environment(render_threads: int | None) -> Iterator[None]:
    """Thread limits that libraries read while they load, that is before the child runs a line of ours."""
    limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if render_threads is not None:
        limits["LP_NUM_THREADS"] = str(render_threads)
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in limits}
        os.environ.update(limits)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _timed(world: Simulator, message: Call | Run) -> Reply:
    started = time.perf_counter()
    value = answer(world, message)
    answered = time.perf_counter()
    packed = pack(value)
    render = float(getattr(world, "render_ms", 0.0))
    simulate, encode = 1e3 * (answered - started) - render, 1e3 * (time.perf_counter() - answered)
    return Reply(packed, _rebuilds(world), {"simulate": max(simulate, 0.0), "render": render, "encode": encode})


def _fault(error: Exception) -> Fault:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Fault(reason, traceback.format_exc(), isinstance(error, ValueError))


def _rebuilds(world: Simulator) -> int:
    return int(getattr(world, "rebuilds", 0))


def _leave_with_parent() -> None:
    """End this process when the parent dies during a long call, when nobody reads the pipe's end of file."""
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
