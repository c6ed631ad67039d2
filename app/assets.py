"""Gradio's own scripts and styles, read and compressed once instead of at every request.

There are a hundred of them on a page, and the browser is to keep them: their names change with their content.
"""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path

import brotli
import gradio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/assets/"
FOLDER = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
QUALITY = 9
FOR_GOOD = "public, max-age=31536000, immutable"


class Assets:
    """ASGI middleware that answers for Gradio's folder of scripts and styles, and passes on whatever else is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._names = {path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name = scope.get("path", "").removeprefix(PREFIX)
        asked = scope["type"] == "http" and scope["method"] == "GET" and name in self._names
        known = asked and b"br" in dict(scope["headers"]).get(b"accept-encoding", b"")
        await (_compressed(name) if known else self._app)(scope, receive, send)


@cache
def _compressed(name: str) -> Response:
    body = brotli.compress((FOLDER / name).read_bytes(), quality=QUALITY)
    headers = {"Content-Encoding": "br", "Vary": "Accept-Encoding", "Cache-Control": FOR_GOOD}
    return Response(body, media_type=mimetypes.guess_type(name)[0], headers=headers)
