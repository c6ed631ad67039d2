"""The page's actions for programs: named HTTP endpoints with typed arguments, and the same as MCP tools.

Each function below is an endpoint (`/gradio_api/call/NAME`, or `gradio_client`) and, under its own name and with its
own docstring, an MCP tool (`/gradio_api/mcp/`). What cannot be done is said in one sentence.
"""

from __future__ import annotations

import base64
import binascii
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from app import controller, scenes
from app.compare import play_pair
from app.events import Command, Event, Failure, Outcome, ThoughtDone, to_json
from app.pictures import open_picture
from app.pilots import Pilot, problem_when_loaded
from app.recording import Recorder, RecordingError
from app.sessions import Busy, Hold, Sessions
from app.settings import Settings
from app.views.ask import AT_ONCE, MODEL_QUEUE
from app.views.widgets import SIMULATOR_QUEUE
from sim.worker import WorkerError

log = logging.getLogger(__name__)

BROKE = "Something broke on our side; the server's log says what."


@dataclass
class Summary:
    """What a rollout comes down to."""

    thoughts: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take the next event. `gr.Error` where it is a failure."""
        match event:
            case ThoughtDone(text=text):
                self.thoughts.append(text)
            case Outcome():
                self.end = asdict(event)
            case Failure(message=message):
                raise gr.Error(message)

    def told(self) -> dict[str, Any]:
        """The outcome's fields and the thoughts."""
        return {**self.end, "thoughts": self.thoughts}


class Service:
    """The endpoints of one page."""

    def __init__(self, pilot: Pilot, sessions: Sessions, recordings: Path, settings: Settings) -> None:
        self._pilot, self._sessions, self._recordings, self._settings = pilot, sessions, recordings, settings

    def build(self) -> None:
        """Register the endpoints in the surrounding `gr.Blocks`; they share the page's queues."""
        simulated: dict[str, Any] = {"concurrency_id": SIMULATOR_QUEUE, "concurrency_limit": self._sessions.size}
        gr.api(self.list_scenes, api_name="list_scenes")
        gr.api(self.run_rollout, api_name="run_rollout", **simulated)
        gr.api(self.evaluate_pair, api_name="evaluate_pair", **simulated)
        gr.api(self.ask_image, api_name="ask_image", concurrency_id=MODEL_QUEUE, concurrency_limit=AT_ONCE)

    def list_scenes(self) -> list[dict[str, Any]]:
        """List the kinds of scenes: name, label, an example instruction, the step limit and the last scene number.

        Returns:
            One object per kind: scene, label, instruction, success, steps, last_seed.
        """
        found = []
        for label, kind in scenes.families().items():
            spec = scenes.spec(kind, scenes.FIRST_SEED)
            found.append(
                {
                    "scene": kind,
                    "label": label,
                    "instruction": spec.text,
                    "success": spec.rule,
                    "steps": spec.limit,
                    "last_seed": scenes.LAST_SEED,
                }
            )
        return found

    def run_rollout(
        self, scene: str, seed: int = scenes.FIRST_SEED, instruction: str = "", think: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Let the robot carry out an instruction in a simulated scene and report everything that happens.

        Args:
            scene: Kind of scene, one of the names that list_scenes gives.
            seed: Number of the scene; the same number is the same scene.
            instruction: What the robot should do; empty for the scene's own instruction.
            think: Whether the model writes down what it means to do before it acts.

        Returns:
            One event after the other, without pictures: the scene, words of thoughts, plans, steps, the outcome. The
            last one, of type Finished, sums up: success, rule, steps, seconds, thoughts, and the recording's id.
        """
        command = self._command(scene, seed, instruction, think)
        summary = Summary()
        with self._hold("run_rollout") as hold:
            recorder = Recorder(command, self._pilot.describe(), self._pilot.fingerprint)
            policy = self._policy(command, hold.simulator)
            for event in controller.run(command, hold.simulator, policy, hold.steering):
                recorder.add(event)
                summary.add(event)
                yield to_json(event)
        yield {"type": "Finished", **summary.told(), "run": self._saved(recorder)}

    def evaluate_pair(
        self, scene: str, seed: int = scenes.FIRST_SEED, instruction: str = ""
    ) -> dict[str, dict[str, Any]]:
        """Play the same scene twice from the same noise, with thinking on and with thinking off, and compare.

        Args:
            scene: Kind of scene, one of the names that list_scenes gives.
            seed: Number of the scene; the same number is the same scene.
            instruction: What the robot should do; empty for the scene's own instruction.

        Returns:
            thinking_on and thinking_off: success, rule, steps, seconds and thoughts of each.
        """
        commands = [self._command(scene, seed, instruction, think) for think in (True, False)]
        arms = [Summary() for _ in commands]
        with (
            self._hold("evaluate_pair", wanted=len(commands)) as hold,
            closing(play_pair(commands, hold.simulators, [self._policy] * 2, hold.steering)) as events,
        ):
            for side, event in events:
                arms[side].add(event)
        return {"thinking_on": arms[0].told(), "thinking_off": arms[1].told()}

    def ask_image(self, image: str, question: str) -> Iterator[str]:
        """Ask the robot's model a question about a picture.

        Args:
            image: The picture: base64 of a JPEG, PNG, WebP, GIF or BMP file, with or without "data:image/...;base64,".
            question: What to ask about it.

        Returns:
            The answer so far.
        """
        self._check(scenes.question_problem(question))
        picture = self._picture(image)
        began, answer = time.perf_counter(), ""
        self._check(problem_when_loaded(self._pilot, threading.Event()))
        try:
            for piece in self._pilot.ask(picture, question.strip()):
                answer += piece
                yield answer
        except ValueError as error:
            raise gr.Error(str(error)) from None
        except Exception:
            log.exception("a question failed")
            raise gr.Error(BROKE) from None
        finally:
            self._note("ask_image", began, {"question": question, "answer": answer})
        if not answer:
            yield "(The model said nothing.)"

    def _command(self, scene: str, seed: int, instruction: str, think: bool) -> Command:
        if scene not in scenes.families().values():
            raise gr.Error(f"There is no scene {scene[:40]!r}: list_scenes gives their names.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise gr.Error("The scene's number is a whole number.")
        self._check(scenes.seed_problem(seed))
        if not isinstance(instruction, str):
            raise gr.Error("The instruction is a text.")
        if instruction:
            self._check(scenes.words_problem(instruction))
        return Command(scenes.spec(scene, seed, instruction.strip() or None), bool(think), seed)

    def _picture(self, image: str) -> Any:
        limit = self._settings.picture_bytes
        if not isinstance(image, str) or len(image) > 4 * (limit // 3) + 100:
            raise gr.Error(f"Send the picture as base64 of at most {limit / 1e6:g} MB.")
        head, _, body = image.partition(",")
        try:
            return open_picture(base64.b64decode(body if head.startswith("data:") else image, validate=True))
        except binascii.Error:
            raise gr.Error("This is no base64: send the picture's file as base64.") from None
        except ValueError as error:
            raise gr.Error(str(error)) from None

    def _check(self, problem: str | None) -> None:
        if problem:
            raise gr.Error(problem)

    @contextmanager
    def _hold(self, action: str, wanted: int = 1) -> Iterator[Hold]:
        """Simulators for one call, once the model is there. Callers are no tabs: each call stands for itself."""
        began = time.perf_counter()
        try:
            with self._sessions.hold(f"call-{secrets.token_hex(8)}", wanted) as hold:
                self._check(problem_when_loaded(self._pilot, hold.steering.stop))
                yield hold
        except (Busy, WorkerError, ValueError) as error:
            raise gr.Error(str(error)) from None
        except (gr.Error, GeneratorExit):
            raise
        except Exception:
            log.exception("%s failed", action)
            raise gr.Error(BROKE) from None
        finally:
            self._note(action, began)

    def _policy(self, command: Command, simulator: controller.Simulator) -> controller.ThinkingPolicy:
        return self._pilot.policy(simulator, command.spec, command.think)

    def _saved(self, recorder: Recorder) -> str | None:
        """The recording's id: `/?run=ID` on the page replays it."""
        try:
            return recorder.save(self._recordings).id if recorder.started else None
        except RecordingError as error:
            log.warning("%s", error)
            return None

    def _note(self, action: str, began: float, texts: dict[str, str] | None = None) -> None:
        """One line in the log; what was typed and said only where the settings ask for it."""
        fields = {"seconds": round(time.perf_counter() - began, 2)}
        log.info(action, extra={"fields": fields | ((texts or {}) if self._settings.log_texts else {})})
