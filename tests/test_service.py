"""The page's endpoints over HTTP and MCP, its limits, `/health` and its log, without a model or a simulator."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import page as front
from app import scenes
from app.gate import Gate, JsonLines, Rate
from app.health import health_of, resident_mb
from app.service import Service
from app.sessions import Sessions
from app.settings import Settings
from tests.test_page_states import DrawnPool, FakePilot
from tests.test_recording import jpeg

TOOLS = ["list_scenes", "run_rollout", "evaluate_pair", "ask_image"]
PICTURE = base64.b64encode(jpeg(0)).decode()


class Pool(DrawnPool):
    """As far as `/health` looks."""

    restarts = 3
    pids: list[int] = []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A whole page on a free port, driven by the scripted expert."""
    recordings = tmp_path_factory.mktemp("recordings")
    pilot, pool = FakePilot(), Pool()
    sessions = Sessions(pool, size=2)
    page = front.build(pilot, sessions, recordings)
    yield front.launch(page, "127.0.0.1", None, recordings, health=health_of(page, pilot, sessions, pool))
    page.close()


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def test_scenes_are_listed(client: Client) -> None:
    found = client.predict(api_name="/list_scenes")
    assert {"pick", "stack", "open"} <= {scene["scene"] for scene in found}
    assert all(scene["instruction"] and scene["steps"] > 0 and scene["success"] for scene in found)


def test_a_rollout_streams_its_events(client: Client) -> None:
    job = client.submit("open", 1_000_000, "pull the top drawer", True, api_name="/run_rollout")
    final = job.result(timeout=60)
    events = job.outputs()
    kinds = [event["type"] for event in events]
    assert kinds[0] == "SceneReady" and events[0]["instruction"] == "pull the top drawer"
    assert kinds.index("ThoughtToken") < kinds.index("ThoughtDone") < kinds.index("Frame") < kinds.index("Outcome")
    assert events[-1] == final and final["type"] == "Finished" and final["success"] and final["steps"] == 4
    assert "Scripted expert" in final["thoughts"][0] and "jpeg" not in events[0]
    assert final["run"]


def test_a_finished_rollout_can_be_replayed(client: Client, address: str) -> None:
    run = client.predict("open", think=False, api_name="/run_rollout")["run"]
    assert httpx.get(address, params={"run": run}).status_code == 200


def test_a_pair_is_played_with_and_without_thinking(client: Client) -> None:
    pair = client.predict("open", seed=1_000_000, api_name="/evaluate_pair")
    assert set(pair) == {"thinking_on", "thinking_off"}
    assert pair["thinking_on"]["thoughts"] and not pair["thinking_off"]["thoughts"]
    assert all(arm["success"] and arm["steps"] == 4 and arm["rule"] for arm in pair.values())


def test_an_answer_streams(client: Client) -> None:
    for picture in (PICTURE, f"data:image/jpeg;base64,{PICTURE}"):
        job = client.submit(picture, "is it red?", api_name="/ask_image")
        job.result(timeout=60)
        assert job.outputs() == ["is ", "is it ", "is it red? "]


@pytest.mark.parametrize(
    ("endpoint", "arguments", "sentence"),
    [
        ("run_rollout", ("juggle",), "There is no scene 'juggle'"),
        ("run_rollout", ("open", -1), "whole number"),
        ("run_rollout", ("open", "7"), "whole number"),
        ("run_rollout", ("open", 7, "x" * 501), "500 characters"),
        ("run_rollout", ("open", 7, "?!"), "no word"),
        ("evaluate_pair", ("../../etc", 7), "There is no scene"),
        ("ask_image", (PICTURE, ""), "Type a question"),
        ("ask_image", ("not base64!", "what?"), "no base64"),
        ("ask_image", ("/etc/passwd", "what?"), "no base64|not a picture"),
        ("ask_image", (base64.b64encode(b"no picture").decode(), "what?"), "not a picture"),
    ],
)
def test_bad_arguments_are_one_sentence(
    client: Client, endpoint: str, arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence) as caught:
        client.predict(*arguments, api_name=f"/{endpoint}")
    assert "Traceback" not in str(caught.value)


def test_the_endpoints_are_typed_and_documented(client: Client) -> None:
    info = client.view_api(return_format="dict", print_info=False)
    assert isinstance(info, dict) and sorted(info["named_endpoints"]) == sorted(f"/{tool}" for tool in TOOLS)
    parameters = info["named_endpoints"]["/run_rollout"]["parameters"]
    assert [(p["parameter_name"], p["python_type"]["type"]) for p in parameters] == [
        ("scene", "str"), ("seed", "int"), ("instruction", "str"), ("think", "bool")
    ]  # fmt: skip
    assert [p["parameter_has_default"] for p in parameters] == [False, True, True, True]


def test_the_same_actions_are_mcp_tools(address: str) -> None:
    async def talk() -> tuple[dict[str, Any], list[Any]]:
        async with (
            streamablehttp_client(f"{address.rstrip('/')}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            calls = [
                await session.call_tool("list_scenes", {}),
                await session.call_tool("run_rollout", {"scene": "open", "think": True}),
                await session.call_tool("ask_image", {"image": PICTURE, "question": "is it red?"}),
                await session.call_tool("evaluate_pair", {"scene": "open"}),
                await session.call_tool("run_rollout", {"scene": "juggle"}),
            ]
            return tools, calls

    tools, (listed, rollout, answer, pair, refused) = asyncio.run(talk())
    assert sorted(tools) == sorted(TOOLS)
    assert "carry out an instruction" in tools["run_rollout"].description
    for tool in tools.values():
        assert all(part["type"] and part["description"] for part in tool.inputSchema["properties"].values()), tool
        assert "Returns:" in tool.description or "Returns" in tool.description, tool.description
    schema = tools["run_rollout"].inputSchema["properties"]
    assert "empty for the scene's own" in schema["instruction"]["description"] and schema["think"]["type"] == "boolean"
    assert "'open'" in listed.content[0].text or '"open"' in listed.content[0].text
    assert "Finished" in rollout.content[0].text and "Scripted expert" in rollout.content[0].text
    assert answer.content[0].text.strip() == "is it red?"
    assert "thinking_off" in pair.content[0].text
    assert refused.isError and "There is no scene" in refused.content[0].text


def test_a_model_that_does_not_load_is_said_plainly(tmp_path: Path) -> None:
    service = Service(FakePilot("failed", "No weights."), Sessions(DrawnPool(), size=1), tmp_path, Settings())
    with pytest.raises(Exception, match=r"No weights\."):
        next(service.run_rollout("open"))


def test_a_question_to_a_model_that_did_not_load_says_why_and_loads_it_again(tmp_path: Path) -> None:
    pilot = FakePilot("failed", "No weights.")
    service = Service(pilot, Sessions(DrawnPool(), size=1), tmp_path, Settings())
    with pytest.raises(Exception, match=r"No weights\. .*doctor.* then try again"):
        next(service.ask_image(PICTURE, "what is it?"))
    assert pilot.retried


def test_a_bug_says_nothing_about_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakePilot):
        def policy(self, *_: Any) -> Any:
            raise KeyError("secret")

    service = Service(Buggy(), Sessions(DrawnPool(), size=1), tmp_path, Settings())
    with pytest.raises(Exception, match="Something broke") as caught:
        next(service.run_rollout("open"))
    assert "secret" not in str(caught.value) and "secret" in caplog.text


def test_a_caller_who_leaves_frees_the_simulator(tmp_path: Path) -> None:
    sessions = Sessions(DrawnPool(), size=1)
    events = Service(FakePilot(), sessions, tmp_path, Settings()).run_rollout("open")
    next(events)
    assert sessions.holding == 1
    events.close()  # type: ignore[attr-defined]
    assert sessions.holding == 0


# -- the gate ---------------------------------------------------------------------------------------------------------


def test_health_tells_queue_workers_restarts_and_memory(address: str) -> None:
    health = httpx.get(f"{address}health").json()
    assert health["status"] == "ready" and health["workers"] == {"total": 2, "busy": 0, "restarts": 3}
    assert health["queue"]["waiting"] == 0 and health["memory_mb"]["page"] > 50 and "visitors" in health
    assert resident_mb(2**30) == 0


def gated(settings: Settings) -> Gate:
    """The gate before a page of one word, whose tabs stay open for as long as they are read."""

    def tab(request: Any) -> StreamingResponse:
        with_tab = client_of(gate).get("/health").json()["visitors"]
        second = client_of(gate).get("/").status_code
        return StreamingResponse(iter([f"{with_tab} {second}"]))

    page = Starlette(
        routes=[
            Route("/", lambda request: PlainTextResponse("page")),
            Route("/gradio_api/heartbeat/{tab}", tab),
            Route("/gradio_api/queue/join", lambda request: PlainTextResponse("joined"), methods=["POST"]),
        ]
    )
    gate = Gate(page, settings, lambda: {"status": "ready"})
    return gate


def client_of(gate: Gate, address: str = "203.0.113.7") -> TestClient:
    return TestClient(gate, client=(address, 1))


def test_a_full_page_sends_the_next_visitor_away_until_a_tab_closes() -> None:
    gate = gated(Settings(visitors=1))
    assert client_of(gate).get("/").status_code == 200
    assert client_of(gate).get("/gradio_api/heartbeat/abc").text == "1 503"
    assert client_of(gate).get("/").status_code == 200
    assert client_of(gate).get("/health").json() == {"status": "ready", "visitors": 0}


def test_a_visitor_who_asks_too_often_has_to_wait_and_nobody_else() -> None:
    gate = gated(Settings(requests_per_minute=3))
    codes = [client_of(gate).post("/gradio_api/queue/join").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert client_of(gate, "203.0.113.8").get("/").status_code == 200
    assert client_of(gate).get("/health").status_code == 200
    assert {client_of(gate, "127.0.0.1").get("/").status_code for _ in range(9)} == {200}


@pytest.mark.parametrize(
    "door",
    ["file=http://example.org/x", "file=HTTPS://example.org/x", "proxy=https://example.org/", "component_server",
     "deep_link?session_hash=x", "vibe-edit/", "process_recording", "stream/x/y/1/playlist.m3u8",
     "run-history/records"],
)  # fmt: skip
def test_what_the_page_does_not_use_is_closed(door: str) -> None:
    """Behind the gate every path answers here."""

    async def anything(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("open")(scope, receive, send)

    client = client_of(Gate(anything, Settings(), dict))
    assert client.get("/gradio_api/queue/join").text == "open" and client.get("/gradio_api/file=/a.jpg").text == "open"
    assert client.get(f"/gradio_api/{door}").status_code == 404


@pytest.mark.parametrize("announced", [True, False])
def test_nobody_can_send_more_than_a_picture(announced: bool) -> None:
    taken = [0]

    async def greedy(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            taken[0] += len(message["body"])
        await PlainTextResponse("taken" if message["type"] == "http.request" else "gone")(scope, receive, send)

    settings = Settings(picture_bytes=300_000)
    client = client_of(Gate(greedy, settings, dict))

    def post(size: int) -> httpx.Response:
        body = bytes(size) if announced else (bytes(100_000) for _ in range(size // 100_000))
        return client.post("/gradio_api/upload", content=body)

    assert post(400_000).text == "taken"
    refused = post(5_000_000)
    assert refused.status_code == 413 if announced else refused.text == "gone"
    assert taken[0] < 1_100_000


def test_only_a_proxy_that_was_announced_is_believed() -> None:
    for behind, expected in ((True, [200, 200, 429]), (False, [200, 429, 429])):
        gate = gated(Settings(requests_per_minute=1, behind_proxy=behind))
        forwarded = ["1.1.1.1, 198.51.100.1", "1.1.1.1, 198.51.100.2", "2.2.2.2, 198.51.100.2"]
        codes = [client_of(gate).get("/", headers={"X-Forwarded-For": who}).status_code for who in forwarded]
        assert codes == expected


def test_a_bucket_refills_evenly_and_the_oldest_are_forgotten() -> None:
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    assert [rate.allows("a") for _ in range(61)] == [True] * 60 + [False]
    now[0] = 2.0
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    for visitor in range(20_000):
        rate.allows(str(visitor))
    assert len(rate._buckets) <= 10_000


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


def test_logs_hold_neither_addresses_nor_texts_unless_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    for asked in (False, True):
        caplog.clear()
        settings = Settings(log_texts=asked, log_addresses=asked)
        gate = gated(settings)
        client_of(gate).get("/gradio_api/heartbeat/0123")
        client_of(gate).get("/")
        list(Service(FakePilot(), Sessions(DrawnPool(), 1), tmp_path, settings).ask_image(PICTURE, "a plum or a pear?"))
        text = json.dumps(logged(caplog))
        assert ("203.0.113.7" in text) == asked and ("plum" in text) == asked and "0123" not in text
        visits = [line for line in logged(caplog) if line["message"] == "request" and line["path"] == "/"]
        assert visits[-1]["status"] == 200 and visits[-1]["method"] == "GET" and visits[-1]["ms"] >= 0
        assert len({line["visitor"] for line in logged(caplog) if line["message"] == "request"}) == 1


def test_a_traceback_is_part_of_its_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("app").exception("a bug")
    (line,) = logged(caplog)
    assert line["level"] == "error" and "KeyError" in line["trace"] and line["time"].endswith("Z")


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_settings_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("visitors: 7\nlog_texts: true\n")
    settings = Settings.load(path)
    assert (settings.visitors, settings.log_texts, settings.queue) == (7, True, Settings().queue)
    path.write_text("")
    assert Settings.load(path) == Settings()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vistors: 7", "vistors: .*known: visitors, queue"),
        ("visitors: 0", "visitors: .*greater than or equal to 1"),
        ("visitors: many", "visitors: .*integer"),
        ("- 1", "the file: "),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_settings_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        Settings.load(path)
    assert "\n" not in str(caught.value)


def test_the_spaces_settings_are_valid() -> None:
    assert Settings.load(Path(__file__).parents[1] / "space.yaml").behind_proxy


def test_the_defaults_are_the_pages_own_limits() -> None:
    assert Settings().text_characters == scenes.TEXT_LIMIT
    assert Settings().picture_bytes == front.pictures.MAX_BYTES
