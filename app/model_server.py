"""A model behind HTTP: describe it, ask it, or let it drive a rollout from another machine.

    GET  /         {"name", "about", "fingerprint", "pictures"} as JSON
    POST /ask      `wire.Question`; answered by a stream of `wire.Piece`
    WS   /rollout  one rollout: `wire.Order` in, `wire.View`, `wire.Piece` or `wire.Problem` out; ?think=1 to think

A rollout is one WebSocket. What it must remember (latents, the queue of actions, the decoder's cache, the noise) lives
in one policy object beside that connection, on the replica that took it, and goes when the connection does: nothing is
looked up by a name, nothing has to be routed, moved or swept. A silent connection is closed after `IDLE_S`.
`app/replicas.py` runs this application on Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.wire import (
    MAX_MESSAGE,
    ORDER,
    QUESTION,
    Act,
    Instruct,
    Message,
    Order,
    Piece,
    Problem,
    Refused,
    Reset,
    Rethink,
    Stop,
    Think,
    View,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from model.engine import Engine

log = logging.getLogger(__name__)

IDLE_S = 600.0
"""A visitor may pause a rollout; after this long it is taken for abandoned."""
MSGPACK = "application/msgpack"
BROKE = "Something broke on the model server; its log says what."


def application(engine: Engine, idle_s: float = IDLE_S) -> Starlette:
    """The ASGI application for one loaded model."""

    about = {
        "name": engine.name,
        "about": engine.describe(),
        "fingerprint": engine.fingerprint(),
        "pictures": engine.pictures,
    }

    def describe(request: Request) -> Response:
        return JSONResponse(about)

    async def ask(request: Request) -> Response:
        try:
            question = unpack(QUESTION, await _body(request))
            images = [picture.pixels() for picture in (question.picture, *question.more)]
            turns = [(asked, told) for asked, told in question.history]
            pieces = engine.ask(images, question.question, history=turns)
            # With the first piece in hand, whatever the model refuses can still be said by the status.
            first = await run_in_threadpool(next, pieces, None)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            problem = _problem(error)
            return Response(pack(problem), problem.status, media_type=MSGPACK)
        return StreamingResponse(_stream(chain([first] if first else [], pieces)), media_type=MSGPACK)

    async def rollout(socket: WebSocket) -> None:
        await socket.accept()
        await Rollout(socket, idle_s).run(lambda: engine.policy(socket.query_params.get("think") == "1"))

    return Starlette(
        routes=[
            Route("/", describe),
            Route("/ask", ask, methods=["POST"]),
            WebSocketRoute("/rollout", rollout),
        ]
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_MESSAGE:
            raise Refused(f"A message has at most {MAX_MESSAGE:,} bytes.", 413)
    return bytes(body)


async def _stream(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    try:
        async for piece in iterate_in_threadpool(pieces):
            yield pack(Piece(piece=piece))
    except Exception as error:
        yield pack(_problem(error))


def _problem(error: Exception) -> Problem:
    """What the caller is told: its own mistakes in full, ours not at all."""
    if isinstance(error, ValueError) and not isinstance(error, ValidationError):
        return Problem(status=getattr(error, "status", 422), error=str(error))
    log.error("a request failed", exc_info=error)
    return Problem(status=500, error=BROKE)


@dataclass
class Rollout:
    """One connection and its policy."""

    socket: WebSocket
    idle_s: float

    async def run(self, make_policy: Callable[[], Any]) -> None:
        """Serve orders until the other side hangs up, or says nothing for `idle_s` seconds."""
        self._stop = threading.Event()
        self._orders: asyncio.Queue[Order | Refused | None] = asyncio.Queue(maxsize=1)
        reader = asyncio.create_task(self._read())
        try:
            self._policy = await run_in_threadpool(make_policy)
            await self._send(self._view())
            while (order := await asyncio.wait_for(self._orders.get(), self.idle_s)) is not None:
                await self._answer(order)
        except WebSocketDisconnect:
            pass  # it hung up while something was on its way
        except TimeoutError:
            minutes = f"{self.idle_s / 60:g} minutes"
            await self._dismiss(Refused(f"Nothing was heard for {minutes}: run the rollout again.", 408))
        except Exception as error:
            await self._dismiss(error)
        finally:
            self._stop.set()
            reader.cancel()

    async def _read(self) -> None:
        """Orders go into the queue; a stop overtakes them, because the thought it ends is still being written."""
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                try:
                    order = unpack(ORDER, message.get("bytes") or b"")
                except Refused as refused:
                    await self._orders.put(refused)
                    continue
                if isinstance(order, Stop):
                    self._stop.set()
                else:
                    await self._orders.put(order)
        finally:
            self._stop.set()
        await self._orders.put(None)

    async def _answer(self, order: Order | Refused) -> None:
        policy = self._policy
        action = None
        try:
            match order:
                case Refused():
                    raise order
                case Reset():
                    await run_in_threadpool(policy.reset, order.instruction, order.seed)
                case Think():
                    await self._think(order)
                case Act():
                    action = (await run_in_threadpool(policy.act, order.seen.observation())).tolist()
                case Instruct():
                    await run_in_threadpool(policy.instruct, order.instruction)
                case Rethink():
                    await run_in_threadpool(policy.rethink, order.seen.observation(), order.thought)
        except (WebSocketDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            await self._send(_problem(error))
        else:
            await self._send(self._view(action))

    async def _think(self, order: Think) -> None:
        self._stop.clear()
        thought = self._policy.think(order.seen.observation(), should_stop=self._stop.is_set)
        async for piece in iterate_in_threadpool(thought):
            await self._send(Piece(piece=piece, gate=self._policy.gate))

    def _view(self, action: list[float] | None = None) -> View:
        policy = self._policy
        focus = policy.focus and {name: list(point) for name, point in policy.focus.items()}
        return View(
            thinking_due=policy.thinking_due,
            needs_image=policy.needs_image,
            thought=policy.thought,
            timings=policy.timings,
            focus=focus,
            heat=policy.heat,
            gate=policy.gate,
            action=action,
        )

    async def _send(self, message: Message) -> None:
        await self.socket.send_bytes(pack(message))

    async def _dismiss(self, error: Exception) -> None:
        """Say why, and hang up."""
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has gone already
            await self._send(_problem(error))
            await self.socket.close()
