"""A client of any OpenAI-compatible chat endpoint that answers in JSON of a given schema."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

KEY_VARIABLE = "OPENAI_API_KEY"
TIMEOUT_S = 120.0
PATIENCE = (1.0, 4.0, 15.0, 60.0)
"""Seconds to wait before each further attempt."""

T = TypeVar("T", bound=BaseModel)


class EndpointError(ValueError):
    """The endpoint gave no usable answer; the text says why and what to do."""


class ChatEndpoint:
    """One model behind one address.

    Args:
        url: base address, e.g. "http://127.0.0.1:8000/v1"; `/chat/completions` is added where it is missing.
        model: name of the model there.
        sleep: waits between attempts; tests give one that does not.

    The key, where one is needed, is read from the environment variable OPENAI_API_KEY.
    """

    def __init__(self, url: str, model: str, sleep: Callable[[float], None] = time.sleep) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of an endpoint: it begins with http:// or https://.")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self._sleep = sleep
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx.Client(timeout=TIMEOUT_S, headers={"Authorization": f"Bearer {key}"} if key else {})

    def complete(self, system: str, text: str, schema: type[T], jpegs: Sequence[bytes] = ()) -> T:
        """Ask once about pictures and text; temporary failures and malformed answers are tried again.

        Raises EndpointError when it refuses, or when no attempt brought an answer of the schema.
        """
        pictures = [
            {"type": "image_url", "image_url": {"url": data_url(jpeg), "detail": "low"}} for jpeg in jpegs
        ]  # fmt: skip
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": [*pictures, {"type": "text", "text": text}]},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()},
            },
        }
        trouble = ""
        for wait in (*PATIENCE, None):
            try:
                return self._attempt(body, schema)
            except (httpx.TransportError, _Passing, ValidationError, KeyError, IndexError, TypeError) as error:
                trouble = _sentence(error)
            if wait is not None:
                self._sleep(wait)
        raise EndpointError(f"{self.url} gave no usable answer in {len(PATIENCE) + 1} attempts: {trouble}")

    def _attempt(self, body: dict[str, Any], schema: type[T]) -> T:
        response = self._client.post(self.url, json=body)
        if response.status_code == 429 or response.status_code >= 500:
            raise _Passing(f"status {response.status_code}")
        if response.status_code in (401, 403):
            raise EndpointError(f"{self.url} refuses the key: set {KEY_VARIABLE}.")
        if response.is_error:
            raise EndpointError(f"{self.url} answers {response.status_code}: {response.text[:200]}")
        try:
            answer = response.json()["choices"][0]["message"]["content"]
        except ValueError:
            raise _Passing("the answer is no JSON") from None
        return schema.model_validate_json(answer)


class _Passing(Exception):
    """A failure that may not last."""


def data_url(jpeg: bytes) -> str:
    """A JPEG as a data: address."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, detail['loc'])) or 'the answer'}: {detail['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
