"""How long the page takes to open in a fresh browser, and how many bytes of it are ours rather than Gradio's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

GRADIOS = re.compile(r"^/(assets|static|svelte|cdn)/|^/(theme\.css|favicon\.ico|gradio_api/(startup-events|heartbeat))")
"""Addresses of Gradio's own files; whatever else the page asks for is ours: the document with the layout, style and
script in it, pictures, videos, and the events of opening it."""
SWITCHES = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SETTLED_MS = 1000
PATIENCE_MS = 120_000


@dataclass
class Visit:
    """One first visit. Bytes as they cross the network, compressed where the server compresses."""

    seconds: float = 0.0
    """Until the Run button can be pressed."""
    own: dict[str, int] = field(default_factory=dict)
    """Path -> bytes, ours."""
    gradio: dict[str, int] = field(default_factory=dict)
    """Path -> bytes, Gradio's."""


def visit(browser: Browser, url: str) -> Visit:
    """Open the page once with an empty cache."""
    seen, paths = Visit(), dict[str, str]()
    context = browser.new_context()
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")

    def count(event: dict[str, Any]) -> None:
        path = paths.get(event["requestId"])
        if path is not None:
            group = seen.gradio if GRADIOS.search(path) else seen.own
            group[path] = group.get(path, 0) + int(event["encodedDataLength"])

    def sent(event: dict[str, Any]) -> None:
        address = event["request"]["url"]
        if address.startswith(url):
            paths[event["requestId"]] = "/" + address[len(url) :].split("?")[0]

    network.on("Network.requestWillBeSent", sent)
    network.on("Network.loadingFinished", count)
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator("#run:enabled").wait_for(timeout=PATIENCE_MS)
    seen.seconds = time.perf_counter() - started
    page.wait_for_function("() => document.querySelector('#video video')?.readyState === 4", timeout=PATIENCE_MS)
    page.wait_for_timeout(SETTLED_MS)
    context.close()
    return seen


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Raises `ValueError` where none is installed."""
    from playwright.sync_api import sync_playwright

    from app.system import find_browser

    found = find_browser()
    if found is None:
        raise ValueError("There is no Chromium here: run python -m app.system browser.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


class NoSimulators:
    """A pool for a page on which nobody presses Run."""

    def lease(self) -> Any:
        """There is none."""
        raise RuntimeError("this page has no simulator")

    def release(self, worker: Any) -> None:
        """Nothing was lent."""


@contextmanager
def served() -> Iterator[str]:
    """The address of a page with the scripted expert, which moves nothing."""
    from app import page
    from app.pilots import Scripted
    from app.sessions import Sessions

    with TemporaryDirectory() as folder:
        blocks = page.build(Scripted(), Sessions(NoSimulators(), size=1), Path(folder))
        try:
            yield page.launch(blocks, "127.0.0.1", None, Path(folder))
        finally:
            blocks.close()


def bench_page(times: int) -> dict[str, Any]:
    """Open the page `times` times, after once to warm the server; rows as those of `app.bench.bench`."""
    from app.bench import machine, summarise

    with served() as url, chromium() as browser:
        visit(browser, url)
        visits = [visit(browser, url) for _ in range(times)]
    return {
        "about": "the page, opened in a fresh Chromium on this machine",
        "machine": machine(),
        "rows": [
            asdict(summarise(name, unit, values))
            for name, unit, values in (
                ("until Run can be pressed", "s", [each.seconds for each in visits]),
                ("transferred, ours", "kB", [sum(each.own.values()) / 1000 for each in visits]),
                ("transferred, Gradio's", "kB", [sum(each.gradio.values()) / 1000 for each in visits]),
            )
        ],
    }
