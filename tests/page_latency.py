"""How long a click on a recorded rollout takes until its video plays: `python -m tests.page_latency [--times 11]`.

Opens the page with the scripted expert, clicks the gallery's entries one after the other in headless Chromium, and
prints milliseconds from the click to the first frame that is shown of the chosen video.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from app import page as web
from app.pilots import Scripted
from app.sessions import Sessions
from tests.test_page_browser import CHROMIUM, SWITCHES
from tests.test_sessions import FakePool

WATCH = """([gallery, index]) => new Promise((resolve, reject) => {
  const video = () => document.querySelector("#video video"), before = video().currentSrc, start = performance.now();
  video().scrollIntoView();  // browsers start no muted video out of sight
  document.querySelectorAll(gallery)[index].click();
  setTimeout(() => reject(Error("the video has not begun to play in 30 s")), 30_000);
  const look = () => {
    const shown = video();
    const plays = shown && shown.currentSrc !== before && shown.readyState >= 2 && !shown.paused;
    plays ? resolve(performance.now() - start) : requestAnimationFrame(look);
  };
  look();
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=11)
    times = parser.parse_args().times
    blocks = web.build(Scripted(), Sessions(FakePool(), size=1), Path(tempfile.mkdtemp()))
    url = web.launch(blocks, "127.0.0.1", None, Path(tempfile.mkdtemp()))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        tab = browser.new_page()
        tab.goto(url)
        tab.wait_for_function("() => document.querySelector('#video video')?.readyState >= 2")
        entries = "#gallery button.gallery-item, #gallery tbody tr"
        count = tab.locator(entries).count()
        spent = [tab.evaluate(WATCH, [entries, 1 + number % (count - 1)]) for number in range(times)]
        browser.close()
    blocks.close()
    first, *rest = spent
    print(f"a click while the page still opens: {first:.0f} ms until it plays")
    print(f"a click later, {len(rest)} times: median {median(rest):.0f} ms, longest {max(rest):.0f} ms")


if __name__ == "__main__":
    main()
