"""Use every tab of the page with the shipped generalist and take README's pictures of it, in both themes.

Run: python assets/build_page_pictures.py

Needs Chromium (python -m app.system browser) and a Chinese font (Debian's fonts-noto-cjk).
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import page as web
from app import scenes
from app.bench_page import chromium
from app.pilots import pilot_of
from app.sessions import Sessions
from model.config import GENERALIST
from sim.worker import WorkerPool

TABS = ("act", "compare", "ask", "benchmark")
WIDTH, HEIGHT = 1280, 960
WORDS = {kind: words for kind, _, words in scenes.free_examples()}["near"]
PATIENCE_MS = 300_000
THEMES = {"light": False, "dark": True}


def use(page: Page, tab: str) -> None:
    """Do on a tab what a visitor would do there."""
    page.get_by_role("tab").nth(TABS.index(tab)).click()
    if tab == "act":
        page.locator("#examples button", has_text=WORDS).click()
        page.locator("#status", has_text="Ready to run").wait_for()
        page.locator("#run").click()
        page.locator("#status .outcome").wait_for()
        page.locator("#caption", has_text="Your last rollout").wait_for()
    elif tab == "compare":
        page.locator("#compare-family input").click()
        page.get_by_role("option", name=scenes.LABELS["near"]).click()
        page.locator("#compare-words textarea, #compare-words input").fill(WORDS)
        page.locator("#compare-run").click()
        page.locator("#figures", has_text="McNemar").wait_for()
    elif tab == "ask":
        page.locator("#pictures button, #pictures img").first.click()
        for question in ("Which of these can one eat?", "What colour is the cube?"):
            page.locator("#question textarea").fill(question)
            page.locator("#ask-button:enabled").click()
            page.locator("#chat .user", has_text=question).wait_for()
            page.locator("#ask-button:enabled").wait_for()
    else:
        page.locator("#measured section").first.wait_for()


def taken(page: Page, tab: str, dark: bool, whole: bool = False) -> Image.Image:
    """A picture of a tab, the whole length of it or what a window shows."""
    page.get_by_role("tab").nth(TABS.index(tab)).click()
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # fades
    return Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")


def main() -> None:
    """Use the page once, then look at it in both themes."""
    pilot = pilot_of(GENERALIST)
    pilot.start()
    with WorkerPool(2) as pool, tempfile.TemporaryDirectory() as folder, chromium() as browser:
        blocks = web.build(pilot, Sessions(pool, size=2), Path(folder))
        url = web.launch(blocks, "127.0.0.1", None, Path(folder))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, locale="en")
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.locator("#model .ready").wait_for()
        for tab in TABS:
            use(page, tab)
            print(f"used {tab}", flush=True)
        taken(page, "act", dark=False, whole=True).save(scenes.EXAMPLES / "page.png", optimize=True)
        for theme, dark in THEMES.items():
            sheet = Image.new("RGB", (WIDTH * 2, HEIGHT * 2))
            for place, tab in enumerate(TABS):
                sheet.paste(taken(page, tab, dark), (place % 2 * WIDTH, place // 2 * HEIGHT))
            small = sheet.resize((1600, 1200), Image.Resampling.LANCZOS)
            small.save(scenes.EXAMPLES / f"tabs-{theme}.jpg", quality=85)
        blocks.close()


if __name__ == "__main__":
    main()
