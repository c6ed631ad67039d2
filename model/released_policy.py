"""Closed loop of a released model, as it was scored: a new latent action and a new chunk at every step (reference 4.3).

A generalist that thinks writes a new thought every `think_every` steps; in between the old one is put back under the
new picture. Chunks are averaged by `model/ensemble.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.cache import DecoderCache
from model.data.statistics import ActionStatistics
from model.ensemble import (
    WIDOWX,
    Command,
    Control,
    Setup,
    google_proprio,
    matrix_from_rpy,
    rpy_from_matrix,
    widowx_proprio,
)
from model.instructvla import View
from model.prompts import PromptIds
from model.released import ReleasedVLA
from model.released_prompts import ReleasedPrompter
from model.streaming import inference, stream_text
from model.tiling import Picture, centre_crop, crop_for_expert, tile
from sim.interface import Action, Observation


@dataclass(frozen=True)
class Schedule:
    """Steps between thoughts, steps between latent actions (upstream's latent cache: 2), and the longest thought."""

    think_every: int = 20
    latent_every: int = 1
    thought_tokens: int = 50


@dataclass
class _Thought:
    """A thought about a picture: prompt and text decoded so far, and the cache that holds (nearly) all of it."""

    view: View
    cache: DecoderCache
    ids: list[int]


class ReleasedPolicy:
    """A rollout's view of a shared released model: `sim.interface.Policy`, plus a stream of its thoughts."""

    needs_image = True
    focus = None
    heat = None
    gate = None
    """Which of a released generalist's experts is the one for actions is not recorded anywhere."""

    def __init__(
        self,
        model: ReleasedVLA,
        prompter: ReleasedPrompter,
        statistics: ActionStatistics,
        *,
        think: bool,
        lock: threading.Lock,
        setup: Setup = WIDOWX,
        schedule: Schedule = Schedule(),
    ) -> None:
        self._model, self._prompter, self._statistics, self._lock = model, prompter, statistics, lock
        self._think = think and model.config.lora.experts > 1  # stage 1 was never taught to
        self._setup, self._schedule = setup, schedule
        self.reset("")

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode; `seed` fixes the flow noise."""
        self.instruction = instruction
        self.timings: dict[str, float] = {}
        self._control = Control(self._setup)
        self._noise = torch.Generator().manual_seed(seed)
        self._step = 0
        self._forget()

    def _forget(self) -> None:
        """Drop what was thought and planned."""
        self.thought = ""
        self._age = 0
        self._thinking: _Thought | None = None
        self._response: PromptIds | None = None
        self._latents: torch.Tensor | None = None

    def instruct(self, instruction: str) -> None:
        """Follow another instruction from the next `act` on; the episode and its noise go on."""
        self.instruction = instruction
        self._control = Control(self._setup)  # earlier chunks foresaw something else
        self._forget()

    def rethink(self, observation: Observation, thought: str) -> None:
        """Act on `thought` from the next `act` on, as if the model had written it; that `act` reads its own picture.

        Raises `ValueError` where the thought is longer than the model's own may be.
        """
        tokens, most = len(self._prompter.thought_ids(thought)), self._schedule.thought_tokens
        if tokens > most:
            raise ValueError(f"A thought has at most {most} tokens, this one {tokens}: shorten it.")
        self._forget()
        self._control = Control(self._setup)
        self.thought, self._response = thought, self._prompter.act_after(self.instruction, thought)

    @property
    def thinking_due(self) -> bool:
        """Whether the next `act` would write a new thought; `think` streams it."""
        due = self._response is None or self._age >= self._schedule.think_every
        return self._think and due and self._thinking is None

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        """Stream the thought about this observation, in pieces of text; the following `act` uses it."""
        started = time.perf_counter()
        model, prompter, compat = self._model, self._prompter, self._model.config.compat
        view, room = self._see(observation), self._schedule.thought_tokens
        prompt = prompter.think(self.instruction)
        with self._guard():
            embeds, cache = model.open_prompt(prompt, view, room, compat.shared_cache)
        thinking = _Thought(view, cache, prompt.ids.tolist())
        tokens = model.decoder.generate(embeds, cache, room, {int(prompter.query_ids[0])})
        tokens = _until(prompter.end_id, tokens, thinking.ids)
        text = ""
        for piece in stream_text(model, prompter, tokens, self._lock, should_stop):
            text += piece
            yield piece
        ended = thinking.ids[-1] == prompter.end_id
        self.thought = text
        self._response = prompter.act_after(self.instruction, text, compat.literal_response, ended)
        self._thinking, self._age = thinking, 0
        self.timings = {"think": 1e3 * (time.perf_counter() - started)}

    def act(self, observation: Observation) -> Action:
        """The action of this control step. Raises `ValueError` when there is no picture."""
        command = self.command(observation)
        turn = -rpy_from_matrix(matrix_from_rpy(command.rpy).T)  # from fixed axes to the interface's moving ones
        gripper = (command.gripper + 1) / 2 if self._setup.gripper == "absolute" else command.gripper
        return np.array([*command.world_vector, *turn, gripper], np.float32)

    def command(self, observation: Observation) -> Command:
        """As `act`, but in the words of SimplerEnv's controllers."""
        if self.thinking_due:
            for _ in self.think(observation):
                pass
        timings = dict(self.timings) if self._thinking is not None else {}
        started = time.perf_counter()
        view = self._plan(observation)
        timings["plan"] = 1e3 * (time.perf_counter() - started)
        started = time.perf_counter()
        chunk = self._sample(view, observation)
        timings["flow"] = 1e3 * (time.perf_counter() - started)
        self.timings = timings
        self._step += 1
        self._age += 1
        return self._control.step(chunk)

    def _plan(self, observation: Observation) -> View:
        """Renew the latent action where that is due; returns what the expert shall look at."""
        thinking, self._thinking = self._thinking, None
        if thinking is None and self._latents is not None and self._step % self._schedule.latent_every:
            return View(self._expert_picture(self._picture(observation)), torch.zeros(0))
        prompt = self._prompter.act_now(self.instruction) if self._response is None else self._response
        if thinking is None:
            view = self._see(observation)
            with self._guard():
                self._latents = self._model.plan(prompt, view)
        else:
            view = thinking.view
            with self._guard():
                self._latents = self._model.plan(prompt, view, thinking.cache, thinking.ids)
        return view

    def _sample(self, view: View, observation: Observation) -> NDArray[np.float64]:
        """Actions (T, 7) in metres and radians, from this step on."""
        action, device = self._model.config.action, self._model.device
        noise = torch.randn((1, action.chunk, action.action_dim), generator=self._noise).to(device)
        assert self._latents is not None
        with self._guard():
            sample = self._model.act(view, self._latents, self._state(observation), noise)
        return self._statistics.unnormalise(sample[0].double().cpu().numpy())

    def _state(self, observation: Observation) -> torch.Tensor | None:
        """Normalised proprio (1, 8) for the models that take it."""
        if not self._model.config.action.proprio_dim:
            return None
        if observation.measured is None:
            raise ValueError("This model takes the robot's measured state, which this simulator does not tell.")
        convert = widowx_proprio if self._setup.gripper == "absolute" else google_proprio
        proprio = convert(np.asarray(observation.measured, np.float64))
        return torch.from_numpy(self._statistics.normalise_proprio(proprio))[None].to(self._model.device)

    def _see(self, observation: Observation) -> View:
        picture = self._picture(observation)
        tiles = tile(picture, self._model.config.vision.size).to(self._model.device)
        with self._guard():
            return self._model.encode(tiles, self._expert_picture(picture))

    def _expert_picture(self, picture: Picture) -> torch.Tensor:
        config = self._model.config
        return crop_for_expert(picture, config.dino.size, config.compat.dino_crop)[None, None].to(self._model.device)

    def _picture(self, observation: Observation) -> Picture:
        if observation.image is None:
            raise ValueError("A released model needs a picture at every step: render them all.")
        config = self._model.config
        if config.compat.crop_without_state and not config.action.proprio_dim:
            return centre_crop(observation.image)
        return observation.image

    def _guard(self) -> AbstractContextManager[None]:
        return inference(self._model, self._lock)


def _until(end: int, tokens: Iterator[int], written: list[int]) -> Iterator[int]:
    """Tokens up to the end mark, all of them written down."""
    for token in tokens:
        written.append(token)
        if token == end:
            return
        yield token
