"""A model on another machine (`app.py serve-model`) with the methods of `model.engine.Engine` and its policies."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import httpx
import msgpack
import numpy as np
from pydantic import BaseModel
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from app.wire import (
    MAX_MESSAGE,
    REPLY,
    Act,
    Instruct,
    Message,
    Picture,
    Piece,
    Problem,
    Question,
    Reply,
    Reset,
    Rethink,
    Seen,
    Stop,
    Think,
    View,
    check,
    pack,
    unpack,
)
from sim.interface import Action, Image, Observation, Policy

if TYPE_CHECKING:
    from model.engine import Changes, Engine

PATIENCE_S = 20.0
"""How long a server may be unreachable at the start before that is called a failure."""
RETRY_S = 0.5
ANSWER_S = 300.0
"""The longest wait for one answer; a large model on a few cores thinks for minutes."""


class About(BaseModel):
    """What a server says about its model."""

    name: str
    about: str
    fingerprint: str
    pictures: int = 1


def is_address(name: str) -> bool:
    """Whether a model's name is the address of a model server."""
    return name.startswith(("http://", "https://"))


def schedule_of(text: str | None) -> Changes:
    """What `--schedule think_every=10,execute=4` asks for. Raises `ValueError` where it is written otherwise."""
    parts = text.split(",") if text else []
    changes = [re.fullmatch(r"\s*(\w+)=([1-9]\d{0,3})\s*", part) for part in parts]
    if None in changes:
        raise ValueError(f"Write a schedule as think_every=10,execute=4 (whole steps), not {text!r}.")
    return tuple((change[1], int(change[2])) for change in changes if change)


def engine_of(name: str, schedule: Changes = ()) -> Engine | RemoteEngine:
    """The engine for a model's name: an address, or whatever `model.engine.Engine` takes. Neither is started.

    Raises `ValueError` for a schedule where the model is served elsewhere.
    """
    if is_address(name):
        if schedule:
            raise ValueError("A served model keeps its server's schedule: give --schedule to serve-model.")
        return RemoteEngine(name)
    from model.engine import Engine

    return Engine(name, schedule=schedule)


@cache
def shared_engine(name: str, schedule: Changes = ()) -> Engine | RemoteEngine:
    """The one engine of this process for a name, ready. `RuntimeError` with one sentence where it cannot be."""
    return engine_of(name, schedule).wait()


def policy_of(name: str, think: bool, schedule: Changes = ()) -> Policy:
    """A policy of the model `name`, wherever this is called: it can be sent to another process."""
    return shared_engine(name, schedule).policy(think)


class RemoteEngine:
    """`model.engine.Engine` by its address: the weights are there, the simulator is here."""

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.error: str | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> RemoteEngine:
        """Begin to look for the server (once); returns itself."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._find, name="model-server", daemon=True)
            self._thread.start()
        return self

    def wait(self) -> RemoteEngine:
        """Block until it has answered. Raises `RuntimeError` with one sentence if it does not."""
        self.start()
        self._done.wait()
        if self.state == "failed":
            raise RuntimeError(self.error)
        return self

    def _find(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = httpx.get(self.name, timeout=PATIENCE_S)
                self._about = About.model_validate_json(answer.raise_for_status().content)
                self.state = "ready"
                break
            except (httpx.HTTPError, ValueError):
                if time.monotonic() > until:
                    self.state = "failed"
                    self.error = f'No model server answers at {self.name}: start one there with "app.py serve-model".'
                    break
            except httpx.InvalidURL:
                self.state, self.error = "failed", f"{self.name} is no address: write it as http://HOST:PORT."
                break
            time.sleep(RETRY_S)
        self._done.set()

    def policy(self, think: bool) -> RemotePolicy:
        """A fresh closed-loop policy on that model. Raises `ValueError` if it was never taught to, or cannot be had."""
        self.wait()
        return RemotePolicy(self.name, think)

    @property
    def pictures(self) -> int:
        """The most pictures that one question may be about; 1 until the server has answered."""
        return self._about.pictures if self.state == "ready" else 1

    def ask(
        self,
        image: Image | Sequence[Image],
        question: str,
        should_stop: Callable[[], bool] | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> Iterator[str]:
        """As `model.engine.Engine.ask`; `ValueError` where there is no answer."""
        self.wait()
        first, *more = [Picture.of(each) for each in ([image] if isinstance(image, np.ndarray) else image)]
        turns = [list(turn) for turn in history]
        body = pack(Question(picture=first, more=more, question=question, history=turns))
        try:
            with httpx.stream("POST", f"{self.name}/ask", content=body, timeout=ANSWER_S) as answer:
                for message in _messages(answer.iter_bytes()):
                    piece = _checked(message)
                    if should_stop is not None and should_stop():
                        return
                    if isinstance(piece, Piece):
                        yield piece.piece
        except httpx.HTTPError as error:
            raise _lost(self.name, error) from error

    def fingerprint(self) -> str:
        """SHA-256 of the weights in use there."""
        self.wait()
        return self._about.fingerprint

    def describe(self) -> str:
        """One line: which model speaks and what it was trained on."""
        return f"{self._about.about} (on {self.name})" if self.state == "ready" else f"{self.name}: {self.state}"


class RemotePolicy:
    """A policy whose memory is on the server, at the other end of one connection. Closed when nobody uses it any more.

    Same attributes as `model.policy.InstructPolicy`, renewed by every answer.
    """

    def __init__(self, address: str, think: bool) -> None:
        self._address = address
        url = f"ws{address.removeprefix('http')}/rollout?think={int(think)}"
        try:
            self._socket: ClientConnection = connect(url, max_size=MAX_MESSAGE, open_timeout=ANSWER_S, compression=None)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise _lost(address, error) from error
        self._finalizer = weakref.finalize(self, self._socket.close)
        self._take(self._receive())

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode; `seed` fixes the flow noise."""
        self._order(Reset(instruction=instruction, seed=seed))

    def instruct(self, instruction: str) -> None:
        """Follow another instruction from the next `act` on."""
        self._order(Instruct(instruction=instruction))

    def rethink(self, observation: Observation, thought: str) -> None:
        """Act on `thought` from the next `act` on; `ValueError` where it is too long."""
        self._order(Rethink(seen=Seen.of(observation), thought=thought))

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        """Stream the thought about this observation, in pieces of text; the following `act` uses it."""
        self._send(Think(seen=Seen.of(observation)))
        ended = stopped = False
        try:
            while not ended:
                reply = self._receive()
                if isinstance(reply, Piece):
                    self.gate = reply.gate
                    if not stopped:
                        yield reply.piece
                        if should_stop is not None and should_stop():
                            stopped = True
                            self._send(Stop())
                else:
                    ended = True
                    self._take(reply)
        finally:
            if not ended:  # whoever listened has gone: the next order must not meet this thought's last words
                self._order(Stop())

    def act(self, observation: Observation) -> Action:
        """The (7,) action of this control step. Raises `ValueError` when a new plan is due and there is no picture."""
        reply = self._order(Act(seen=Seen.of(observation, image=self.needs_image)))
        if reply.action is None:
            raise ValueError(f"The model server at {self._address} sent no action: is it of the same version?")
        return np.array(reply.action, np.float32)

    def close(self) -> None:
        """Hang up; harmless when repeated."""
        self._finalizer()

    def _order(self, order: Message) -> View:
        self._send(order)
        reply = self._receive()
        while isinstance(reply, Piece):  # of a thought that was broken off
            reply = self._receive()
        return self._take(reply)

    def _take(self, reply: Reply) -> View:
        if not isinstance(reply, View):
            raise ValueError(f"The model server at {self._address} is out of step: is it of the same version?")
        self.thinking_due, self.needs_image = reply.thinking_due, reply.needs_image
        self.thought, self.timings, self.gate = reply.thought, dict(reply.timings), reply.gate
        self.heat = reply.heat
        self.focus = None if reply.focus is None else {name: (u, v) for name, (u, v) in reply.focus.items()}
        return reply

    def _send(self, order: Message) -> None:
        try:
            self._socket.send(pack(order))
        except (OSError, WebSocketException) as error:
            raise self._gone(error) from error

    def _receive(self) -> Reply:
        try:
            data = self._socket.recv(timeout=ANSWER_S)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise self._gone(error) from error
        return _checked(unpack(REPLY, data if isinstance(data, bytes) else b""))

    def _gone(self, error: Exception) -> ValueError:
        self.close()
        return _lost(self._address, error)


def _messages(parts: Iterator[bytes]) -> Iterator[Reply]:
    """Messages out of a stream that cuts them anywhere."""
    unpacker: Any = msgpack.Unpacker(max_buffer_size=MAX_MESSAGE)
    for part in parts:
        unpacker.feed(part)
        for value in unpacker:
            yield check(REPLY, value)


def _checked(reply: Reply) -> Reply:
    """The reply, unless it is a problem: then `ValueError` with the server's sentence."""
    if isinstance(reply, Problem):
        raise ValueError(reply.error)
    return reply


def _lost(address: str, error: Exception) -> ValueError:
    reason = str(error).strip().rstrip(".").split("\n")[0] or type(error).__name__
    return ValueError(f"The model server at {address} cannot be reached ({reason}): try again.")
