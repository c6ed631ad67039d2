"""The judge of the stress test: nothing is foreign on a page that works, and what is swapped is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.bench_crowd import by_scene, crowd, foreign_pictures, foreign_thoughts, replayed, thoughts
from app.recording import Recording
from app.visitor import Seen, Visitor, watch
from sim.worker import SimWorker
from tests.public_site import Site, public_site

MARKED = "tests.public_site:Marked"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with public_site(tmp_path_factory.mktemp("site")) as running:
        yield running


def test_a_page_that_works_shows_everyone_their_own(site: Site) -> None:
    told = crowd(site.address, site.folder / "recordings", count=3, world=MARKED)
    assert (told["served"], told["judged"], told["foreign pictures"], told["foreign thoughts"]) == (3, 3, 0, 0)
    assert told["pictures"] > 3 and told["thoughts"] == 3 and told["worded as nobody alone"] == 0
    assert told["grey levels from one's own, at most"] < 5 < told["from another's, at least"]


def test_pictures_and_thoughts_of_somebody_else_are_found(site: Site) -> None:
    wishes: list[dict[str, Any]] = [
        {"family": "open", "seed": 1_000_300, "words": "open it"},
        {"family": "pick", "seed": 1_000_301, "words": "lift it"},
    ]
    before = by_scene(site.folder / "recordings")
    seen = [watch(Visitor(site.address), **wish) for wish in wishes]
    made = by_scene(site.folder / "recordings", besides=before.values())
    records = [made[wish["seed"]] for wish in wishes]
    with SimWorker(world=MARKED) as worker:
        rollouts = [replayed(record, worker) for record in records]
    assert foreign_pictures(seen, rollouts)["foreign pictures"] == 0
    mixed = seen[0].frames | {2: seen[1].frames[2]}
    swapped = [Seen(frames=mixed, thoughts=seen[0].thoughts), seen[1]]
    assert foreign_pictures(swapped, rollouts)["foreign pictures"] == 1
    assert [thoughts(record) for record in records] == [["open it"], ["lift it"]]

    def foreign(seen: list[Seen], alone: list[Recording]) -> int:
        count: int = foreign_thoughts(list(zip(seen, records, alone, strict=True)))["foreign thoughts"]
        return count

    assert foreign(seen, records) == 0
    assert foreign(seen, records[::-1]) == 2, "the model mixed up whom it answers"
    assert foreign(seen[::-1], records) == 2, "the page did"


def test_a_thought_that_rounding_changed_is_nobodys(site: Site) -> None:
    watch(Visitor(site.address), family="open", seed=1_000_310, words="open it")
    watch(Visitor(site.address), family="open", seed=1_000_311, words="pull it")
    records = by_scene(site.folder / "recordings")
    own, other = records[1_000_310], records[1_000_311]
    seen = watch(Visitor(site.address), family="open", seed=1_000_312, words="open it")
    told = foreign_thoughts([(seen, own, other)])
    assert (told["thoughts"], told["foreign thoughts"], told["worded as nobody alone"]) == (1, 0, 1)
