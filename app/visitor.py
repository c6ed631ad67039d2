"""A browser tab without a browser, for measuring and testing the page as those who visit it see it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from secrets import token_hex
from typing import Any

import httpx
from gradio_client.utils import apply_diff

PATIENCE_S = 600.0
"""For one answer; many rollouts may wait in front of it."""


class Visitor:
    """One browser tab without a browser: fires the page's events by the widget's `elem_id` and reads what comes back.

    >>> for update in Visitor(address).fire("run", words="open it", seed=7): print(update["status"])
    """

    def __init__(self, address: str) -> None:
        self.tab = token_hex(6)
        self.place: int | None = None
        """The worst place in the queue that was announced (0 is the head)."""
        self.expected: float | None = None
        """The longest wait that was announced [s]."""
        self.error = ""
        """What the last event was refused with."""
        self._http = httpx.Client(base_url=address.rstrip("/"), timeout=PATIENCE_S, trust_env=False)
        self._config = self._http.get("/config").raise_for_status().json()
        self._names = {part["id"]: part["props"].get("elem_id") for part in self._config["components"]}
        self._values = {part["id"]: part["props"].get("value") for part in self._config["components"]}

    def fire(self, name: str, trigger: str = "click", **given: Any) -> Iterator[dict[str, Any]]:
        """Do what a click on `name` does; `given` are other values than the page's own, by `elem_id` ("_" for "-").

        What follows something else on the page ("preview") goes by its handler's name.

        Yields `{elem_id: value}` of everything that changed, update after update. Closing it hangs up.
        """
        event = self._event(name, trigger)
        values = {key.replace("_", "-"): value for key, value in given.items()}
        data = [values.get(self._names[part], self._values[part]) for part in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.tab, "trigger_id": None}
        self.error = ""
        if not event["queue"]:
            answer = self._http.post("/gradio_api/run/predict", json=body)
            self.error = "" if answer.status_code == 200 else answer.text
            yield self._named(event, answer.json().get("data") or [], None)
            return
        joined = self._http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            self.error = joined.text
            return
        latest: list[Any] = []
        with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.tab}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                kind, output = message.get("msg"), message.get("output") or {}
                if kind == "estimation":
                    self.place = max(self.place or 0, message["rank"])
                    self.expected = max(self.expected or 0.0, message["rank_eta"] or 0.0) or None
                elif kind == "process_generating" and latest:
                    changed = [i for i, diff in enumerate(output["data"]) if diff]
                    latest = [apply_diff(old, diff) for old, diff in zip(latest, output["data"], strict=True)]
                    yield self._named(event, latest, changed)
                elif kind in ("process_generating", "process_completed"):
                    if message.get("success") is False:
                        self.error = output.get("error") or "refused"
                    latest = output.get("data") or []
                    yield self._named(event, latest, None)
                if kind in ("process_completed", "unexpected_error", "close_stream"):
                    self.error = self.error or message.get("message") or ""
                    return

    def upload(self, data: bytes, name: str = "picture.png") -> dict[str, Any] | None:
        """Send a file as the page does; what an image widget then holds, or None where it is refused."""
        answer = self._http.post("/gradio_api/upload", files={"files": (name, data)})
        self.error = "" if answer.status_code == 200 else answer.text
        return None if self.error else {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def fetch(self, path: str) -> bytes:
        """A file that the page shows."""
        return self._http.get(f"/gradio_api/file={path}").raise_for_status().content

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Keep the tab open; leaving the block closes it, as the page's heartbeat tells the server."""
        with self._http.stream("GET", f"/gradio_api/heartbeat/{self.tab}") as heartbeat:
            lines = heartbeat.iter_lines()  # kept: a forgotten one would hang up
            next(lines)
            yield
            del lines

    def close(self) -> None:
        """Hang up for good."""
        self._http.close()

    def _event(self, name: str, trigger: str) -> dict[str, Any]:
        for event in self._config["dependencies"]:
            named = any(self._names.get(part) == name and what == trigger for part, what in event["targets"])
            if named or (event["api_name"] == name and not any(part in self._names for part, _ in event["targets"])):
                found: dict[str, Any] = event
                return found
        raise KeyError(f"the page has no {trigger} of {name}")

    def _named(self, event: dict[str, Any], values: list[Any], changed: list[int] | None) -> dict[str, Any]:
        """Updates by name, without those that say "as before"; None: look at all of them."""
        told = {}
        for index in range(len(values)) if changed is None else changed:
            value = values[index]
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" not in value:
                    continue
                value = value["value"]
            told[str(self._names[event["outputs"][index]])] = value
        return told


@dataclass
class Seen:
    """What one visitor got from one rollout."""

    waited_s: float = 0.0
    """From the click to the first picture."""
    frames: dict[int, bytes] = field(default_factory=dict)
    """The camera's JPEG after each step."""
    thoughts: str = ""
    status: str = ""

    @property
    def finished(self) -> bool:
        """Whether it came to a verdict: neither refused nor broken."""
        return "outcome" in self.status and "failed" not in self.status

    @property
    def steps(self) -> int:
        """The last step the status line named."""
        return max(self.frames, default=0)


def watch(visitor: Visitor, **given: Any) -> Seen:
    """Run one rollout on the page and look at everything it shows."""
    seen, began = Seen(), time.perf_counter()
    for update in visitor.fire("run", **given):
        if update.get("status"):
            seen.status = update["status"]
        if update.get("thoughts"):
            seen.thoughts = update["thoughts"]
        if update.get("camera"):
            step = re.search(r"Step (\d+)", seen.status)
            seen.frames[int(step.group(1)) if step else 0] = visitor.fetch(update["camera"]["path"])
            seen.waited_s = seen.waited_s or time.perf_counter() - began
    return seen


def plainly(html: str) -> str:
    """The words of a piece of the page."""
    return " ".join(unescape(re.sub("<[^>]+>", " ", html)).split())
