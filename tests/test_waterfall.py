"""Where a step's time went: every millisecond once, in bars whose rows keep their place."""

from __future__ import annotations

import re

from app.events import Planned, StepTiming
from app.waterfall import PARTS, SHOWN, Waterfall


def of(*steps: tuple[dict[str, float], StepTiming]) -> Waterfall:
    waterfall = Waterfall()
    for plan, timing in steps:
        if plan:
            waterfall.add(Planned(plan, None))
        waterfall.add(timing)
    return waterfall


def test_every_millisecond_belongs_to_one_part() -> None:
    thinking = ({"think": 900.0, "plan": 80.0, "flow": 40.0}, StepTiming(1, 122.0, 60.0, 40.0, 5.0))
    plain = ({}, StepTiming(2, 0.1, 60.0, 40.0, 5.0))
    first, second = of(thinking, plain).steps
    assert list(first.parts) == list(PARTS) and first.parts["policy"] == 2.0 and first.parts["simulator"] == 15.0
    assert first.total == 900 + 122 + 60
    assert list(second.parts) == ["simulator", "render", "encode"], "a plan counts for its own step alone"


def test_the_rate_counts_thinking_beside_the_robots_own_clock() -> None:
    steps = [({"think": 500.0} if number == 1 else {}, StepTiming(number, 0.0, 100.0)) for number in range(1, 6)]
    assert of(*steps).pace() == "1.0 s simulated in 1.0 s: 5.0 steps/s, the robot\u2019s clock has 5"


def test_rows_keep_their_number_and_bars_their_proportion() -> None:
    empty, few = Waterfall(), of(({}, StepTiming(1, 0.0, 50.0, 25.0)), ({}, StepTiming(2, 0.0, 100.0)))
    many = of(*(({}, StepTiming(number, 0.0, 10.0)) for number in range(1, 30)))
    for waterfall in (empty, few, many):
        assert waterfall.html().count('class="row"') == SHOWN
    assert re.findall(r'class="(\w+)" style="width:([\d.]+)%"', few.html()) == [
        ("simulator", "25.00"), ("render", "25.00"), ("simulator", "100.00")
    ]  # fmt: skip
    assert "step 29" in many.html() and "step 21<" not in many.html()
