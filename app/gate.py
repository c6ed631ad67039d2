"""The door of a public page: how many may come in, how often each may ask, one log line a request, and `/health`."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings

log = logging.getLogger("app.visits")

HEALTH = "/health"
OPEN_TAB = "/gradio_api/heartbeat/"
"""Gradio's page keeps one such request open for as long as its tab is."""
FREE = ("/gradio_api/file=", "/gradio_api/startup-events", "/assets/", "/static/", "/theme.css")
"""Parts of a page that was let in: they cost next to nothing."""
CLOSED = tuple(
    f"/gradio_api/{door}"
    for door in ("component_server", "custom_component", "deep_link", "file=http", "process_recording", "proxy=",
                 "run-history", "stream", "undo-vibe", "vibe")
)  # fmt: skip
"""What Gradio offers and nothing here uses: fetching other sites' files, writing state to disk, editing code."""
LOOPBACK = ("127.0.0.1", "::1")
REMEMBERED = 10_000
FULL = "All places are taken at the moment. Come back in a few minutes."
TOO_LARGE = "This request is too large."
WORDS_BYTES = 200_000
"""A request's room for everything but a picture."""
SLOW_DOWN = "That was a lot in one minute. Wait a little, then go on."


class Rate:
    """A token bucket per visitor: `per_minute` at once, refilled evenly. Keeps the latest `REMEMBERED` visitors."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, visitor: str) -> bool:
        """Whether the visitor may ask now; if so, that is counted."""
        now = self._clock()
        with self._lock:
            left, since = self._buckets.pop(visitor, (float(self._per_minute), now))
            left = min(float(self._per_minute), left + (now - since) * self._per_minute / 60)
            allowed = left >= 1
            self._buckets[visitor] = (left - allowed, now)
            while len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        return allowed


class Gate:
    """ASGI middleware in front of the page. `health` is called for every `GET /health`."""

    def __init__(self, app: ASGIApp, settings: Settings, health: Callable[[], dict[str, Any]]) -> None:
        self._app, self._settings, self._health = app, settings, health
        self._rate = Rate(settings.requests_per_minute)
        self._largest = settings.picture_bytes * 4 // 3 + WORDS_BYTES  # a picture as base64
        self._tabs = 0
        self._salt = secrets.token_bytes(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse or pass on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, started, status = scope["path"], time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_tab = path.startswith(OPEN_TAB)
        self._tabs += is_tab
        try:
            await (self._refusal(scope) or self._app)(scope, _bounded(receive, self._largest), noted)
        finally:
            self._tabs -= is_tab
            log.info(
                "request",
                extra={
                    "fields": {
                        "visitor": self._who(scope),
                        "method": scope["method"],
                        "path": "/".join(path.split("/")[:3]),  # further parts name tabs and files
                        "status": status,
                        "ms": round(1e3 * (time.perf_counter() - started)),
                    }
                },
            )

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered here instead of by the page."""
        path = scope["path"]
        if path == HEALTH:
            return JSONResponse({**self._health(), "visitors": self._tabs})
        if path.lower().startswith(CLOSED):
            return PlainTextResponse("Not Found", 404)
        if path.startswith(FREE):
            return None
        if int(dict(scope["headers"]).get(b"content-length", b"0")) > self._largest:
            return PlainTextResponse(TOO_LARGE, 413)
        address = self._address(scope)
        # From this machine come its owner, its probes, and the page's own MCP tools, which were counted at the door.
        if (address not in LOOPBACK or self._settings.behind_proxy) and not self._rate.allows(address):
            return PlainTextResponse(SLOW_DOWN, 429, {"Retry-After": "10"})
        if path == "/" and self._tabs >= self._settings.visitors:
            return PlainTextResponse(FULL, 503, {"Retry-After": "120"})
        return None

    def _address(self, scope: Scope) -> str:
        if self._settings.behind_proxy:
            for name, value in scope["headers"]:
                if name == b"x-forwarded-for":  # the last entry is the proxy's own observation
                    return str(value.decode("latin-1").split(",")[-1].strip())
        client = scope.get("client")
        return client[0] if client else ""

    def _who(self, scope: Scope) -> str:
        """A visitor's name in the log."""
        address = self._address(scope)
        if self._settings.log_addresses:
            return address
        return hashlib.blake2s(address.encode(), key=self._salt, digest_size=4).hexdigest()


def _bounded(receive: Receive, most: int) -> Receive:
    """The same messages until a body of unknown length has more than `most` bytes: then the caller counts as gone."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return counted


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, source, message, and whatever `extra={"fields": {...}}` says."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "source": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Send the project's own log to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for room in ("app", "sim", "model"):
        logger = logging.getLogger(room)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
