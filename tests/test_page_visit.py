"""A visitor's first look at the page in a real browser: its weight, its languages, its tabs, without a simulator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app import page as web
from app.bench_page import chromium, visit
from app.sessions import Sessions
from app.system import find_browser
from tests.test_page_browser import PATIENCE_MS
from tests.test_page_states import DrawnPool, FakePilot

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs Debian's chromium: apt-get install chromium")
MOST_BYTES = 300_000


class Talker(FakePilot):
    """Knows two pictures at a time."""

    pictures = 2

    def describe(self) -> str:
        return "learned from photographs of trees"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    recordings = tmp_path_factory.mktemp("recordings")
    blocks = web.build(Talker(), Sessions(DrawnPool(), size=1), recordings)
    yield web.launch(blocks, "127.0.0.1", None, recordings)
    blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextlib.contextmanager
def opened(browser: Browser, url: str, locale: str) -> Iterator[Page]:
    context = browser.new_context(locale=locale, viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    tab.goto(url)
    yield tab
    context.close()


def test_what_is_ours_is_light(browser: Browser, url: str) -> None:
    own = visit(browser, url).own
    assert "/" in own and any(path.endswith("poster.jpg") for path in own), "the document and a picture were counted"
    assert sum(own.values()) < MOST_BYTES, sorted(own.items(), key=lambda item: -item[1])[:5]


def test_chinese_for_those_who_prefer_it(browser: Browser, url: str) -> None:
    with opened(browser, url, "zh-CN") as tab:
        expect(tab.get_by_role("tab", name="提问")).to_be_visible()
        expect(tab.locator("#run")).to_have_text("运行")
        expect(tab.locator("#words")).to_contain_text("指令")
        expect(tab.locator("#goal")).to_contain_text("成功的条件是草莓放在白色盘子上，已松开且静止")
        expect(tab.locator("#odds")).to_contain_text("放到……上：")
        expect(tab.locator("#family input")).to_have_value("放到……上")
        expect(tab.locator("#words textarea")).to_have_value("put the strawberry on the white plate")
        expect(tab.locator("#examples")).to_contain_text("pick up the")
        expect(tab.locator("#model")).to_contain_text("learned from photographs of trees")
        assert tab.locator("html").get_attribute("lang") == "zh"
        tab.locator("#words textarea").fill("Stop")
        tab.locator("#run").click()
        expect(tab.locator("#status .outcome")).to_contain_text("成功的条件：")
        expect(tab.locator("#caption")).to_contain_text("你最近一次的运行。 “Stop”")
        tab.locator("#words textarea").fill("?!")
        tab.locator("#run").click()
        expect(tab.locator("#words")).to_contain_text("这里没有文字。请输入机器人要做什么。")
        tab.locator("#language").click()
        expect(tab.locator("#run")).to_have_text("Run")
        expect(tab.locator("#language")).to_have_text("中文")


def test_questions_about_two_pictures(browser: Browser, url: str, tmp_path: Path) -> None:
    with opened(browser, url, "en-US") as tab:
        tab.get_by_role("tab", name="Ask").click()
        expect(tab.locator("#knows")).to_contain_text("learned from photographs of trees")
        pictures = tab.locator("#pictures button")
        expect(pictures).to_have_count(6)
        expect(pictures.last.get_by_role("img")).to_have_attribute("alt", "Example picture 6 of 6")
        pictures.first.click()
        expect(tab.locator("#picture img")).to_be_visible()
        tab.locator("#more").click()
        expect(tab.locator("#kept img")).to_have_count(1)
        expect(tab.locator("#picture img")).to_have_count(0)
        pictures.last.click()
        expect(tab.locator("#picture img")).to_be_visible()
        tab.locator("#more").click()
        expect(tab.locator("#picture-problem")).to_contain_text("2 pictures at most")
        tab.locator("#question textarea").fill("Which one <b>is it</b>?")
        tab.keyboard.press("Enter")
        expect(tab.locator("#chat")).to_contain_text("Which one <b>is it</b>?")
        expect(tab.locator("#ask-button")).to_be_enabled()
        tab.locator("#ask-clear").click()
        expect(tab.locator("#kept img")).to_have_count(0)


def test_the_benchmark_tab_shows_what_the_files_say_and_fits_a_phone(browser: Browser, url: str) -> None:
    with opened(browser, url, "en-US") as tab:
        tab.get_by_role("tab", name="Benchmark").click()
        expect(tab.locator("#published table").first).to_be_visible()
        expect(tab.locator("#measured")).to_contain_text("tabletop-basic")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.locator("#measured td a").first.click()
        expect(tab.locator("#caption")).to_contain_text("The rollout this link leads to.")
