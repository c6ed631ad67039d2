"""The page as a person meets it: nothing jumps, keys do everything, and whoever does not see it is told."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page, expect

from app import page as web
from app.bench_page import chromium
from app.controller import Simulator, ThinkingPolicy
from app.pilots import Turn
from app.sessions import Sessions
from app.system import find_browser
from sim.interface import Action, Image, Observation
from sim.tasks import SceneSpec
from tests.test_controller import FakePolicy, FakeSimulator
from tests.test_page_states import DrawnPool, DrawnSimulator, FakePilot

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="needs Debian's chromium: apt-get install chromium"),
    pytest.mark.timeout(1200),
]
PATIENCE_MS = 240_000  # a rollout is some hundred messages, which take their time on a busy machine
MOST_SHIFT = 0.1
"""Cumulative layout shift that counts as good (web.dev/cls)."""
THOUGHT = "I will take the green cube and lay it on the plate, and then I will let go of it and wait."


class Wordy(FakePolicy):
    """Thinks before every sixth step, word by word."""

    timings = {"think": 90.0, "plan": 20.0, "flow": 10.0}

    def __init__(self) -> None:
        super().__init__()
        self.timings = dict(Wordy.timings)

    @property
    def needs_image(self) -> bool:
        return self.acted % 6 == 0

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        self.thought_at = self.acted
        for number, word in enumerate(THOUGHT.split()):
            time.sleep(0.01)
            self.gate = number % 10 / 10
            yield f"{word} "

    def act(self, observation: Observation) -> Action:
        time.sleep(0.03)
        return super().act(observation)


class WordyPilot(FakePilot):
    """Drives with `Wordy`, and answers at length."""

    def policy(self, simulator: Simulator, spec: SceneSpec, think: bool) -> ThinkingPolicy:
        return Wordy()

    def ask(self, image: Image | Sequence[Image], question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        for word in THOUGHT.split():
            time.sleep(0.01)
            yield f"{word} "


class LongPool(DrawnPool):
    """Simulators in which success takes some steps."""

    solved_at = 12

    def lease(self) -> FakeSimulator:
        self.out.append(DrawnSimulator(self.solved_at))
        return self.out[-1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    recordings = tmp_path_factory.mktemp("recordings")
    blocks = web.build(WordyPilot(), Sessions(LongPool(), size=2), recordings)
    yield web.launch(blocks, "127.0.0.1", None, recordings)
    blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


WATCH = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.shifted += shift.value;
  }).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url, request.param)


@pytest.fixture
def desktop(browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url, (1280, 900))


def opened(browser: Browser, url: str, size: tuple[int, int]) -> Iterator[Page]:
    context = browser.new_context(locale="en-US", viewport={"width": size[0], "height": size[1]})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    tab.add_init_script(WATCH)
    tab.goto(url)
    tab.wait_for_function("() => document.querySelector('#video video')?.readyState >= 2")
    yield tab
    context.close()


def shifted(tab: Page) -> float:
    """The layout shift since the last call, without what followed a key or a click at once."""
    tab.wait_for_timeout(500)
    return float(tab.evaluate("() => { const sum = window.shifted; window.shifted = 0; return sum; }"))


PLACES = """() => {
  window.places = {};
  const look = () => {
    if (document.querySelector("#status .outcome")) return;  // it is over: the recording takes its place
    for (const id of ["status", "thinking", "latency", "steer", "words", "run", "examples", "look", "recording"]) {
      const box = document.getElementById(id).getBoundingClientRect();
      (window.places[id] ??= new Set()).add(`${box.top + scrollY} ${box.height}`);
    }
    window.looking = requestAnimationFrame(look);
  };
  look();
}"""
MOVED = "() => Object.entries(window.places).filter(([id, seen]) => seen.size > 1).map(([id, seen]) => [id, ...seen])"


def test_nothing_jumps(page: Page) -> None:
    assert shifted(page) < MOST_SHIFT, "while the page opens"
    page.evaluate(PLACES)
    page.locator("#run").click()
    expect(page.locator("#status .outcome")).to_contain_text("Success means")
    assert page.evaluate(MOVED) == [], "while text streams and the robot moves"
    expect(page.locator("#caption")).to_contain_text("Your last rollout.")
    assert shifted(page) < MOST_SHIFT, "during a rollout"
    log = page.locator("#thoughts .thoughts")
    assert log.evaluate("log => log.scrollHeight - log.clientHeight - log.scrollTop") < 2, (
        "what was written last is seen"
    )
    page.get_by_role("tab", name="Ask").click()
    page.locator("#pictures button").first.click()
    expect(page.locator("#picture img")).to_be_visible()
    shifted(page)
    page.locator("#question textarea").fill("Is it red?")
    page.locator("#ask-button").click()
    expect(page.locator("#chat")).to_contain_text("let go of it")
    expect(page.locator("#ask-button")).to_be_enabled()
    assert shifted(page) < MOST_SHIFT, "while an answer streams"


def test_a_chosen_recording_comes_into_view_and_plays(page: Page) -> None:
    page.locator("#gallery button").nth(2).click()
    page.wait_for_function("() => { const it = document.querySelector('#video video'); return it?.currentTime > 0; }")
    box = page.locator("#video video").bounding_box()
    size = page.viewport_size
    assert box is not None and size is not None
    assert box["y"] >= -1 and box["y"] + box["height"] <= size["height"] + 1  # half pixels on a scaled screen


FOCUS = """() => {
  const at = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(at);
  return [at.closest("[id]")?.id ?? "", at.outerHTML.slice(0, 120), outlineStyle !== "none" && outlineWidth >= "2px"];
}"""


def reach(tab: Page, target: str, key: str = "Tab", most: int = 90) -> None:
    """Press a key until the focus is on a place; it has to be seen wherever it is on the way."""
    for _ in range(most):
        tab.keyboard.press(key)
        near, html, seen = tab.evaluate(FOCUS)
        assert seen or html.startswith("<body"), f"the focus cannot be seen in #{near}: {html}"
        if tab.evaluate("target => document.activeElement.matches(target)", target):
            return
    raise AssertionError(f"no {target} within {most} times {key}")


def test_everything_can_be_done_with_keys(desktop: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LongPool, "solved_at", 1000)
    status, words = desktop.locator("#status"), desktop.locator("#words textarea")
    reach(desktop, "#language")
    reach(desktop, "#steer > button")
    desktop.keyboard.press("Enter")
    reach(desktop, "#words textarea")
    reach(desktop, "#think input")
    desktop.keyboard.press("Space")
    expect(desktop.locator("#think input")).not_to_be_checked()
    desktop.keyboard.press("Space")
    reach(desktop, "#examples button")
    desktop.keyboard.press("Enter")
    expect(words).to_have_value("pick up the green cube")
    reach(desktop, "#family input")
    desktop.keyboard.press("ArrowDown")
    desktop.keyboard.press("Enter")
    expect(words).not_to_have_value("pick up the green cube")
    reach(desktop, "#look input")
    desktop.keyboard.press("Space")
    expect(desktop.locator("#odds")).to_contain_text("Measured with the usual light")
    reach(desktop, "#words textarea", "Shift+Tab")
    desktop.keyboard.press("Control+a")
    desktop.keyboard.type("take it away")
    reach(desktop, "#run")
    desktop.keyboard.press("Enter")
    expect(desktop.locator("#pause")).to_be_enabled()
    reach(desktop, "#pause", "Shift+Tab")
    desktop.keyboard.press("Enter")
    expect(status).to_contain_text("Paused")
    expect(desktop.locator("#pause")).to_have_text("Resume")
    desktop.keyboard.press("Enter")
    expect(status).not_to_contain_text("Paused")
    reach(desktop, "#stop")
    desktop.keyboard.press("Space")
    expect(desktop.locator("#status .outcome")).to_contain_text("Stopped")
    expect(desktop.locator("#caption")).to_contain_text("take it away")
    reach(desktop, ".timeline .scrub")
    desktop.keyboard.press("End")
    expect(desktop.locator(".timeline .words")).to_contain_text("Stopped")
    reach(desktop, "#gallery button")
    desktop.keyboard.press("Enter")
    expect(desktop.locator("#caption")).to_contain_text("Example, recorded earlier.")
    desktop.keyboard.press("Control+Home")
    for tab in ("compare", "ask"):
        reach(desktop, f"#tab-{tab}-button", "Shift+Tab")
        desktop.keyboard.press("Enter")
        expect(desktop.locator(f"#tab-{tab}")).to_be_visible()
    reach(desktop, "#pictures button")
    desktop.keyboard.press("Enter")
    expect(desktop.locator("#picture img")).to_be_visible()
    reach(desktop, "#question textarea")
    desktop.keyboard.type("Is it red?")
    desktop.keyboard.press("Enter")
    expect(desktop.locator("#chat")).to_contain_text("let go of it")
    reach(desktop, "#tab-benchmark-button", "Shift+Tab")
    desktop.keyboard.press("Enter")
    reach(desktop, ".bench .scroll")
    reach(desktop, "#language", "Shift+Tab")
    desktop.keyboard.press("Enter")
    expect(desktop.locator("#run")).to_have_text("运行")


NAMELESS = re.compile(
    r"^\s*- (?:button|link|checkbox|radio|textbox|slider|tab|tabpanel|combobox|spinbutton)\b(?!.*\").*$", re.M
)
SILENT = (
    "[...document.images].filter(each => each.checkVisibility() && !each.hasAttribute('alt')).map(each => each.src)"
)


def test_everything_has_a_name_and_says_what_it_shows(desktop: Page) -> None:
    camera, status = desktop.get_by_role("img", name="Robot camera"), desktop.get_by_role("status")
    expect(camera).to_have_attribute("alt", re.compile("Press Run"))
    desktop.evaluate("""() => {
      window.said = [];
      const look = () => {
        const line = document.querySelector("#status [role=status]").textContent;
        if (window.said.at(-1) !== line) window.said.push(line);
      };
      const changes = {subtree: true, childList: true, characterData: true};
      new MutationObserver(look).observe(document.getElementById("status"), changes);
    }""")
    desktop.locator("#run").click()
    expect(camera).to_have_attribute("alt", re.compile(r"^Robot camera: Moving, Step \d+ of"))
    expect(status.filter(has_text="Success")).to_be_visible()
    said = desktop.evaluate("window.said")
    assert set(said) >= {"Thinking", "Moving", "Success"} and not any("Step" in line for line in said)
    expect(desktop.locator("#thoughts [role=log]")).to_have_attribute("aria-busy", "false")
    expect(desktop.locator(".timeline svg").last).to_have_attribute(
        "aria-label", re.compile("steps of .* ms on average")
    )
    expect(desktop.get_by_role("tabpanel", name="Act")).to_be_visible()
    for name in ("Act", "Compare", "Ask", "Benchmark"):
        desktop.get_by_role("tab", name=name).click()
        panel = desktop.get_by_role("tabpanel", name=name)
        expect(panel).to_be_visible()
        if name == "Ask":
            expect(panel.get_by_role("button", name="Example picture 6 of 6")).to_be_visible()
        if name == "Benchmark":
            expect(panel.get_by_role("heading", level=2).first).to_be_visible()
        assert NAMELESS.findall(desktop.locator("body").aria_snapshot()) == [], name
        assert desktop.evaluate(SILENT) == [], name
        levels = desktop.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
        )
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    assert desktop.locator("html").get_attribute("lang") == "en"
