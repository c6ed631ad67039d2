"""Gradio's scripts and styles: compressed once, kept by the browser, and nothing else is answered for."""

from __future__ import annotations

import brotli
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from app.assets import FOLDER, Assets

ELSEWHERE = PlainTextResponse("not ours")
BROTLI = {"accept-encoding": "gzip, br"}


@pytest.fixture
def client() -> TestClient:
    return TestClient(Assets(ELSEWHERE))


@pytest.mark.parametrize("ending", ["js", "css"])
def test_a_script_comes_whole_compressed_and_for_good(client: TestClient, ending: str) -> None:
    file = max(FOLDER.glob(f"*.{ending}"), key=lambda path: path.stat().st_size)
    with client.stream("GET", f"/assets/{file.name}", headers=BROTLI) as answer:
        sent = b"".join(answer.iter_raw())
    assert brotli.decompress(sent) == file.read_bytes() and len(sent) < file.stat().st_size / 2
    assert "immutable" in answer.headers["cache-control"] and answer.headers["content-encoding"] == "br"
    assert ("javascript" if ending == "js" else "css") in answer.headers["content-type"]


OTHERS = ["/", "/assets/", "/assets/nothing.js", "/assets/../index.html", "/assets/%2e%2e/x.js"]


@pytest.mark.parametrize("path", OTHERS)
def test_anything_else_is_passed_on(client: TestClient, path: str) -> None:
    assert client.get(path, headers=BROTLI).text == "not ours"


def test_who_reads_no_brotli_gets_gradios_own_answer(client: TestClient) -> None:
    file = next(FOLDER.glob("*.js"))
    assert client.get(f"/assets/{file.name}", headers={"accept-encoding": "gzip"}).text == "not ours"
