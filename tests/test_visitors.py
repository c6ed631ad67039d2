"""A really launched page and visitors without browsers: nobody sees another's rollout, and whoever leaves frees all."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import PIL.Image
import pytest
from gradio_client import Client

from app import page as front
from app import pictures, scenes
from app.bench_pictures import strange_pictures
from app.controller import Simulator, ThinkingPolicy
from app.health import typical_seconds
from app.pilots import Expert, Turn
from app.sessions import Sessions
from app.settings import Settings
from app.visitor import Visitor, watch
from sim.interface import Image, Observation
from sim.process import encode_jpeg
from sim.twins import Scene
from sim.worker import WorkerPool
from tests import fake_world
from tests.fake_world import FakeWorld
from tests.test_page_states import FakePilot

SIZE = (32, 24)
SECRET = "nobody may read this"


class Talker(Expert):
    """Thinks what it was told, word by word."""

    def reset(self, instruction: str, seed: int = 0) -> None:
        self.words = instruction.split(" ")

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        self.thinking_due = False
        for word in self.words:
            time.sleep(0.02)  # slower than those who watch, also on a busy machine
            yield f"{word} "


@dataclass
class Endless:
    """An answer that nobody ends but the listener."""

    words: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                self.words += 1
                yield "and "
                time.sleep(0.02)
        finally:
            self.ended.set()


class TalkingPilot(FakePilot):
    """Its policies think what they were told; "and?" is answered without end."""

    def __init__(self) -> None:
        super().__init__()
        self.endless = Endless()

    def policy(self, simulator: Simulator, spec: Scene, think: bool) -> ThinkingPolicy:
        return Talker(simulator, spec, think)

    def ask(self, image: Image, question: str, history: Sequence[Turn] = ()) -> Iterator[str]:
        if question == "and?":
            self.endless = Endless()
            return iter(self.endless)
        return super().ask(image, question, history)


@dataclass
class Site:
    """A page, and what is behind it."""

    address: str
    sessions: Sessions
    pilot: TalkingPilot
    folder: Path

    def records(self) -> list[str]:
        """Names of what was recorded so far."""
        return sorted(path.name for path in (self.folder / "recordings").glob("2*"))

    def freed(self) -> bool:
        """Whether every simulator is free, soon."""
        until = time.monotonic() + 60
        while self.sessions.holding and time.monotonic() < until:
            time.sleep(0.05)
        return self.sessions.holding == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two simulators, each a process with a world of one moving point, whose frames tell scene and step."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "secret.txt").write_text(SECRET)
    recordings = folder / "recordings"
    recordings.mkdir()
    (recordings / "kept").mkdir()
    (recordings / "kept" / "events.jsonl").write_text('{"type": "Recording"}')
    (recordings / "link").symlink_to(folder)
    pilot = TalkingPilot()
    with WorkerPool(2, SIZE, world="tests.test_visitors:Marked") as pool:
        sessions = Sessions(pool, size=2)
        page = front.build(pilot, sessions, recordings, Settings())
        address = front.launch(page, "127.0.0.1", None, recordings, Settings())
        yield Site(address, sessions, pilot, folder)
        page.close()


class Marked(FakeWorld):
    """Frames that show the seed and the step."""

    def observe(self, render: bool = True) -> Observation:
        observation = super().observe(render)
        if observation.image is not None:
            marks = np.random.default_rng([self.seed, observation.step]).integers(0, 255, 3, np.uint8)
            observation.image[:] = marks
        return observation

    def reset(self, spec: Any, render: bool = True) -> Observation:
        self.seed = spec.seed
        return super().reset(spec, render)


def frames(kind: str, seed: int) -> list[bytes]:
    """A rollout's frames, from a world that nobody else uses."""
    world = Marked(SIZE)
    looks = [world.reset(scenes.spec(kind, seed))]
    done = False
    while not done:
        result = world.step(world.expert_action())
        looks.append(result.observation)
        done = result.done
    return [encode_jpeg(look.image) for look in looks]  # type: ignore[arg-type]


def test_eight_visitors_at_once_see_their_own_rollouts_only(site: Site) -> None:
    kinds = list(scenes.FAMILIES.values())
    wishes = [{"family": kinds[n % 7], "seed": 1_000_000 + 37 * n, "words": f"do number{n} now"} for n in range(8)]
    visitors = [Visitor(site.address) for _ in wishes]
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda pair: watch(pair[0], **pair[1]), zip(visitors, wishes, strict=True)))
    for number, (got, wish) in enumerate(zip(seen, wishes, strict=True)):
        assert "Success" in got.status, got.status
        assert re.findall(r"number\d", got.thoughts) == [f"number{number}"]
        expected = frames(wish["family"], wish["seed"])  # type: ignore[arg-type]
        assert got.frames == dict(enumerate(expected)), "its own, to the byte"
    told = [visitor.place for visitor in visitors if visitor.place is not None]
    assert max(told) >= 5, "six of eight wait for two simulators, and are told their place"
    assert site.freed()


def waits_of(address: str, count: int) -> list[Visitor]:
    """So many visitors, after their rollouts, which they began at the same moment."""
    visitors = [Visitor(address) for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(watch, visitors))
    return visitors


def test_the_first_visitors_after_a_start_are_told_how_long_they_will_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the rollouts before the start took, whose recordings tell; measured since, that is forgotten."""
    assert 1 < (typical_seconds(tmp_path) or 0) < 60, "the shipped ones"
    for name, seconds in (("20260101-000000", 90.0), ("20260102-000000", 110.0), ("20260103-000000", None)):
        (tmp_path / name).mkdir()
        outcome = {"type": "Outcome", "success": True, "rule": "", "steps": 9, "seconds": seconds}
        (tmp_path / name / "events.jsonl").write_text(json.dumps(outcome) if seconds else "no record")
    assert typical_seconds(tmp_path) == 100.0
    with WorkerPool(1, SIZE, world=fake_world.PATH) as pool:
        page = front.build(FakePilot(), Sessions(pool, 1), tmp_path, Settings())
        address = front.launch(page, "127.0.0.1", None, tmp_path, Settings())
        waited = [visitor.expected for visitor in waits_of(address, 3) if visitor.place is not None]
        assert waited and min(waited) >= 100, waited
        page.close()
    measured = [spent for fn, spent in page._queue.process_time_per_fn.items() if fn.api_name == "rollout"]
    assert [spent.count for spent in measured] == [3] and measured[0].avg_time < 100
    monkeypatch.setattr("app.health.shipped_examples", list)
    assert typical_seconds(tmp_path / "elsewhere") is None


def test_later_visitors_are_told_how_long_they_will_wait(site: Site) -> None:
    """As long as the rollouts since the start took."""
    watch(Visitor(site.address))
    assert any(visitor.expected for visitor in waits_of(site.address, 5))


def test_a_full_queue_is_said(site: Site) -> None:
    visitor = Visitor(site.address)
    with pytest.MonkeyPatch.context() as patch:
        from gradio.queueing import Queue

        async def full(*_: Any, **__: Any) -> tuple[bool, str, str]:
            return False, "Queue is full. Max size is 32.", "queue_full"

        patch.setattr(Queue, "push", full)
        assert list(visitor.fire("run")) == []
    assert "Queue is full" in visitor.error


@pytest.mark.parametrize("leave", ["tab", "stream"])
def test_a_visitor_who_leaves_frees_the_simulator(site: Site, leave: str) -> None:
    visitor, before = Visitor(site.address), site.records()
    with visitor.open():
        assert httpx.get(f"{site.address}health", timeout=60).json()["visitors"] == 1
        running = visitor.fire("run", words="go slowly " * 30)  # thinks for sixty words
        while "thoughts" not in next(running):
            pass
        assert site.sessions.holding == 1
        if leave == "stream":
            running.close()  # type: ignore[attr-defined]
            assert site.freed()
            assert site.records() == before, "nobody is there to be shown the recording"
    if leave == "tab":
        ends = [update["status"] for update in running if "status" in update]
        assert "Stopped" in ends[-1] and "<span>0 steps</span>" in ends[-1], "it was still thinking"
        assert site.freed()


def test_a_program_that_hangs_up_frees_the_simulator(site: Site) -> None:
    body = {"data": ["open", 1_000_003, "go slowly " * 30, True]}
    call = f"{site.address}gradio_api/call/run_rollout"
    event = httpx.post(call, json=body, timeout=60).raise_for_status().json()["event_id"]
    with httpx.stream("GET", f"{call}/{event}", timeout=60) as stream:
        next(line for line in stream.iter_lines() if "ThoughtToken" in line)
        assert site.sessions.holding == 1
    assert site.freed()


def test_an_answer_ends_with_its_tab(site: Site, tmp_path: Path) -> None:
    visitor = Visitor(site.address)
    picture = visitor.upload(base64.b64decode(GOOD))
    running = visitor.fire("ask-button", picture=picture, question="and?")
    for _ in range(3):
        next(running)
    running.close()  # type: ignore[attr-defined]
    visitor.close()
    assert site.pilot.endless.ended.wait(60), "the model would write for ever"


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


def answer_of(http: httpx.Client, action: dict[str, Any], value: Any) -> str:
    """Everything an action of the page answers when each of its inputs is `value`, with the files that it names."""
    tab = secrets.token_hex(6)
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
        with ThreadPoolExecutor(4) as threads:
            told = list(threads.map(partial(answer_of, http, value=file if wrapped else path), actions))
    names = {action["api_name"] for action in actions}
    assert {"rollout", "ask", "add", "export", "preview", "ask_image", "run_rollout"} <= names, names
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
