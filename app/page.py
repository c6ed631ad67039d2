"""The whole page: header, tabs, theme, and `serve(model, host, port, workers)`, which the front door calls."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from app import pictures, scenes
from app.assets import Assets
from app.gate import Gate, log_as_json
from app.health import expect_waits, health_of
from app.pilots import Pilot, pilot_of
from app.scenes import EXAMPLES, PICTURES
from app.service import Service
from app.sessions import Sessions
from app.settings import Settings
from app.views import ask, benchmark, command, compare
from app.views.widgets import HIDDEN
from model.config import GENERALIST
from model.data.things import load_catalog
from sim.worker import EITHER, WorkerPool

if TYPE_CHECKING:
    from model.engine import Changes

PITCH = "Tell a simulated robot arm what to do. It looks, says what it means to do, and does it."
TITLE = (
    '<h1 translate="no">InstructVLA</h1><button id="language" type="button" translate="no" lang="zh">中文</button>'
    f"<p>{PITCH}</p>"
)
RECORDINGS = Path("recordings")
STYLE, SCRIPT = Path(__file__).with_name("page.css"), Path(__file__).with_name("page.js")
TRANSLATE, CHINESE = Path(__file__).with_name("translate.js"), Path(__file__).parent / "views" / "chinese.json"
DEFAULTS = Settings()
CACHE_CHECK_S, CACHE_AGE_S = 600, 3600
POLL_S = 1.0
CLOSED_KEPT = 20
"""Closed tabs whose conversation is kept, for a phone that comes back; Gradio would keep 10,000, 0.2 MB each."""

THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    block_background_fill="white",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_700",
    button_secondary_background_fill="*neutral_200",
    button_secondary_background_fill_hover="*neutral_300",
    body_text_color_subdued="*neutral_500",  # the theme's own grey is too pale to read on white
    block_title_background_fill="transparent",
    block_title_text_color="*neutral_500",
    block_title_text_color_dark="*neutral_400",
    block_title_padding="0",
    block_label_text_color="*primary_700",
    link_text_color="*primary_700",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    color_accent="*primary_700",  # in the dark: page.css
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    checkbox_border_color_dark="*neutral_400",
    checkbox_border_color="*neutral_400",  # an empty box is white on white otherwise
    checkbox_border_width="1px",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


def build(
    pilot: Pilot,
    sessions: Sessions,
    recordings: Path = RECORDINGS,
    settings: Settings = DEFAULTS,
    against: Pilot | None = None,
) -> gr.Blocks:
    """Assemble the page for one pilot (who drives), the simulators it may use, and a rival to compare it with."""
    cache = (CACHE_CHECK_S, CACHE_AGE_S)
    with gr.Blocks(title="InstructVLA", analytics_enabled=False, delete_cache=cache) as page:
        with gr.Column(elem_id="head"):
            gr.HTML(TITLE, elem_id="title", padding=False)
            badge = gr.HTML(model_badge(pilot), elem_id="model", padding=False)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Act", id="act", elem_id="tab-act"):
                acting = command.build(page, pilot, sessions, recordings)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare") as comparing:
                once_opened(comparing, lambda: compare.build(pilot, against, sessions, recordings))
            with gr.Tab("Ask", id="ask", elem_id="tab-ask") as asking:
                ask.build(asking, pilot, acting.camera)
            with gr.Tab("Benchmark", id="benchmark", elem_id="tab-benchmark") as measured:
                benchmark.build(measured, pilot)
        Service(pilot, sessions, recordings, settings).build()

        poll = gr.Timer(POLL_S, active=pilot.state == "loading")
        poll.tick(
            lambda: (model_badge(pilot), gr.Timer(active=pilot.state == "loading")),
            outputs=[badge, poll],
            show_progress="hidden",
            api_visibility="private",
        )
        page.load(lambda: model_badge(pilot), outputs=badge, show_progress="hidden", api_visibility="private")

        closed: deque[str] = deque()

        def close_tab(request: gr.Request) -> None:
            """The visitor has gone: whatever runs for that tab stops, and all but the latest tabs are forgotten."""
            sessions.stop(request.session_hash or "")
            closed.append(request.session_hash or "")
            while len(closed) > CLOSED_KEPT:
                page.state_holder.session_data.pop(closed.popleft(), None)

        page.unload(close_tab)
    page.queue(max_size=settings.queue, default_concurrency_limit=4)
    expect_waits(page, recordings, settings.rollout_seconds)
    return page


def once_opened(tab: gr.Tab, build: Callable[[], None]) -> None:
    """Lay out what is in `tab`, inside which this is called, when a visitor first opens it.

    A third of the page's widgets are Compare's, of no use to most visits, and the browser would build them all at the
    start. What is laid out so must say which of its widgets are `interactive`: Gradio does not work it out.
    """
    opened = gr.Checkbox(visible="hidden")  # changes once, and in the browser: no queue can be too full for it
    tab.select(None, None, opened, js="() => true", **HIDDEN)
    gr.render(triggers=[opened.change], queue=False, show_progress="hidden")(build)


def model_badge(pilot: Pilot) -> str:
    """Who drives, what it was trained on and whether it is ready, as HTML."""
    state = pilot.state
    detail = {"loading": "Choose a scene meanwhile.", "ready": pilot.describe(), "failed": pilot.error or ""}[state]
    mend = " Run <code>python app.py doctor</code> to see what is missing." if state == "failed" else ""
    return (
        f'<div class="badge {state}" role="status"><b translate="no">{escape(pilot.name)}</b>'
        f'<span class="state">{state}</span><span class="detail">{escape(detail)}{mend}</span></div>'
    )


class CompressedDocument(GZipMiddleware):
    """Compresses the document, the one large text that Gradio's own compression leaves out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await (super().__call__ if scope.get("path") == "/" else self.app)(scope, receive, send)


def script() -> str:
    """What the browser runs once the page is there: the timeline's seeking, and the translation into Chinese."""
    texts = json.loads(CHINESE.read_text(encoding="utf-8"))
    nouns = {thing.name: thing.names["zh"] for thing in load_catalog(unseen=True).values() if thing.names}
    given = ", ".join(json.dumps(words, ensure_ascii=False, separators=(",", ":")) for words in (texts, nouns))
    page, translate = (file.read_text(encoding="utf-8").strip() for file in (SCRIPT, TRANSLATE))
    return f"() => {{\n({_code(page)})();\n({_code(translate)})({given});\n}}"


def _code(text: str) -> str:
    """JavaScript without the lines of comment above it."""
    return text[text.index("(") :] if text.startswith("//") else text


def serve(
    model: str = GENERALIST,
    host: str = "127.0.0.1",
    port: int = 7860,
    workers: int = 1,
    recordings: Path = RECORDINGS,
    settings: Settings = DEFAULTS,
    schedule: Changes = (),
    against: str | None = None,
) -> None:
    """Serve the page until Ctrl+C; it opens at once, model and simulators come up in the background.

    Args:
        model: "generalist", "nano", a checkpoint folder, or "expert" for the scripted expert.
        host, port: where to listen; "0.0.0.0" opens it to the network.
        workers: simulators, that is rollouts at the same time.
        recordings: folder for finished rollouts.
        settings: limits of a public page.
        schedule: changes of when the model thinks and plans.
        against: a second model for the Compare tab, loaded when first asked for.

    Raises:
        OSError: the port is taken.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    scenes.TEXT_LIMIT, pictures.MAX_BYTES = settings.text_characters, settings.picture_bytes  # read at every check
    log_as_json()
    pilot = pilot_of(model, schedule)
    pilot.start()
    recordings = recordings.resolve()
    recordings.mkdir(parents=True, exist_ok=True)
    with WorkerPool(workers, world=EITHER) as pool:
        sessions = Sessions(pool, workers, settings.rollout_seconds, settings.wait_seconds)
        page = build(pilot, sessions, recordings, settings, None if against is None else pilot_of(against))
        launch(page, host, port, recordings, settings, health_of(page, pilot, sessions, pool))
        page.block_thread()


def launch(
    page: gr.Blocks,
    host: str,
    port: int | None,
    recordings: Path,
    settings: Settings = DEFAULTS,
    health: Callable[[], dict[str, Any]] = dict,
) -> str:
    """Open the port (None: a free one) and return the page's address; `health` is what `/health` says.

    Only finished recordings, the shipped examples and pictures may be read through it.
    """
    _warm_up()
    gate = Middleware(Gate, settings=settings, health=health)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        theme=THEME,
        css_paths=STYLE,
        js=script(),
        allowed_paths=[str(recordings), str(EXAMPLES), str(PICTURES)],
        max_file_size=settings.picture_bytes,
        app_kwargs={"middleware": [gate, Middleware(Assets), Middleware(CompressedDocument)]},
        mcp_server=True,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api", "settings"],
        quiet=True,
    )
    return page.local_url


def _warm_up() -> None:
    """What Gradio would do at the first visitor, half a second long: choose a backend to plot with."""
    os.environ.setdefault("MPLBACKEND", "agg")
    with suppress(ImportError):
        import_module("matplotlib")
