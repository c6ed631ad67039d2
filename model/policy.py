"""Closed loop: when to think again, when to plan again, and what reaches the robot.

Every `EXECUTE` steps the action expert looks at the current picture and samples a chunk, of which that many actions
are executed. At the first such plan after `REFRESH` steps the decoder also reads the picture, thinks if asked to, and
leaves a new latent action (paper section 4.3 refreshes reasoning every 20 steps too). Training pairs each latent with
pictures up to `REFRESH` steps younger, so an older latent is hardly new to the expert. `Schedule` changes both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.batching import Batcher
from model.cache import DecoderCache
from model.clock import own_time
from model.data.statistics import ActionStatistics
from model.drafts import Drafts
from model.instructvla import InstructVLA, View
from model.prompts import Prompter
from model.streaming import inference, stream_text
from model.vision import preprocess
from sim.interface import Action, Observation

REFRESH = 20
EXECUTE = 8
NOISE = 0.1
"""Scale of the flow's starting noise. On validation scenes the nano hesitates over a grasp at 1 and commits near 0."""
MAX_THOUGHT_TOKENS = 50


@dataclass(frozen=True)
class Schedule:
    """Steps between thoughts, each with a new latent action, and how many actions of a chunk are carried out."""

    think_every: int = REFRESH
    execute: int = EXECUTE


class InstructPolicy:
    """A rollout's view of a shared model: implements `sim.interface.Policy`, plus a stream of its thoughts."""

    def __init__(
        self,
        model: InstructVLA,
        prompter: Prompter,
        statistics: ActionStatistics,
        *,
        think: bool,
        lock: threading.Lock,
        batcher: Batcher | None = None,
        schedule: Schedule = Schedule(),
        drafts: Drafts = Drafts(()),
    ) -> None:
        """`batcher` is shared by the policies whose passes may be made together; None: this one always alone."""
        self._model, self._prompter, self._statistics, self._lock = model, prompter, statistics, lock
        self.batcher = batcher or Batcher(model, lock)
        self._think, self._schedule, self._drafts = think, schedule, drafts
        self.timings: dict[str, float] = {}
        self.reset("")

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode; `seed` fixes the flow noise."""
        self.instruction = instruction
        self.thought = ""
        self.focus: dict[str, tuple[float, float]] | None = None
        self.heat: dict[str, str] | None = None
        """The latents' attention over the picture in the latest plan (`heat_rows`), for the names of `focus`."""
        self.gate: float | None = None
        """The action expert's share, 0..1, in the latest piece of the thought; None where there is one expert."""
        self._said: list[int] = []
        self._latents: torch.Tensor | None = None
        self._queue: list[Action] = []
        self._age = 0
        self._noise = torch.Generator().manual_seed(seed)
        self._prefix: DecoderCache | None = None
        self._ahead: torch.Tensor | None = None
        """The latents behind the thought in `_prefix`, where they were read with its end."""
        self._view: View | None = None

    def instruct(self, instruction: str) -> None:
        """Follow another instruction from the next `act` on, which plans anew; the episode and its noise go on."""
        self.instruction = instruction
        self._drop_plan()

    def rethink(self, observation: Observation, thought: str) -> None:
        """Act on `thought` from the next `act` on, as if the model had written it about this observation.

        Raises `ValueError` where the observation has no picture or the thought is longer than the model's own may be.
        """
        words = self._prompter.thought_ids(thought)
        if len(words) > MAX_THOUGHT_TOKENS:
            raise ValueError(f"A thought has at most {MAX_THOUGHT_TOKENS} tokens, this one {len(words)}: shorten it.")
        view = self._see(observation)
        with self._guard():
            prompt = self._prompter.think(self.instruction)
            embeds, cache = self._model.open_prompt(prompt, view, MAX_THOUGHT_TOKENS)
            self._model.decoder(embeds, cache=cache)
            self._model.decoder(self._model.decoder.embed(words[None].to(self._model.device)), cache=cache)
        self._drop_plan()
        self.thought, self._said, self._prefix, self._view = thought, words.tolist(), cache, view

    def _drop_plan(self) -> None:
        self._queue, self._latents, self._prefix, self._ahead, self._view = [], None, None, None, None

    @property
    def needs_image(self) -> bool:
        """Whether the next `act` plans a new chunk; if not, its observation needs no picture."""
        return not self._queue

    @property
    def thinking_due(self) -> bool:
        """Whether the next `act` would write a new thought; `think` streams it."""
        return self._think and self.needs_image and self._latents_due and self._prefix is None

    @property
    def _latents_due(self) -> bool:
        return self._latents is None or self._age >= self._schedule.think_every

    def think(self, observation: Observation, should_stop: Callable[[], bool] | None = None) -> Iterator[str]:
        """Stream the thought about this observation, in pieces of text; the following `act` uses it."""
        started = own_time()
        view = self._see(observation)
        with self._guard():
            prompt = self._prompter.think(self.instruction)
            embeds, cache = self._model.open_prompt(prompt, view, MAX_THOUGHT_TOKENS)
        gates: list[float] = []
        beyond: list[torch.Tensor] = []
        before, self._said = self._said, []
        asked, queries = self._prompter.thought_ids(self.instruction).tolist(), self._prompter.query_ids.tolist()

        def draft(said: Sequence[int]) -> Sequence[int]:  # most often it thinks the same again
            return before + queries if before and not said else self._drafts.after(said, asked)

        tokens = self._model.decoder.generate(
            embeds, cache, MAX_THOUGHT_TOKENS, self._prompter.stop_ids, gates=gates, draft=draft, beyond=beyond
        )
        tokens = _noted(tokens, self._said)
        self.thought = ""
        for piece in stream_text(self._model, self._prompter, tokens, self._lock, should_stop):
            self.thought += piece
            if self._model.decoder.experts > 1:
                self.gate = sum(gates) / len(gates)
            gates.clear()
            yield piece
        self._prefix, self._view = cache, view
        self._ahead = beyond[0] if beyond and beyond[0].shape[1] == len(queries) else None
        self.timings = {"think": 1e3 * (own_time() - started)}

    def act(self, observation: Observation) -> Action:
        """The action of this control step. Raises `ValueError` when a new plan is due and there is no picture."""
        if self.thinking_due:
            for _ in self.think(observation):
                pass
        if not self._queue:
            self._plan(observation)
        else:
            self.timings = {}
        self._age += 1
        return self._queue.pop(0)

    def _plan(self, observation: Observation) -> None:
        timings = dict(self.timings) if self._prefix is not None else {}
        view = self._view
        if self._latents_due:
            started = own_time()
            queries = self._prompter.query_ids[None].to(self._model.device)
            if self._prefix is None:
                view = self._see(observation)
                with self._guard():
                    embeds, cache = self._model.open_prompt(self._prompter.act(self.instruction), view, 0)
                    self._ahead = self._model.read_latents(cache, queries, embeds)
            elif self._ahead is None:
                with self._guard():  # whatever was thought is in the cache
                    self._ahead = self._model.read_latents(self._prefix, queries)
            self._latents, self._age = self._ahead, 0
            timings["plan"] = 1e3 * (own_time() - started)
        started = own_time()
        action, device = self._model.config.action, self._model.device
        noise = torch.randn((1, action.chunk, action.action_dim), generator=self._noise).to(device) * NOISE
        proprio = torch.from_numpy(np.asarray(observation.proprio, np.float32))[None].to(device)
        assert self._latents is not None
        trunk = self.batcher.trunk(self._pixels(observation)) if view is None else view.trunk
        chunk, points, heat = self.batcher.act(trunk, self._latents, proprio, noise)
        self._prefix = self._ahead = self._view = None
        self._queue = list(self._statistics.unnormalise(chunk[0].float().cpu().numpy())[: self._schedule.execute])
        source, target = points[0].tolist()
        self.focus = {"source": tuple(source), "target": tuple(target)}
        maps = heat[0].float().exp().unflatten(-1, self._model.config.vision.grid).cpu().numpy()
        self.heat = {name: heat_rows(one) for name, one in zip(("source", "target"), maps, strict=True)}
        timings["flow"] = 1e3 * (own_time() - started)
        self.timings = timings

    def _see(self, observation: Observation) -> View:
        return self.batcher.encode(self._pixels(observation))

    def _pixels(self, observation: Observation) -> torch.Tensor:
        if observation.image is None:
            raise ValueError("A new plan needs a picture: render this step (check `needs_image` first).")
        return preprocess(observation.image, self._model.config.vision)[None].to(self._model.device)

    def _guard(self) -> AbstractContextManager[None]:
        return inference(self._model, self._lock)


def _noted(tokens: Iterator[int], said: list[int]) -> Iterator[int]:
    """Tokens, each written down before it is passed on."""
    for token in tokens:
        said.append(token)
        yield token


def heat_rows(attention: NDArray[np.float32]) -> str:
    """An attention map (rows, columns) as rows of hexadecimal digits joined by "/": its strongest patch is f.

    The digits stand for the square root of each patch's share of the strongest, so that faint ones show, too.
    """
    digits = np.rint(15 * np.sqrt(attention / attention.max())).astype(int)
    return "/".join("".join(f"{digit:x}" for digit in row) for row in digits)
