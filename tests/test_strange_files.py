"""Pictures that are none or too much, and paths that lead out: what strangers send to a page."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import PIL.Image
import pytest
from gradio_client import Client

from app import page as front
from app import pictures
from app.bench_pictures import strange_pictures
from app.settings import Settings
from app.visitor import Visitor
from tests.public_site import SECRET, Site, public_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with public_site(tmp_path_factory.mktemp("site")) as running:
        yield running


# -- pictures ---------------------------------------------------------------------------------------------------------

GOOD = base64.b64encode(strange_pictures()["turned by EXIF"]).decode()
SENTENCES = {
    "bomb, 13,000 x 13,000": "more than 25 million pixels",
    "cut off": "damaged or cut off",
    "animated": "is animated",
    "CMYK": "",
    "16 bits": "",
    "turned by EXIF": "",
    "SVG": "is an SVG drawing",
    "zip by another name": "not a picture that can be read here",
}


@pytest.fixture(scope="module")
def client(site: Site) -> Client:
    return Client(site.address, verbose=False)


@pytest.mark.parametrize(("name", "sentence"), SENTENCES.items())
def test_strange_pictures_through_the_page_and_the_endpoint(
    site: Site, client: Client, name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sentence:
        monkeypatch.setattr(pictures, "_unpacked", lambda picture: pytest.fail("it was unpacked"))
    data, visitor = strange_pictures()[name], Visitor(site.address)
    sent = visitor.upload(data)
    problem = next(visitor.fire("picture", "input", picture=sent))["picture-problem"]
    assert (sentence in problem) if sentence else problem == ""
    answer = list(visitor.fire("ask-button", picture=sent, question="is it red?"))[-1]["chat"][-1]
    assert (sentence or "is it red?") in str(answer)
    arguments = (base64.b64encode(data).decode(), "is it red?")
    if not sentence:
        assert client.predict(*arguments, api_name="/ask_image") == "is it red? "
        return
    with pytest.raises(Exception, match=sentence):
        client.predict(*arguments, api_name="/ask_image")


def test_no_widget_lets_gradio_open_a_strangers_picture(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The robot's camera can be asked about: what arrives as its picture may be anything."""
    visitor = Visitor(site.address)
    sent = visitor.upload(strange_pictures()["bomb, 13,000 x 13,000"])
    monkeypatch.setattr(PIL.Image.Image, "load", lambda picture: pytest.fail("it was unpacked"))
    (update,) = visitor.fire("use-camera", camera=sent)
    assert visitor.error == "" and update["picture"]["path"]


def test_a_file_that_is_too_large_is_refused_while_it_arrives(site: Site) -> None:
    visitor = Visitor(site.address)
    assert visitor.upload(bytes(Settings().picture_bytes + 1)) is None and "size" in visitor.error
    assert visitor.upload(bytes(2 * Settings().picture_bytes)) is None and "too large" in visitor.error


# -- paths ------------------------------------------------------------------------------------------------------------


def attacks(site: Site) -> list[str]:
    """Paths of the kinds that have worked against Gradio pages, with our secret and the system's files as targets."""
    secret, recordings = site.folder / "secret.txt", site.folder / "recordings"
    targets = [
        str(secret),
        f"{recordings}/../secret.txt",
        f"{recordings}/link/secret.txt",
        f"{recordings}/..%2fsecret.txt",
        f"{recordings}/%2e%2e/secret.txt",
        f"{recordings}//..//secret.txt",
        f"{recordings}/x/../../secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "file:///etc/passwd",
        "../../../../../../etc/passwd",
        "..\\..\\etc\\passwd",
        "C:/windows/win.ini",
        str(Path(front.__file__)),
        str(Path.home() / ".bashrc"),
        "/proc/self/environ",
    ]
    doors = ["gradio_api/file=", "file=", "gradio_api/file/", "file/", "static/", "assets/", "svelte/",
             "gradio_api/proxy=", "proxy=", "gradio_api/custom_component/1/client/component/"]  # fmt: skip
    return [f"{door}{target}" for door in doors for target in targets] + [
        "gradio_api/file=http://127.0.0.1:1/x",
        "gradio_api/file=HTTPS://example.org/",
        "gradio_api/proxy=http://127.0.0.1:1/x",
        "gradio_api/deep_link?session_hash=x",
        "gradio_api/vibe-code",
        "monitoring",
        "dev/reload",
        "login/huggingface?_target_url=//example.org",
        "gradio_api/run-history/records",
    ]


def test_no_path_leads_out_of_the_allowed_folders(site: Site) -> None:
    allowed = site.folder / "recordings" / "kept"
    with httpx.Client(base_url=site.address, timeout=60) as http:
        whole = http.get(f"gradio_api/file={allowed / 'events.jsonl'}")
        assert whole.status_code == 200 and b"Recording" in whole.content, "what is allowed can be read"
        for path in attacks(site):
            request = http.build_request("GET", path)
            request.url = request.url.copy_with(raw_path=f"/{path}".encode())  # as it is: httpx would tidy it up
            got = http.send(request)
            told = got.content
            assert SECRET.encode() not in told and b"root:" not in told and b"PATH=" not in told, path
            assert b"The whole page: header, tabs" not in told, path
            assert got.status_code >= 400 or b"<!doctype html>" in told[:200].lower(), (path, got.status_code)


@pytest.mark.parametrize("path", ["/etc/passwd", "SECRET", "http://127.0.0.1:1/x.png", "/proc/self/environ"])
def test_a_files_path_sent_as_an_upload_is_refused(site: Site, path: str) -> None:
    path = str(site.folder / "secret.txt") if path == "SECRET" else path
    for name, trigger, box in (
        ("picture", "input", "picture"),
        ("use-camera", "click", "camera"),
        ("ask-button", "click", "picture"),
    ):
        visitor = Visitor(site.address)
        sent = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
        updates = list(visitor.fire(name, trigger, **{box: sent, "question": "what is it?"}))
        assert visitor.error, updates
        assert SECRET not in str(updates) and "root:" not in str(updates)


def lay_out(http: httpx.Client, action: int, tab: str) -> list[dict[str, Any]]:
    """Have a tab of the page laid out, as its first opening does; the actions that are there from then on."""
    body = {"data": [], "fn_index": action, "session_hash": tab}
    config = http.post("run/predict", json=body).json()["render_config"]
    return [later | {"behind": action} for later in config["dependencies"]]


def answer_of(http: httpx.Client, action: dict[str, Any], value: Any) -> str:
    """Everything an action of the page answers when each of its inputs is `value`, with the files that it names."""
    tab = secrets.token_hex(6)
    if "behind" in action:
        lay_out(http, action["behind"], tab)
    body = {"data": [value] * len(action["inputs"]), "fn_index": action["id"], "session_hash": tab}
    told = http.post("queue/join" if action["queue"] else "run/predict", json=body).text
    if "event_id" in told:
        with http.stream("GET", "queue/data", params={"session_hash": tab}) as stream:
            for line in stream.iter_lines():
                told += line
                if "process_completed" in line:
                    break
    return told + "".join(http.get(f"file={path}").text for path in re.findall(r'"path": ?"([^"]+)"', told))


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_action_reads_a_file_that_it_is_pointed_to(site: Site, wrapped: bool) -> None:
    """Every action of the page and of programs, with a file's path as each of its inputs."""
    path = str(site.folder / "recordings" / "link" / "secret.txt" if wrapped else site.folder / "secret.txt")
    file = {"path": path, "url": f"{site.address}gradio_api/file={path}", "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=f"{site.address}gradio_api/", timeout=120) as http:
        actions = http.get("../config").json()["dependencies"]
        for opened in [action for action in actions if action["api_name"] == "apply"]:
            actions += lay_out(http, opened["id"], secrets.token_hex(6))
        with ThreadPoolExecutor(4) as threads:
            told = list(threads.map(partial(answer_of, http, value=file if wrapped else path), actions))
    names = {action["api_name"] for action in actions}
    assert {"rollout", "ask", "add", "export", "preview", "ask_image", "run_rollout", "run", "replay"} <= names, names
    assert [action["api_name"] for action, said in zip(actions, told, strict=True) if SECRET in said] == []
    copies = Path(gr.utils.get_upload_folder()).rglob("secret*")
    assert [copy for copy in copies if copy.is_file() and SECRET in copy.read_text()] == []
    assert site.freed()


def test_no_server_function_of_a_widget_can_be_called(site: Site) -> None:
    for name in ("move_resource_to_block_cache", "make_temp_copy_if_needed", "get_config", "postprocess", "__init__"):
        body = {"component_id": "1", "data": "/etc/passwd", "fn_name": name, "session_hash": "x"}
        assert httpx.post(f"{site.address}gradio_api/component_server", json=body).status_code == 404


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/cron.d/x", "a" * 4000, "..", "\x00", "x.png\r\nX-A: 1"])
def test_an_uploads_name_chooses_no_folder(site: Site, name: str) -> None:
    before = sorted(site.folder.rglob("*.txt"))
    sent = Visitor(site.address).upload(b"GIF89a", name)
    assert sorted(site.folder.rglob("*.txt")) == before and (site.folder / "secret.txt").read_text() == SECRET
    assert sent is None or Path(sent["path"]).parent.parent == Path(gr.utils.get_upload_folder())


@pytest.mark.parametrize("link", ["../secret.txt", "%2e%2e%2fsecret", "/etc/passwd", "link", ".draft", "x" * 9000])
def test_a_link_opens_recordings_and_nothing_else(site: Site, link: str) -> None:
    answer = httpx.get(site.address, params={"run": link}, timeout=60)
    assert SECRET not in answer.text and "root:" not in answer.text
