"""Recorded sets get annotations from the grammar or from an endpoint; a page shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import app.cli as cli
from app.annotating import FILE, Answers, EndpointAnnotator, Estimate, annotate, estimate, to_annotate
from app.endpoint import PATIENCE, ChatEndpoint, EndpointError
from app.preview import write_preview
from model.data.vla_it import PER_KIND, EpisodeFacts, GrammarAnnotator, read_vla_it
from tests.chat_server import chat_server
from tests.test_cli import fail, run
from tests.test_episodes import episode, jpeg, write

GOOD = {
    "Caption": "A carrot lies beside a cup.",
    "CR": [{"question": "Take the orange vegetable.", "answer": "I will pick up the carrot."}],
    "CC": [{"question": "The rabbit is hungry.", "answer": "I will pick up the carrot."}],
    "QA": [{"question": "What lies left of the cup?", "answer": "a carrot"}],
}
FACTS = EpisodeFacts({"seed": 0}, "pick up the carrot", "train", (jpeg(1), jpeg(2), jpeg(3)))
WORLD = "tests.fake_world:CarrotWorld"


def endpoint(url: str) -> tuple[ChatEndpoint, list[float]]:
    waits: list[float] = []
    return ChatEndpoint(url, "some-model", sleep=waits.append), waits


def test_an_endpoint_sees_three_frames_and_the_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with chat_server(lambda body: (200, json.dumps(GOOD))) as server:
        told = EndpointAnnotator(endpoint(server.url)[0]).annotate(FACTS)
    assert [(a.kind, a.answer) for a in told][:2] == [("Caption", GOOD["Caption"]), ("QA", "a carrot")]
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    pictures = [part for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 3 and pictures[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert body["messages"][1]["content"][-1]["text"] == "The instruction: pick up the carrot"
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == {"Caption", "CR", "CC", "QA"}


@pytest.mark.parametrize(
    "bad",
    [
        (500, "busy"),
        (429, "slow down"),
        (200, "Sure! Here it is:"),
        (200, json.dumps(GOOD | {"CR": []})),
        (200, json.dumps(GOOD | {"CC": [{"question": "?", "answer": "I will " + "really " * 30}]})),
        (200, json.dumps(GOOD | {"extra": 1})),
    ],
)
def test_what_may_pass_is_tried_again(bad: tuple[int, str]) -> None:
    replies = [bad, bad, (200, json.dumps(GOOD))]
    with chat_server(lambda body: replies.pop(0)) as server:
        chat, waits = endpoint(server.url)
        assert EndpointAnnotator(chat).annotate(FACTS)
    assert waits == list(PATIENCE[:2])


def test_what_will_not_pass_is_said_at_once_or_after_the_last_attempt() -> None:
    with chat_server(lambda body: (401, "who are you")) as server:
        with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
            EndpointAnnotator(endpoint(server.url)[0]).annotate(FACTS)
        assert len(server.requests) == 1
    with chat_server(lambda body: (404, "unknown")) as server, pytest.raises(EndpointError, match="404: unknown"):
        endpoint(server.url)[0].complete("", "", Answers)
    with chat_server(lambda body: (503, "")) as server:
        with pytest.raises(EndpointError, match="5 attempts: status 503"):
            endpoint(server.url)[0].complete("", "", Answers)
        assert len(server.requests) == 1 + len(PATIENCE)
    with pytest.raises(ValueError, match="begins with http"):
        ChatEndpoint("localhost:8000", "m")


def test_a_set_is_annotated_by_the_grammar_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write(tmp_path, [episode(seed, frames=False) for seed in range(4)])
    grammar, calls = GrammarAnnotator(), []

    class Stops:
        def annotate(self, facts: EpisodeFacts) -> list:
            calls.append(facts.scene["seed"])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return grammar.annotate(facts)

    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, Stops(), workers=1, world=WORLD)
    assert not (tmp_path / FILE).exists() and len(to_annotate(tmp_path)) == 2
    assert annotate(tmp_path, grammar, workers=1, world=WORLD) == 2
    assert annotate(tmp_path, grammar, workers=1, world=WORLD) == 0
    told = read_vla_it(tmp_path / FILE)
    assert set(told) == {(f"episodes-0000{shard}.parquet", row) for shard in (0, 1) for row in ("0", "1")}
    assert not list(tmp_path.glob("*.jsonl"))
    for annotated in told.values():
        assert len(annotated.of("Caption")) == 1 and len(annotated.of("CR")) == PER_KIND
        assert annotated.objects == {"carrot": [0.25, 0.5], "mug": [0.75, 0.5]} and len(annotated.move_primitive) == 5


def test_the_command_asks_before_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write(tmp_path, [episode(seed) for seed in range(2)])
    monkeypatch.setattr("app.annotating.annotate.__defaults__", (False, WORLD))
    assert "--annotator-model" in fail(
        monkeypatch, capsys, "collect", "--out", str(tmp_path), "--states-only", "--annotate", "http://127.0.0.1:9"
    )
    with chat_server(lambda body: (200, json.dumps(GOOD))) as server:
        options = ["--out", str(tmp_path), "--states-only", "--annotate", server.url, "--annotator-model", "m"]
        refused = cli_invoke("collect", *options, input="n\n")
        assert "2 requests" in refused and not server.requests
        done = run("collect", *options, "--yes", "--price", "1", "2", "--workers", "1")
        assert "2 episodes annotated" in done and re.search(r"2 requests, about [\d,]+ tokens in .*\$0\.00", done)
        assert len(server.requests) == 2
    pictures = [part for part in server.requests[0][2]["messages"][1]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 3


def cli_invoke(*arguments: str, input: str) -> str:
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.cli, list(arguments), input=input).output


def test_the_estimate_grows_with_the_set() -> None:
    one, many = estimate(1), estimate(1000)
    assert many.tokens_in == 1000 * one.tokens_in > 1000 * 3 * 85 and many.requests == 1000
    assert Estimate(1, 1_000_000, 500_000).cost((2.0, 8.0)) == 6.0


def test_the_page_shows_pictures_words_and_actions(tmp_path: Path) -> None:
    write(tmp_path / "set", [episode(seed) for seed in range(3)])
    bare = write_preview(tmp_path / "set", tmp_path / "page").read_text()
    assert bare.count("<section>") == 3 and bare.count("<polyline") == 21 and bare.count("data:image/jpeg") == 15
    annotate(tmp_path / "set", GrammarAnnotator(), workers=1, world=WORLD)
    page = write_preview(tmp_path / "set", tmp_path / "page", episodes=2).read_text()
    assert page.count("<section>") == 2 and page.count(">CR<") == 2 * PER_KIND and "2 shown, 3 annotated" in page
    assert "<script" not in page and "http" not in page.split("<body>")[1]
