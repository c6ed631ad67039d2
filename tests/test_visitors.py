"""A really launched page and visitors without browsers: nobody sees another's rollout, and whoever leaves frees all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import page as front
from app import scenes
from app.bench_pictures import strange_pictures
from app.health import ANSWER_S, typical_seconds
from app.sessions import Sessions
from app.settings import Settings
from app.views.ask import MODEL_QUEUE
from app.visitor import Visitor, watch
from sim.process import encode_jpeg
from sim.worker import WorkerPool
from tests import fake_world
from tests.public_site import SIZE, Marked, Site, public_site
from tests.test_page_states import FakePilot


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with public_site(tmp_path_factory.mktemp("site")) as running:
        yield running


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
        answers = [spent for fn, spent in page._queue.process_time_per_fn.items() if fn.concurrency_id == MODEL_QUEUE]
        assert {spent.avg_time for spent in answers} == {ANSWER_S}, "and who asks is told too"
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
        while "slowly" not in str(next(running).get("thoughts")):
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
    picture = visitor.upload(strange_pictures()["turned by EXIF"])
    running = visitor.fire("ask-button", picture=picture, question="and?")
    for _ in range(3):
        next(running)
    running.close()  # type: ignore[attr-defined]
    visitor.close()
    assert site.pilot.endless.ended.wait(60), "the model would write for ever"
