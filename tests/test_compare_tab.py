"""Pairs: one frame clock, the same scene and noise in both arms, and figures that add up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.compare import Pair, Trial, add_up, arms_of, play_pair, record_vote
from app.controller import Simulator, ThinkingPolicy
from app.events import Command, Event, Frame, Outcome, SceneReady, ThoughtStarted
from app.recording import find
from app.sessions import Sessions
from app.steering import Steering
from app.views import compare as view
from app.views.compare import Tab, figures, layout, validate
from tests.test_controller import SPEC, FakePolicy, FakeSimulator
from tests.test_page_states import DrawnPool, DrawnSimulator, FakePilot

ON, OFF = "nano, thinking", "nano, not thinking"
REQUEST: Any = SimpleNamespace(session_hash="tab")
COMMANDS = [Command(SPEC, think, seed=11) for think in (True, False)]


class Silent(FakePolicy):
    thinking_due = property(lambda self: False)  # type: ignore[assignment]


def pair_of(simulators: Sequence[FakeSimulator], steering: Steering | None = None) -> list[tuple[int, Event]]:
    made: list[FakePolicy] = []

    def make(command: Command, simulator: Simulator) -> ThinkingPolicy:
        made.append(FakePolicy() if command.think else Silent())
        return made[-1]

    events = list(play_pair(COMMANDS, simulators, [make] * 2, steering or Steering()))
    assert [policy.seed for policy in made] == [11, 11] and len({policy.instruction for policy in made}) == 1
    return events


def test_two_simulators_share_one_frame_clock() -> None:
    steps = [0, 0]
    for side, event in pair_of([FakeSimulator(solved_at=4), FakeSimulator(solved_at=6)]):
        if isinstance(event, Frame):
            steps[side] = event.step
            assert abs(steps[0] - steps[1]) <= 1 or steps[0] == 4
    assert steps == [4, 6]


def test_one_simulator_plays_arm_after_arm_and_finds_the_same() -> None:
    alone = pair_of([FakeSimulator()])
    assert [side for side, _ in alone] == sorted(side for side, _ in alone)
    together = pair_of([FakeSimulator(), FakeSimulator()])
    for side in (0, 1):
        told = [[type(event) for s, event in events if s == side] for events in (alone, together)]
        assert told[0] == told[1]
    assert any(isinstance(event, ThoughtStarted) for side, event in alone if side == 0)
    assert not any(isinstance(event, ThoughtStarted) for side, event in alone if side == 1)


def test_an_arms_seconds_leave_out_the_other_arm() -> None:
    class Slow(FakeSimulator):
        def step(self, *arguments: Any, **options: Any) -> Any:
            threading.Event().wait(0.05)
            return super().step(*arguments, **options)

    events = pair_of([FakeSimulator(), Slow()])
    seconds = {side: event.seconds for side, event in events if isinstance(event, Outcome)}
    assert seconds[1] >= 0.2 > seconds[0]


@pytest.mark.parametrize("count", [1, 2])
def test_stop_ends_both_arms(count: int) -> None:
    steering, simulators, seen = Steering(), [FakeSimulator() for _ in range(count)], []
    for side, event in play_pair(COMMANDS, simulators, [lambda *_: Silent()] * 2, steering):
        seen.append((side, event))
        if isinstance(event, Frame) and event.step == 2:
            steering.halt()
    assert sum(isinstance(event, Frame) for _, event in seen) <= 4
    assert all(event.stopped for _, event in seen if isinstance(event, Outcome))
    assert count == 2 or not any(side == 1 for side, event in seen if isinstance(event, SceneReady))


def pairs(*results: tuple[bool, bool]) -> list[Pair]:
    trials = [(Trial(a, 20 + i, 2.0), Trial(b, 30, 1.0 + i)) for i, (a, b) in enumerate(results)]
    return [Pair("pick it up", i, both, (ON, OFF)) for i, both in enumerate(trials)]


def test_figures_match_the_textbook() -> None:
    result = add_up(pairs(*[(True, False)] * 6, (False, True), *[(True, True)] * 3))
    assert result.successes == (9, 4) and result.discordant == (6, 1)
    assert result.p == pytest.approx(2 * (1 + 7) / 2**7)  # exact binomial: 1 or fewer of 7, both tails
    assert result.intervals[0] == pytest.approx((0.5958, 0.9821), abs=1e-3)
    assert result.median_steps == (24.5, 30) and result.median_seconds == (2.0, 5.5)
    assert add_up(pairs((True, True))).p == 1.0
    html = figures(result)
    assert "9 of 10" in html and "60%\u201398%" in html and "p = 0.12" in html
    with pytest.raises(ValueError, match="no finished pair"):
        add_up([])


def test_votes_from_many_threads_are_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    threads = [threading.Thread(target=record_vote, args=(file, {"vote": "left", "n": n})) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(line)["n"] for line in file.read_text().splitlines()) == list(range(20))


class TwoOutcomes(DrawnPool):
    """Every second simulator never gets there."""

    def lease(self) -> FakeSimulator:
        self.out.append(DrawnSimulator(solved_at=4 if len(self.out) % 2 == 0 else 99))
        return self.out[-1]


def tab(recordings: Path, size: int = 2) -> tuple[Tab, view.Widgets, Sessions]:
    sessions, rival = Sessions(TwoOutcomes(), size=size), FakePilot()
    rival.name, rival.fingerprint = "rival", "beef0000"
    arms = arms_of([FakePilot(), rival])
    with gr.Blocks():
        widgets = layout(list(arms), (ON, OFF))
    return Tab(widgets, arms, sessions, recordings), widgets, sessions


def run(handlers: Tab, count: int, blind: bool = False, first: str = ON, second: str = OFF) -> Iterator[dict[Any, Any]]:
    return handlers.run("pick", 5, "", first, second, count, blind, [], REQUEST)


def test_pairs_are_counted_and_can_be_watched_again(tmp_path: Path) -> None:
    handlers, ui, sessions = tab(tmp_path / "recordings")
    updates: dict[Any, Any] = {}
    for update in run(handlers, 2):
        updates |= update
    played = updates[ui.played]
    assert [pair.seed for pair in played] == [5, 6] and updates[ui.seed] == 7 and sessions.holding == 0
    assert [trial.success for pair in played for trial in pair.trials] == [True, False] * 2
    assert "2 of 2" in updates[ui.figures] and len(updates[ui.pairs].samples) == 2
    again = handlers.replay(1, played)
    for side, (name, think) in enumerate((("left", True), ("right", False))):
        recording = find(played[1].trials[side].recording, tmp_path / "recordings")
        assert recording is not None and recording.about()["think"] is think
        assert " autoplay " in again[ui.videos[side]] and f'data-video="video-{name}"' in again[ui.timelines[side]]
    (tmp_path / "recordings" / played[1].trials[0].recording / "events.jsonl").unlink()
    assert "no longer here" in handlers.replay(1, played)[ui.status]


@pytest.mark.parametrize("coin", [0.1, 0.9])
def test_a_blind_pair_tells_nothing_before_the_vote(
    coin: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view.random, "random", lambda: coin)
    handlers, ui, _ = tab(tmp_path / "recordings")
    shown, updates = [], {}
    for update in run(handlers, 10, blind=True):
        assert update, "Gradio refuses an update of nothing"
        updates |= update
        shown += [str(update[w]) for w in (*ui.titles, *ui.lines, *ui.thoughts, ui.status, ui.figures) if w in update]
    assert not any("hinking" in text or "expert" in text or " s " in text for text in shown)
    assert ui.played not in updates and not updates[ui.run].interactive
    pending = updates[ui.pending]
    result = handlers.vote("left", [], pending)
    order = [text[4:-5] for text in (result[ui.titles[0]], result[ui.titles[1]])]
    assert order == ([OFF, ON] if coin < 0.5 else [ON, OFF])
    assert len(result[ui.played]) == 1 and result[ui.run].interactive
    assert "Scripted expert" in result[ui.thoughts[order.index(ON)]], "what was hidden shows now"
    (vote,) = (json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines())
    assert vote["vote"] == "left" and [vote["left"], vote["right"]] == order
    assert vote["fingerprints"] == ["0123abcd"] * 2
    assert ui.played not in handlers.vote("left", [], None), "a second click counts nothing"


def test_a_vote_that_cannot_be_kept_costs_one_line(tmp_path: Path) -> None:
    handlers, ui, _ = tab(tmp_path / "recordings")
    (tmp_path / "votes.jsonl").mkdir()
    pending = view.Pending(pairs((True, False))[0], (0, 1), ("", ""))
    result = handlers.vote("bad", [], pending)
    assert "could not be kept" in result[ui.status] and len(result[ui.played]) == 1


def test_a_stopped_pair_does_not_count(tmp_path: Path) -> None:
    handlers, ui, sessions = tab(tmp_path / "recordings", size=1)
    updates: dict[Any, Any] = {}
    for update in run(handlers, 5):
        updates |= update
        if ui.cameras[0] in update:
            handlers.stop(REQUEST)
    assert "does not count" in updates[ui.status] and ui.played not in updates
    assert updates[ui.run].interactive and sessions.holding == 0


def test_no_words_mean_each_scenes_own_and_bad_ones_are_refused() -> None:
    assert all(verdict["is_valid"] for verdict in validate("pick", 5, "", ON, OFF, 1, False, []))
    assert not validate("pick", 5, "?!", ON, OFF, 1, False, [])[2]["is_valid"]
    assert not validate("pick", -1, "", ON, OFF, 1, False, [])[1]["is_valid"]
    assert not validate("pick", 5, "", ON, ON, 1, False, [])[4]["is_valid"]


def test_two_models_are_compared_and_only_like_pairs_are_added_up(tmp_path: Path) -> None:
    handlers, ui, _ = tab(tmp_path / "recordings")
    updates: dict[Any, Any] = {}
    for update in run(handlers, 2, first=ON, second="rival, thinking"):
        updates |= update
    played = updates[ui.played]
    assert "nano, thinking" in updates[ui.titles[0]] and "rival, thinking" in updates[ui.titles[1]]
    ours, theirs = (find(trial.recording, tmp_path / "recordings") for trial in played[0].trials)
    assert ours is not None and theirs is not None
    assert (ours.about()["fingerprint"], theirs.about()["fingerprint"]) == ("0123abcd", "beef0000")
    for update in handlers.run("pick", 9, "", ON, OFF, 1, False, played, REQUEST):
        updates |= update
    assert len(updates[ui.pairs].samples) == 3 and "1 of 1" in updates[ui.figures], "the two kinds are not mixed"
    assert "rival, thinking" in handlers.replay(0, updates[ui.played])[ui.captions[1]]


def test_a_rival_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    rival = FakePilot("failed", "The rival could not be loaded.")
    rival.name = "rival"
    sessions, arms = Sessions(TwoOutcomes(), size=2), arms_of([FakePilot(), rival])
    with gr.Blocks():
        ui = layout(list(arms), (ON, "rival, thinking"))
    handlers = Tab(ui, arms, sessions, tmp_path)
    list(run(handlers, 1))
    assert not hasattr(rival, "started")
    said = [str(update[ui.status]) for update in run(handlers, 1, second="rival, thinking") if ui.status in update]
    assert rival.started and "The rival could not be loaded." in said[-1]
