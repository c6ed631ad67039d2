"""Compare tab: the same scenes driven by two arms, side by side, one pair after the other."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import scenes
from app.compare import Arm, Comparison, Pair, Trial, add_up, arms_of, play_pair, record_vote
from app.events import Command, Event, Failure, Frame, Outcome, SceneReady
from app.pilots import Pilot, Scripted, problem_when_loaded
from app.recording import Recorder, RecordingError, find
from app.sessions import Busy, Hold, Sessions
from app.timeline import timeline
from app.views.compare_layout import SIDES, VOTES, Widgets, heading, layout
from app.views.layout import caption_of
from app.views.screen import Screen, failure, status, thoughts_hint
from app.views.widgets import FINE, HIDDEN, SIMULATOR_QUEUE, Updates, camera_picture, player
from sim.worker import WorkerError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """A blind pair that waits for its vote: `sides` are indices of its arms, `thoughts` what was hidden; left first."""

    pair: Pair
    sides: tuple[int, int]
    thoughts: tuple[str, str]


def build(pilot: Pilot, against: Pilot | None, sessions: Sessions, recordings: Path) -> None:
    """Lay out the tab and wire it up; whoever drives the page can be compared with itself, a rival, and the expert."""
    pilots = [pilot] if against is None else [pilot, against]
    arms = arms_of(pilots if any(isinstance(one, Scripted) for one in pilots) else [*pilots, Scripted()])
    names = list(arms)
    ui = layout(names, (names[0], names[1] if against is None else names[2]))
    tab = Tab(ui, arms, sessions, recordings)
    halves = [*ui.titles, *ui.cameras, *ui.lines, *ui.thoughts]
    buttons = [ui.run, ui.stop, *ui.votes.values()]
    results = [ui.status, ui.figures, ui.pairs, ui.played, ui.pending]
    ui.run.click(
        tab.run,
        [ui.family, ui.seed, ui.words, *ui.chosen, ui.count, ui.blind, ui.played],
        [*halves, *buttons, *results, ui.seed],
        validator=validate,
        trigger_mode="once",
        concurrency_id=SIMULATOR_QUEUE,
        concurrency_limit=sessions.size,
        show_progress="minimal",  # the place in the queue
        show_progress_on=[ui.status],
        api_visibility="private",
    )
    ui.stop.click(tab.stop, None, ui.stop, queue=False, **HIDDEN)
    ui.blind.input(lambda blind: gr.Radio(value=1, interactive=not blind), ui.blind, ui.count, **HIDDEN)
    for name, button in ui.votes.items():
        chosen = gr.State(name)
        told = [*ui.titles, *ui.thoughts, *buttons, *results]
        button.click(tab.vote, [chosen, ui.played, ui.pending], told, **HIDDEN)
    ui.pairs.click(tab.replay, [ui.pairs, ui.played], [*ui.videos, *ui.timelines, *ui.captions, ui.status], **HIDDEN)


class Tab:
    """The handlers: each takes what the visitor chose and gives back what changes on the page."""

    def __init__(self, ui: Widgets, arms: Mapping[str, Arm], sessions: Sessions, recordings: Path) -> None:
        self._ui = ui
        self._by_name = arms
        self._sessions = sessions
        self._recordings = recordings

    def run(
        self,
        kind: str,
        seed: float,
        words: str,
        first: str,
        second: str,
        count: int,
        blind: bool,
        played: list[Pair],
        request: gr.Request,
    ) -> Generator[Updates, None, None]:
        """Play `count` pairs on consecutive scenes and add them up as they finish; a blind one waits for its vote."""
        ui, seed = self._ui, int(seed)
        arms = (self._by_name[first], self._by_name[second])
        yield {ui.run: gr.Button(interactive=False), ui.stop: gr.Button(interactive=True)}
        rounds = 1 if blind else int(count)
        for number in range(rounds):
            sides = (1, 0) if blind and random.random() < 0.5 else (0, 1)
            line = status(f"Pair {number + 1} of {rounds}", f"scene {seed}")
            yield {ui.status: line, **self._arms(arms, sides, blind)}
            duel = Duel(arms, self._recordings, sides, blind)
            try:
                with self._sessions.hold(request.session_hash or "", wanted=2) as hold:
                    if "loading" in [arm.pilot.state for arm in arms]:
                        yield {ui.status: status("The model is still loading", "the pair starts by itself")}
                    with closing(duel.play(kind, seed, words, hold)) as events:
                        for side, event in events:
                            if changes := self._draw(side, event, duel):  # Gradio takes an empty dict for a value
                                yield changes
            except (Busy, WorkerError) as error:
                yield {ui.status: failure(str(error))}
                break
            if duel.problem:
                yield {ui.status: failure(duel.problem)}
                break
            pair = duel.finished()
            if pair is None:
                yield {ui.status: status("Stopped", "the unfinished pair does not count")}
                break
            seed = min(seed + 1, scenes.LAST_SEED)
            yield {ui.seed: seed}
            if blind:
                ask = {button: gr.Button(interactive=True) for button in ui.votes.values()}
                left, right = duel.screens
                pending = Pending(pair, sides, (left.thoughts, right.thoughts))
                yield {**ask, ui.pending: pending, ui.status: status("Which arm did better?")}
                yield {ui.stop: gr.Button(interactive=False)}  # Run comes back with the vote
                return
            played = [*played, pair]
            yield {ui.status: status(f"{number + 1} of {rounds} done"), **self._results(played)}
        yield {ui.run: gr.Button(interactive=True), ui.stop: gr.Button(interactive=False)}

    def stop(self, request: gr.Request) -> gr.Button:
        """End the running pair within one control step."""
        self._sessions.stop(request.session_hash or "")
        return gr.Button(interactive=False)

    def vote(self, vote: str, played: list[Pair], pending: Pending | None) -> Updates:
        """Keep the vote, say which arm was which, and count the pair."""
        ui = self._ui
        buttons = {button: gr.Button(interactive=False) for button in ui.votes.values()}
        if pending is None:
            return buttons
        pair, sides = pending.pair, pending.sides
        told = f"You said: {VOTES[vote].lower()}"
        try:
            seats = {side: pair.arms[arm] for side, arm in zip(SIDES, sides, strict=True)}
            weights = {"fingerprints": [self._by_name[name].pilot.fingerprint for name in pair.arms]}
            file = self._recordings.with_name("votes.jsonl")
            record_vote(file, {"vote": vote, **seats, **asdict(pair), **weights})
        except OSError as error:
            told = f"The vote could not be kept: {error.strerror or 'the disk refused'}"
        return {
            **buttons,
            **{ui.titles[side]: heading(pair.arms[arm]) for side, arm in enumerate(sides)},
            **dict(zip(ui.thoughts, pending.thoughts, strict=True)),
            **self._results([*played, pair]),
            ui.pending: None,
            ui.status: status(told),
            ui.run: gr.Button(interactive=True),
        }

    def replay(self, index: int, played: list[Pair]) -> Updates:
        """Both recordings of a finished pair."""
        ui = self._ui
        updates: Updates = {}
        for side, (name, trial) in enumerate(zip(played[index].arms, played[index].trials, strict=True)):
            recording = find(trial.recording, self._recordings)
            if recording is None:
                return {ui.status: failure("That recording is no longer here: only the newest are kept.")}
            updates |= {
                ui.videos[side]: player(ui.videos[side], recording, autoplay=True),
                ui.timelines[side]: timeline(recording, f"video-{SIDES[side]}"),
                ui.captions[side]: caption_of(recording, f"{name}.", self._by_name[name].pilot.fingerprint),
            }
        return updates

    def _arms(self, arms: tuple[Arm, Arm], sides: tuple[int, int], blind: bool) -> Updates:
        """Both halves before a pair starts."""
        ui = self._ui
        hint = thoughts_hint("Hidden until you vote." if blind else "")
        return {
            **{ui.titles[side]: heading("?" if blind else arms[arm].name) for side, arm in enumerate(sides)},
            **{line: status("Waiting") for line in ui.lines},
            **dict.fromkeys(ui.thoughts, hint),
        }

    def _draw(self, side: int, event: Event, duel: Duel) -> Updates:
        ui, screen = self._ui, duel.screens[side]
        updates: Updates = {}
        if isinstance(event, SceneReady | Frame):
            updates[ui.cameras[side]] = camera_picture(event.jpeg)
        if duel.blind:  # words and pauses would tell which arm thinks
            if isinstance(event, Frame | Outcome):
                updates[ui.lines[side]] = status(*_plainly(event))
        else:
            updates[ui.lines[side]] = screen.status
            if not isinstance(event, Frame):
                updates[ui.thoughts[side]] = screen.thoughts
        return updates

    def _results(self, played: list[Pair]) -> Updates:
        ui = self._ui
        same = [pair for pair in played if pair.arms == played[-1].arms]
        return {
            ui.played: played,
            ui.figures: figures(add_up(same)),
            ui.pairs: gr.Dataset(samples=[row(pair) for pair in played], visible=True),
        }


class Duel:
    """One pair while it is played: who sits where, what was seen, what is recorded."""

    def __init__(self, arms: tuple[Arm, Arm], recordings: Path, sides: tuple[int, int], blind: bool) -> None:
        self.blind = blind
        self.problem = ""
        self._names = (arms[0].name, arms[1].name)
        self._root = recordings
        self._sides = sides
        self._seated = [arms[arm] for arm in sides]
        self.screens = [Screen(arm.think, paced=False) for arm in self._seated]

    def play(self, kind: str, seed: int, words: str, hold: Hold) -> Generator[tuple[int, Event], None, None]:
        """The pair's events as (side, event); what keeps it from counting is said in `problem`."""
        self._spec = scenes.spec(kind, seed, words.strip() or None)
        commands = [Command(self._spec, arm.think, seed) for arm in self._seated]
        self._outcomes: dict[int, Outcome] = {}
        pilots = [arm.pilot for arm in self._seated]
        for pilot in pilots:
            pilot.start()  # both at once
        if problem := next(filter(None, (problem_when_loaded(pilot, hold.steering.stop) for pilot in pilots)), None):
            self.problem = problem
            return
        self._recorders = [
            Recorder(command, pilot.describe(), pilot.fingerprint)
            for command, pilot in zip(commands, pilots, strict=True)
        ]
        policies = [arm.policy for arm in self._seated]
        try:
            with closing(play_pair(commands, hold.simulators, policies, hold.steering)) as events:
                for side, event in events:
                    self._recorders[side].add(event)
                    self.screens[side].show(event)
                    if isinstance(event, Outcome):
                        self._outcomes[side] = event
                    elif isinstance(event, Failure):
                        self.problem = event.message
                    yield side, event
        except Exception:
            log.exception("a pair failed")
            self.problem = "Something broke on our side; the server's log says what. Press Run to try again."

    def finished(self) -> Pair | None:
        """The pair with its recordings saved; None where it was stopped."""
        if len(self._outcomes) < 2 or any(outcome.stopped for outcome in self._outcomes.values()):
            return None
        trials = {}
        for side, arm in enumerate(self._sides):
            outcome = self._outcomes[side]
            trials[arm] = Trial(outcome.success, outcome.steps, round(outcome.seconds, 3))
            try:
                trials[arm] = replace(trials[arm], recording=self._recorders[side].save(self._root).id)
            except RecordingError as error:
                log.warning("%s", error)
        return Pair(self._spec.text, self._spec.seed, (trials[0], trials[1]), self._names)


def figures(result: Comparison) -> str:
    """What the pairs add up to, as a table with one line about the test."""
    rows = "".join(
        f"<tr><th scope=row>{escape(arm)}</th><td>{result.successes[i]} of {result.pairs}</td>"
        f"<td>{result.intervals[i][0]:.0%}\u2013{result.intervals[i][1]:.0%}</td>"
        f"<td>{result.median_steps[i]:g}</td><td>{result.median_seconds[i]:.1f}</td></tr>"
        for i, arm in enumerate(result.arms)
    )
    first, second = result.discordant
    columns = ("solved", "95 % interval", "median steps", "median seconds")
    head = "<td></td>" + "".join(f"<th scope=col>{name}</th>" for name in columns)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="note">Only the first solved {first}, only the second {second} of {result.pairs} '
        f"scene{'s' if result.pairs != 1 else ''}: exact McNemar p = {result.p:.2g}. It holds for a number of pairs "
        "that was fixed before the first.</p>"
    )


def row(pair: Pair) -> list[str]:
    """A finished pair in the list."""
    results = [
        f"{chr(0x2713) if trial.success else chr(0x2717)} {trial.steps} steps: {name}"
        for name, trial in zip(pair.arms, pair.trials, strict=True)
    ]
    return [f"{pair.seed}: {pair.instruction}", *results]


def _plainly(event: Frame | Outcome) -> tuple[str, ...]:
    """Where an arm is, without its pace."""
    if isinstance(event, Frame):
        return "Moving", f"Step {event.step}"
    return ("Success" if event.success else "Not solved", f"{event.steps} steps")


def validate(
    kind: str, seed: float | None, words: str | None, first: str, second: str, *others: Any
) -> list[dict[str, Any]]:
    """Refuse what is no scene, no words or no second arm; an empty box means each scene's own words."""
    seed_problem = scenes.seed_problem(seed)
    words_problem = scenes.words_problem(words) if (words or "").strip() else None
    same = "Choose another one than the first." if first == second else None
    checked = [gr.validate(problem is None, problem or "") for problem in (seed_problem, words_problem, None, same)]
    return [FINE, *checked, *[FINE] * len(others)]
