"""The page in a real browser, with the real simulator and the scripted expert at the wheel."""

from __future__ import annotations

import contextlib
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app import page as web
from app.pilots import Scripted
from app.sessions import Sessions
from sim.worker import SimWorker, WorkerPool

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium")


class CountingWorker:
    """A simulator that counts its control steps on the server's side."""

    def __init__(self, worker: SimWorker, server: Server) -> None:
        self._worker, self._server = worker, server

    def step(self, action: Any, render: bool = True) -> Any:
        self._server.steps += 1
        return self._worker.step(action, render)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)


class StoppableSessions(Sessions):
    """Notes how many control steps had begun when a stop arrived."""

    server: Server

    def stop(self, tab: str) -> None:
        super().stop(tab)
        self.server.steps_at_stop.append(self.server.steps)


@dataclass
class Server:
    """The running page and what happened behind it. It is the sessions' pool, too."""

    pool: WorkerPool
    recordings: Path
    url: str = ""
    steps: int = 0
    steps_at_stop: list[int] = field(default_factory=list)
    sessions: StoppableSessions = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = StoppableSessions(self, size=1)
        self.sessions.server = self

    def lease(self) -> CountingWorker:
        return CountingWorker(self.pool.lease(), self)

    def release(self, worker: CountingWorker) -> None:
        self.pool.release(worker._worker)

    def recorded(self) -> list[Path]:
        return sorted(self.recordings.glob("*"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with WorkerPool(1) as pool:
        served = Server(pool, tmp_path_factory.mktemp("recordings"))
        blocks = web.build(Scripted(), served.sessions, served.recordings)
        served.url = web.launch(blocks, "127.0.0.1", None, served.recordings)
        try:
            yield served
        finally:
            blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        contextlib.closing(playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)) as chromium,
    ):
        yield chromium


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    tab.goto(server.url)
    yield tab
    if not tab.is_closed():
        tab.close()
    wait_until(lambda: server.sessions.holding == 0)


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_MS / 1000) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def run_until_moving(page: Page, server: Server) -> None:
    begun = server.steps
    page.locator("#run").click()
    wait_until(lambda: server.steps >= begun + 3)


def test_the_first_look_says_who_drives_and_offers_something_to_do(page: Page) -> None:
    expect(page.locator("#model")).to_contain_text("Scripted expert: not a learned model")
    expect(page.locator("#camera img")).to_be_visible()
    expect(page.locator("#words textarea")).not_to_be_empty()
    expect(page.locator("#goal")).to_contain_text("success when")
    expect(page.locator("#caption")).to_contain_text("Example, recorded earlier.")
    page.wait_for_function("() => document.querySelector('#video video')?.readyState >= 2")
    page.wait_for_function("() => document.querySelector('#video video').textTracks[0]?.cues?.length >= 2")


def test_another_scene_changes_words_rule_and_picture(page: Page, server: Server) -> None:
    camera, words = page.locator("#camera img"), page.locator("#words textarea")
    picture = camera.get_attribute("src")
    page.locator("#examples").get_by_text("open the").click()
    expect(words).to_have_value(re.compile("^open the"))
    expect(page.locator("#goal")).to_contain_text("drawer is pulled out")
    expect(camera).not_to_have_attribute("src", picture or "")
    number = page.locator("#seed input")
    expect(number).to_have_value("1000000")
    expect(page.locator("#status")).to_contain_text("Ready to run")
    picture = camera.get_attribute("src")
    page.locator("#shuffle").click()
    expect(number).not_to_have_value("1000000")
    expect(camera).not_to_have_attribute("src", picture or "")  # the shuffled scene's own picture
    expect(page.locator("#status")).to_contain_text("Ready to run")
    number.fill("-3")
    expect(page.locator("#seed")).to_contain_text("A whole number from 0 to")


def test_an_instruction_is_typed_run_watched_and_recorded(page: Page, server: Server) -> None:
    before = server.recorded()
    page.locator("#examples").get_by_text("pick up the").click()
    expect(page.locator("#words textarea")).to_have_value(re.compile("^pick up the"))
    page.locator("#words textarea").fill("please do it <b>gently</b> ☕")
    page.locator("#run").click()
    expect(page.locator("#thoughts")).to_contain_text("Scripted expert")
    expect(page.locator("#status")).to_contain_text("Step ")
    expect(page.locator("#status .outcome")).to_contain_text("Success")
    expect(page.locator("#status .outcome")).to_contain_text("Success means: ")
    expect(page.locator("#caption")).to_contain_text("Your last rollout. “please do it <b>gently</b> ☕”")
    (folder,) = [path for path in server.recorded() if path not in before]
    video = page.locator("#video video")
    page.wait_for_function("() => document.querySelector('#video video')?.readyState >= 2")
    assert video.evaluate("v => [v.videoWidth, v.videoHeight]") == [640, 480]
    page.wait_for_function("() => document.querySelector('#video video').textTracks[0]?.cues?.length >= 3")
    assert "gently" in video.evaluate("v => v.textTracks[0].cues[0].text")
    with page.expect_download() as download:
        page.get_by_text("Download video").click()
    assert Path(download.value.path()).read_bytes() == (folder / "rollout.mp4").read_bytes()


def test_stop_ends_it_within_one_control_step(page: Page, server: Server) -> None:
    run_until_moving(page, server)
    page.locator("#stop").click()
    expect(page.locator("#status .outcome")).to_contain_text("Stopped")
    expect(page.locator("#run")).to_be_enabled()
    assert server.steps <= server.steps_at_stop[-1] + 1
    ended_at = server.steps
    time.sleep(1.0)
    assert server.steps == ended_at and server.sessions.holding == 0


def test_who_has_to_wait_is_shown_the_place(page: Page, server: Server, browser: Browser) -> None:
    run_until_moving(page, server)
    page.get_by_text("Steer it while it runs").click()
    page.locator("#pause").click()
    expect(page.locator("#status")).to_contain_text("Paused")
    with contextlib.closing(browser.new_page()) as other:
        other.goto(server.url)
        other.locator("#run").click()
        place = other.locator("#status .progress-text")
        expect(place).to_contain_text(re.compile(r"queue: \d/\d"))
        assert place.evaluate("e => getComputedStyle(e.parentElement).overflow") == "visible", "or nobody can see it"
    page.locator("#stop").click()
    expect(page.locator("#run")).to_be_enabled()


def test_closing_the_tab_stops_within_one_control_step(page: Page, server: Server) -> None:
    run_until_moving(page, server)
    stops = len(server.steps_at_stop)
    page.close()
    wait_until(lambda: server.sessions.holding == 0)
    assert len(server.steps_at_stop) > stops, "the page's unload event did not arrive"
    assert server.steps <= server.steps_at_stop[stops] + 1
    ended_at = server.steps
    time.sleep(1.0)
    assert server.steps == ended_at


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "Type what the robot should do."),
        ("  \n ", "Type what the robot should do."),
        ("?!…", "There is no word in this."),
        ("put " * 2500, "Keep it to 500 characters; this has 9,999."),
    ],
)
def test_bad_words_get_one_line_beside_the_box_and_nothing_happens(
    page: Page, server: Server, words: str, complaint: str
) -> None:
    wait_until(lambda: server.sessions.holding == 0)
    steps, recorded = server.steps, server.recorded()
    page.locator("#words textarea").fill(words)
    page.locator("#run").click()
    expect(page.locator("#words")).to_contain_text(complaint)
    time.sleep(0.5)
    assert (server.steps, server.recorded(), server.sessions.holding) == (steps, recorded, 0)


def test_a_rollout_is_paused_stepped_resumed_and_its_link_replays_it(page: Page, server: Server) -> None:
    before = server.recorded()
    page.get_by_text("Steer it while it runs").click()
    run_until_moving(page, server)
    page.locator("#pause").click()
    expect(page.locator("#status")).to_contain_text("Paused")
    held = server.steps
    page.locator("#step").click()
    wait_until(lambda: server.steps == held + 1)
    page.locator("#told textarea").fill("be <b>quick</b>")
    page.locator("#tell").click()
    expect(page.locator("#thoughts")).to_contain_text("New instruction: be <b>quick</b>")
    assert server.steps == held + 1
    page.locator("#disturb").click()  # the first change offered: a nudge
    expect(page.locator("#thoughts")).to_contain_text("Scene changed: nudge the")
    picture = page.locator("#camera img").get_attribute("src")
    page.get_by_role("tab", name="Ask").click()
    page.locator("#use-camera").click()
    page.locator("#questions").get_by_text("What is on the table?").click()
    page.locator("#ask-button").click()
    expect(page.locator("#chat")).to_contain_text("The scripted expert answers no questions")
    expect(page.locator("#picture img")).to_be_visible()
    page.get_by_role("tab", name="Act").click()
    assert server.sessions.holding == 1 and server.steps == held + 1, "asking ends nothing"
    assert page.locator("#camera img").get_attribute("src") == picture
    page.locator("#pause").click()
    expect(page.locator("#status .outcome")).to_contain_text("Success")
    expect(page.locator("#caption")).to_contain_text("Your last rollout.")
    with page.expect_download() as download:
        page.locator("#export").click()
    assert zipfile.is_zipfile(download.value.path())
    (folder,) = [path for path in server.recorded() if path not in before]

    page.goto(f"{server.url}?run={folder.name}")
    expect(page.locator("#caption")).to_contain_text("The rollout this link leads to.")
    expect(page.locator("#status .outcome")).to_contain_text("Success")
    expect(page.locator("#thoughts")).to_contain_text("be <b>quick</b>")
    page.wait_for_function("() => document.querySelector('#video video')?.readyState >= 2")
    page.locator(".timeline .steered").first.click()
    expect(page.locator(".timeline .words")).to_contain_text("Paused")
    page.wait_for_function("() => +document.querySelector('.timeline').style.getPropertyValue('--now') > 0")
    page.locator(".timeline .scrub").focus()
    page.keyboard.press("End")
    expect(page.locator(".timeline .words")).to_contain_text(re.compile("Success . step .* ms: "))


def test_a_pair_is_played_counted_and_watched_again(page: Page, server: Server) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-family input").click()
    page.get_by_role("option", name="Open drawer").click()
    page.locator("#compare-run").click()
    expect(page.locator("#figures")).to_contain_text("exact McNemar p = 1")
    for side in ("left", "right"):
        expect(page.locator(f"#status-{side} .outcome")).to_contain_text("Success")
    expect(page.locator("#votes")).to_be_hidden()
    page.locator("#pairs tbody tr").first.click()
    for side in ("left", "right"):
        page.wait_for_function(f"() => document.querySelector('#video-{side} video')?.readyState >= 2")
    expect(page.locator(".timeline:visible")).to_have_count(2)


def test_the_ask_tab_takes_pictures_and_refuses_what_is_none(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Ask").click()
    bad = tmp_path / "picture.png"
    bad.write_bytes(b"PK\x03\x04 a zip file by another name")
    page.locator("#picture input[type=file]").set_input_files(bad)
    expect(page.locator("#picture-problem")).to_contain_text("not a picture that can be read here")
    page.locator("#use-camera").click()
    expect(page.locator("#picture-problem")).to_be_hidden()
    page.locator("#questions").get_by_text("What is on the table?").click()
    page.locator("#ask-button").click()
    expect(page.locator("#chat")).to_contain_text("The scripted expert answers no questions")
    expect(page.locator("#ask-button")).to_be_enabled()


def test_a_recording_is_fetched_once_when_it_is_chosen(page: Page) -> None:
    """Gradio builds what is new beside the page before it changes the page: that copy must not load its video, too."""
    expect(page.locator("#video video")).to_have_js_property("readyState", 4)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for entry in (1, 2, 1):
        asked.clear()
        page.locator("#gallery button").nth(entry).click()
        page.wait_for_function("() => { const v = document.querySelector('#video video'); return !v.paused; }")
        page.wait_for_timeout(300)
        assert len([url for url in asked if url.endswith(".mp4")]) <= 1
        video = page.locator("#video video")
        assert video.get_attribute("data-src") == video.get_attribute("src") != ""


def test_compare_is_built_once_and_keeps_what_was_typed(page: Page) -> None:
    words = page.locator("#compare-words textarea")
    expect(words).to_have_count(0)
    page.get_by_role("tab", name="Compare").click()
    words.fill("put it on the plate")
    page.get_by_role("tab", name="Act").click()
    page.get_by_role("tab", name="Compare").click()
    expect(words).to_have_value("put it on the plate")
