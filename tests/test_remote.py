"""A model behind HTTP: rollouts as at home, and hostile messages answered by a clean 4xx."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import torch
import uvicorn
from websockets.sync.client import connect

from app import remote
from app.model_server import application
from app.remote import RemoteEngine, RemotePolicy, engine_of, is_address
from app.wire import MAX_MESSAGE, QUESTION, REPLY, Act, Picture, Question, Refused, Reset, Seen, pack, unpack
from model.batching import Batcher
from model.instructvla import InstructVLA
from model.policy import EXECUTE, InstructPolicy
from model.prompts import Prompter
from sim.interface import Image, Observation
from sim.process import JpegObservation, encode_jpeg
from tests.tiny import TINY, byte_tokenizer, observation, statistics

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


class TinyEngine:
    """As `model.engine.Engine`, with the tiny model; its answers repeat the question."""

    name = "tiny"
    pictures = 4

    def __init__(self, batch: int = 1) -> None:
        torch.manual_seed(0)
        self.model = InstructVLA(TINY).eval()
        for parameter in self.model.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if parameter.abs().sum() == 0 else None
        self.lock = threading.Lock()
        self.batcher = Batcher(self.model, self.lock, batch)

    def policy(self, think: bool) -> InstructPolicy:
        prompter = Prompter(byte_tokenizer(), TINY)
        return InstructPolicy(
            self.model, prompter, statistics(), think=think, lock=self.lock, batcher=self.batcher
        )

    def ask(
        self, image: Image | Sequence[Image], question: str, history: Sequence[tuple[str, str]] = ()
    ) -> Iterator[str]:
        if "nothing" in question:
            raise ValueError("There is nothing to say.")
        if "bug" in question:
            raise KeyError("secret")
        yield from (f"{word} " for word in question.split())
        images = [image] if isinstance(image, np.ndarray) else image
        yield " ".join(f"{each.mean():.3f}" for each in images) + f" {history}"
        if "halfway" in question:
            raise ValueError("The model lost its thread.")

    def describe(self) -> str:
        return "a tiny model"

    def fingerprint(self) -> str:
        return "f" * 64


@contextmanager
def served(engine: Any, **options: Any) -> Iterator[str]:
    """The engine on a free port of this machine, without Ray."""
    config = uvicorn.Config(application(engine, **options), port=0, log_level="critical", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def local() -> TinyEngine:
    return TinyEngine()


@pytest.fixture(scope="module")
def address(local: TinyEngine) -> Iterator[str]:
    with served(local) as address:
        yield address


def rollout(policy: Any, steps: int = 2 * EXECUTE + 5) -> list[Any]:
    """Everything a caller can see of a rollout that thinks where it is due."""
    policy.reset("pick up the cube", 3)
    seen: list[Any] = []
    for step in range(steps):
        look = observation(step, image=policy.needs_image)
        if policy.thinking_due:
            for piece in policy.think(look):
                seen.append((piece, policy.gate))
        seen.append((policy.act(look).tolist(), policy.focus, policy.heat, policy.thought, sorted(policy.timings)))
        seen.append((policy.needs_image, policy.thinking_due))
    return seen


@pytest.mark.parametrize("think", [False, True])
def test_a_rollout_is_the_same_as_at_home(local: TinyEngine, address: str, think: bool) -> None:
    assert rollout(RemoteEngine(address).policy(think)) == rollout(local.policy(think))


def test_rollouts_at_the_same_time_do_not_meet(local: TinyEngine, address: str) -> None:
    expected = rollout(local.policy(True))
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(rollout(RemotePolicy(address, True)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3


def test_the_cameras_jpeg_travels_as_it_is(local: TinyEngine, address: str) -> None:
    jpeg = encode_jpeg(observation(4).image)
    look = JpegObservation(jpeg, np.linspace(-1, 1, 8, dtype=np.float32), 4)
    assert Seen.of(look).picture == Picture(jpeg=jpeg)
    policies = local.policy(False), RemotePolicy(address, False)
    for policy in policies:
        policy.reset("pick up the cube")
    np.testing.assert_array_equal(*(policy.act(look) for policy in policies))


def test_steering_reaches_the_model(local: TinyEngine, address: str) -> None:
    policies = local.policy(True), RemotePolicy(address, True)
    seen: list[list[Any]] = [[], []]
    for policy, log in zip(policies, seen, strict=True):
        policy.reset("pick up the cube")
        log.append(policy.act(observation(0)).tolist())
        policy.instruct("open the top drawer")
        log.append(policy.needs_image)
        policy.rethink(observation(1), "take the plum")
        log += [policy.thinking_due, policy.thought, policy.act(observation(1)).tolist()]
        with pytest.raises(ValueError, match="shorten"):
            policy.rethink(observation(2), "word " * 100)
        log.append(policy.act(observation(2, image=False)).tolist())
    assert seen[0] == seen[1]


def test_stop_ends_the_thought_and_the_rollout_can_go_on(address: str) -> None:
    policy = RemotePolicy(address, True)
    whole = list(policy.think(observation(0)))
    policy.reset("")
    heard: list[str] = []
    for piece in policy.think(observation(0), should_stop=lambda: len(heard) >= 1):
        heard.append(piece)
    assert len(heard) <= len(whole)
    next(iter(policy.think(observation(0))), None)  # broken off without a word
    assert policy.act(observation(0)).shape == (7,)


def test_batched_rollouts_differ_by_rounding_alone(local: TinyEngine) -> None:
    """Two rollouts that want actions at the same moment, sampled in one pass."""
    batched = TinyEngine(batch=4)
    widths: list[int] = []
    act = batched.model.act
    batched.model.act = lambda trunk, *rest: (widths.append(len(trunk)), act(trunk, *rest))[1]  # type: ignore[method-assign]
    inputs = [torch.randn(1, *shape) for shape in ((9, 32), (3, 48), (8,), (16, 7))]
    trunk = local.model.vision.trunk(torch.zeros(1, 3, 28, 56)).detach()
    inputs = [trunk, inputs[1], inputs[2], torch.randn(1, TINY.action.chunk, 7)]
    others = [value + 0.1 for value in inputs]
    results: dict[int, Any] = {}
    with batched.lock:  # the model is busy: both have to wait, and are then taken together
        threads = [
            threading.Thread(target=lambda i=i, x=x: results.update({i: batched.batcher.act(*x)}))
            for i, x in enumerate((inputs, others))
        ]
        for thread in threads:
            thread.start()
        while len(batched.batcher._waiting) < 2:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert widths == [2]
    for i, x in enumerate((inputs, others)):
        for together, alone in zip(results[i], local.batcher.act(*x), strict=True):
            torch.testing.assert_close(together, alone, atol=0.02, rtol=0.02)  # bfloat16


def test_a_failing_batch_fails_for_everybody_in_it(local: TinyEngine) -> None:
    with pytest.raises(RuntimeError):
        local.batcher.act(torch.zeros(1, 2, 3), *[torch.zeros(1, 1)] * 3)


# -- questions --------------------------------------------------------------------------------------------------------


def test_answers_stream_piece_by_piece(address: str) -> None:
    engine = RemoteEngine(address).wait()
    image = observation(0).image
    assert image is not None
    assert list(engine.ask(image, "is it red?", history=[("a", "b")])) == [
        "is ", "it ", "red? ", f"{image.mean():.3f} [('a', 'b')]"
    ]  # fmt: skip
    dark = np.zeros((8, 9, 3), np.uint8)
    assert engine.pictures == 4 and list(engine.ask([image, dark], "which?"))[-1] == f"{image.mean():.3f} 0.000 []"
    heard: list[str] = []
    for piece in engine.ask(image, "one two three", should_stop=lambda: bool(heard)):
        heard.append(piece)
    assert heard == ["one "]
    assert engine.describe() == f"a tiny model (on {address})" and engine.fingerprint() == "f" * 64


@pytest.mark.parametrize(
    ("question", "sentence"),
    [("nothing", "There is nothing to say"), ("bug", "Something broke"), ("halfway", "lost its thread")],
)
def test_what_goes_wrong_there_is_one_sentence_here(
    address: str, question: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = observation(0).image
    assert image is not None
    with pytest.raises(ValueError, match=sentence) as caught:
        list(RemoteEngine(address).ask(image, question))
    assert "secret" not in str(caught.value)


# -- hostile messages -------------------------------------------------------------------------------------------------

SEEN: dict[str, Any] = {"proprio": [0.0] * 8, "step": 0, "picture": {"height": 8, "width": 8, "rgb": bytes(192)}}
JPEG = encode_jpeg(np.zeros((8, 8, 3), np.uint8))


def act(**changes: Any) -> bytes:
    packed: bytes = msgpack.packb({"op": "act", "seen": SEEN | changes})
    return packed


HOSTILE: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "text": (b"hello", 400),
    "pickle": (pickle.dumps({"op": "act"}), 400),
    "half a message": (act()[:100], 400),
    "deep": (b"\x91" * 5000, 400),
    "many parts": (b"\xdc\x00\x64" + 100 * (b"\xdc\x00\x64" + 100 * b"\x80"), 400),
    "claims four gigabytes": (b"\xc6\xff\xff\xff\xff", 400),
    "huge": (bytes(MAX_MESSAGE + 1), 413),
    "unknown op": (msgpack.packb({"op": "eval"}), 422),
    "unknown name": (act(code="1"), 422),
    "missing": (msgpack.packb({"op": "act"}), 422),
    "short proprio": (act(proprio=[0.0] * 7), 422),
    "NaN": (act(proprio=[float("nan")] * 8), 422),
    "infinity": (act(proprio=[float("inf")] * 8), 422),
    "words for numbers": (act(proprio=["0"] * 8), 422),
    "negative step": (act(step=-1), 422),
    "wrong size": (act(picture={"height": 8, "width": 9, "rgb": bytes(192)}), 422),
    "wide": (act(picture={"height": 8, "width": 10**9, "rgb": b""}), 422),
    "no size": (act(picture={"rgb": bytes(192)}), 422),
    "two pictures": (act(picture=SEEN["picture"] | {"jpeg": JPEG}), 422),
    "no jpeg": (act(picture={"jpeg": b"\x89PNG"}), 422),
    "cut jpeg": (act(picture={"jpeg": encode_jpeg(np.zeros((400, 400, 3), np.uint8))[:700]}), 422),
    "large jpeg": (act(picture={"jpeg": encode_jpeg(np.zeros((8, 4000, 3), np.uint8))}), 413),
    "long instruction": (msgpack.packb({"op": "reset", "instruction": "x" * 2001, "seed": 0}), 422),
    "large seed": (msgpack.packb({"op": "reset", "instruction": "x", "seed": 2**63}), 422),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_orders_are_refused_and_the_rollout_goes_on(address: str, name: str) -> None:
    data, status = HOSTILE[name]
    with connect(address.replace("http", "ws") + "/rollout", compression=None, max_size=None) as socket:
        socket.recv(timeout=30)
        socket.send(data)
        problem = msgpack.unpackb(socket.recv(timeout=30))
        assert problem["status"] == status and problem["error"].endswith(".") and "\n" not in problem["error"]
        socket.send(pack(Reset(instruction="pick up the cube", seed=0)))
        assert msgpack.unpackb(socket.recv(timeout=30))["needs_image"]
        socket.send(pack(Act(seen=Seen.of(observation(0)))))
        assert len(msgpack.unpackb(socket.recv(timeout=30))["action"]) == 7


QUESTIONS: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "pickle": (pickle.dumps(SEEN), 400),
    "huge": (bytes(MAX_MESSAGE + 1), 413),
    "no question": (msgpack.packb({"picture": SEEN["picture"], "question": ""}), 422),
    "wrong size": (msgpack.packb({"picture": {"height": 9, "width": 8, "rgb": b""}, "question": "?"}), 422),
    "odd history": (msgpack.packb({"picture": SEEN["picture"], "question": "?", "history": [["a"]]}), 422),
    "a file": (msgpack.packb({"picture": "/etc/passwd", "question": "?"}), 422),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_hostile_questions_get_a_clean_4xx(address: str, name: str) -> None:
    data, status = QUESTIONS[name]
    answer = httpx.post(f"{address}/ask", content=data)
    assert answer.status_code == status
    problem = msgpack.unpackb(answer.content)
    assert problem["status"] == status and problem["error"].endswith(".") and "\n" not in problem["error"]


def test_random_bytes_are_never_a_bug() -> None:
    generator = np.random.default_rng(0)
    whole = pack(Question(picture=Picture.of(np.zeros((8, 8, 3), np.uint8)), question="what?"))
    for _ in range(500):
        data = np.frombuffer(whole, np.uint8).copy()
        data[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
        for kind in (QUESTION, REPLY):
            try:
                unpack(kind, data.tobytes())
            except Refused as refused:
                assert 400 <= refused.status < 500


# -- what can go wrong on the way -------------------------------------------------------------------------------------


def test_a_silent_rollout_is_ended(local: TinyEngine) -> None:
    with served(local, idle_s=0.2) as address:
        policy = RemotePolicy(address, False)
        time.sleep(0.6)
        with pytest.raises(ValueError, match=r"run the rollout again|cannot be reached"):
            policy.reset("pick up the cube")


def test_a_model_that_was_never_taught_to_act_says_so() -> None:
    class Aligned(TinyEngine):
        def policy(self, think: bool) -> InstructPolicy:
            raise ValueError("It has not been taught to act.")

    with served(Aligned()) as address, pytest.raises(ValueError, match="not been taught to act"):
        RemoteEngine(address).policy(True)


def test_a_server_that_goes_away_is_one_sentence() -> None:
    with served(TinyEngine()) as address:
        policy = RemotePolicy(address, False)
        policy.reset("pick up the cube")
    with pytest.raises(ValueError, match="cannot be reached"):
        policy.act(observation(0))
    with pytest.raises(ValueError, match="cannot be reached"):
        RemotePolicy(address, False)


def test_no_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.1)
    engine = engine_of("http://127.0.0.1:9")
    assert isinstance(engine, RemoteEngine) and "loading" in engine.describe()
    with pytest.raises(RuntimeError, match="serve-model"):
        engine.wait()
    assert engine.state == "failed"


def test_addresses_are_told_from_names() -> None:
    assert is_address("http://127.0.0.1:8000") and is_address("https://models.example/nano")
    assert not is_address("nano") and not is_address("owner/http")


def test_connections_are_closed_with_their_policies(address: str) -> None:
    before = threading.active_count()
    for _ in range(3):
        RemotePolicy(address, False).reset("pick up the cube")
    deadline = time.monotonic() + 20
    while threading.active_count() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before + 1


def test_an_observation_survives_the_way() -> None:
    numbers = np.array([0.1, 1e-9, -3, 1 / 3, 0, 1, 2, 3], np.float32)
    look = Observation(observation(3).image, numbers, 7, numbers[::-1])
    back = Seen.of(look).observation()
    np.testing.assert_array_equal(back.image, look.image)
    np.testing.assert_array_equal(back.proprio, look.proprio)
    np.testing.assert_array_equal(back.measured, numbers[::-1])
    assert Seen.of(Observation(None, numbers, 7)).observation().measured is None
    assert back.step == 7 and Seen.of(look, image=False).observation().image is None
