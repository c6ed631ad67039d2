"""Who holds which simulator: one per tab, limits, clean-up."""

from __future__ import annotations

import threading

import pytest

from app.sessions import Busy, Sessions
from tests.test_controller import FakeSimulator


class FakePool:
    """Hands out fresh simulators and counts."""

    def __init__(self) -> None:
        self.out: list[FakeSimulator] = []

    def lease(self) -> FakeSimulator:
        self.out.append(FakeSimulator())
        return self.out[-1]

    def release(self, worker: FakeSimulator) -> None:
        self.out.remove(worker)


def test_a_simulator_comes_back_after_use_even_after_an_error() -> None:
    pool = FakePool()
    sessions = Sessions(pool, size=1)
    with sessions.hold("a") as hold:
        assert pool.out == [hold.simulator] and sessions.holding == 1
    with pytest.raises(RuntimeError, match="oops"), sessions.hold("a"):
        raise RuntimeError("oops")
    assert pool.out == [] and sessions.holding == 0


def test_two_tabs_never_share_and_a_third_gets_a_plain_line() -> None:
    sessions = Sessions(FakePool(), size=2, wait_s=0.05)
    with sessions.hold("a") as a, sessions.hold("b") as b:
        assert a.simulator is not b.simulator
        with pytest.raises(Busy, match="All 2 simulators are in use"), sessions.hold("c"):
            pass
    with sessions.hold("c"):
        pass


def test_stop_reaches_only_its_own_tab() -> None:
    sessions = Sessions(FakePool(), size=2)
    with sessions.hold("a") as a, sessions.hold("b") as b:
        sessions.stop("a")
        sessions.stop("nobody")
        assert a.steering.stop.is_set() and not b.steering.stop.is_set()


def test_a_new_run_of_a_tab_stops_its_old_one() -> None:
    sessions = Sessions(FakePool(), size=1)
    holding, order = threading.Event(), []

    def old_run() -> None:
        with sessions.hold("a") as hold:
            holding.set()
            assert hold.steering.stop.wait(10)
            order.append("old stopped")

    thread = threading.Thread(target=old_run)
    thread.start()
    assert holding.wait(10)
    with sessions.hold("a") as hold:
        order.append("new runs")
        assert not hold.steering.stop.is_set()
    thread.join(10)
    assert order == ["old stopped", "new runs"]


def test_a_pair_gets_two_simulators_where_two_are_free_and_one_otherwise() -> None:
    pool = FakePool()
    sessions = Sessions(pool, size=2, wait_s=0.05)
    with sessions.hold("a", wanted=2) as a:
        assert len(a.simulators) == 2 and a.simulator is a.simulators[0] and sessions.holding == 2
        with pytest.raises(Busy), sessions.hold("b"):
            pass
    with sessions.hold("b"), sessions.hold("a", wanted=2) as a:
        assert len(a.simulators) == 1
    assert pool.out == [] and sessions.holding == 0


def test_orders_reach_the_tabs_own_rollout() -> None:
    sessions = Sessions(FakePool(), size=2)
    with sessions.hold("a") as a, sessions.hold("b") as b:
        assert sessions.steer("a", "instruct", "stop there") and not sessions.steer("nobody", "pause")
        assert b.steering.take() is None
        order = a.steering.take()
        assert order is not None and order.text == "stop there"


def test_a_lease_ends_by_itself() -> None:
    sessions = Sessions(FakePool(), size=1, lease_s=0.05)
    with sessions.hold("a") as hold:
        assert hold.steering.stop.wait(10)


def test_a_pool_that_cannot_lend_leaves_no_trace() -> None:
    class BrokenPool(FakePool):
        def lease(self) -> FakeSimulator:
            raise RuntimeError("no simulator")

    sessions = Sessions(BrokenPool(), size=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no simulator"), sessions.hold("a"):
            pass
    assert sessions.holding == 0
