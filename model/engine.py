"""One loaded model for many callers: background loading with a visible state, and one forward pass at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import checkpoints, released_checkpoints
from model.batching import Batcher
from model.cache import DecoderCache
from model.config import GENERALIST, folder_of, is_hub_id
from model.data.annotate import names, sample_replies
from model.drafts import Drafts
from model.ensemble import WIDOWX
from model.instructvla import LanguageModel
from model.policy import InstructPolicy, Schedule
from model.prompts import Prompter
from model.released_checkpoints import Released
from model.released_policy import ReleasedPolicy
from model.released_policy import Schedule as ReleasedSchedule
from model.streaming import inference, stream_text
from model.tiling import MAX_TILES, tile
from model.vision import preprocess
from sim.interface import Image

logger = logging.getLogger(__name__)

Changes = tuple[tuple[str, int], ...]
"""Of a schedule: names and the values that replace its defaults."""
MAX_ANSWER_TOKENS = 64
"""The nano was trained on answers of at most a sentence or two."""
MAX_RELEASED_ANSWER_TOKENS = 200
"""As in upstream's demonstration (reference 4.2)."""
MAX_PICTURES = 4
"""Of one question to a released model, which share the tiles; ours have seen one at a time."""


class Engine:
    """Holds one model. `start` loads it in a thread; `policy` and `ask` wait for it.

    `name` is "generalist" or "nano" (the embedded checkpoints), the folder of a checkpoint, ours or a released run,
    or the hub id of a released run. `compat` names how faithful a released model is to what upstream got wrong
    (`model.config.COMPAT`). Of the rollouts that want the same forward pass at the same time, up to `batch` share
    it (`model.batching`); one by one is to the bit what each would get alone. `schedule` changes when the model's
    policies think and plan (`model.policy.Schedule`, `model.released_policy.Schedule`).
    """

    def __init__(
        self, name: str = GENERALIST, compat: str = "released", batch: int = 1, schedule: Changes = ()
    ) -> None:
        self.name = name
        self._compat, self._batch, self._changes = compat, batch, schedule
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.error: str | None = None
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> Engine:
        """Begin loading (once); returns itself."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="model-loader", daemon=True)
            self._thread.start()
        return self

    def wait(self) -> Engine:
        """Block until loaded. Raises `RuntimeError` with one sentence if loading failed."""
        self.start()
        self._done.wait()
        if self.state == "failed":
            raise RuntimeError(self.error)
        return self

    def _load(self) -> None:
        try:
            self.loaded = self._read()
            self.model: LanguageModel = self.loaded.model
            self._schedule = self._scheduled()
            self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
            if isinstance(self.loaded, Released):
                self.loaded.model.settle()
            else:
                self._batcher = Batcher(self.loaded.model, self._lock, self._batch)
                self._drafts = _drafts(self.loaded.prompter)
                if self.loaded.model.config.lora.experts > 1:
                    self.loaded.model.decoder.prepare()
            self.state = "ready"
        except Exception as error:
            logger.exception("The model could not be loaded")
            self.state, self.error = "failed", f"The model could not be loaded: {error}"
        finally:
            self._done.set()

    def _read(self) -> checkpoints.Loaded | Released:
        self._folder = folder_of(self.name)
        if is_hub_id(self.name) and not self._folder.exists():
            self._folder = released_checkpoints.fetch(self.name)
        if released_checkpoints.is_released(self._folder):
            return released_checkpoints.load(self._folder, self._compat)
        loaded = checkpoints.load(self._folder)
        if loaded.model.config.lora.experts == 1:
            loaded.model.decoder.merge()
        return loaded

    def _scheduled(self) -> Schedule | ReleasedSchedule:
        """The model's own schedule with the changes asked for. Raises `ValueError` for one that it has no use for."""
        kind = ReleasedSchedule if isinstance(self.loaded, Released) else Schedule
        known, chunk = [field.name for field in fields(kind)], self.loaded.model.config.action.chunk
        for name, value in self._changes:
            if name not in known:
                raise ValueError(f"its schedule has no {name!r}; it knows {', '.join(known)}")
            if name == "execute" and value > chunk:
                raise ValueError(f"it plans {chunk} actions at a time, fewer than execute={value}")
        return kind(**dict(self._changes))

    def policy(self, think: bool) -> InstructPolicy | ReleasedPolicy:
        """A fresh closed-loop policy on this model's weights. Raises `ValueError` if it was never taught to."""
        self.wait()
        loaded, schedule = self.loaded, self._schedule
        if isinstance(loaded, Released):
            assert isinstance(schedule, ReleasedSchedule)
            measured = loaded.statistics_of(WIDOWX)
            return ReleasedPolicy(
                loaded.model, loaded.prompter, measured, think=think, lock=self._lock, schedule=schedule
            )
        assert isinstance(schedule, Schedule)
        if loaded.statistics is None:
            raise ValueError(f"{self.name} answers questions but has not been taught to act: train stage 1 first.")
        return InstructPolicy(
            loaded.model,
            loaded.prompter,
            loaded.statistics,
            think=think,
            lock=self._lock,
            batcher=self._batcher,
            schedule=schedule,
            drafts=self._drafts,
        )

    @property
    def pictures(self) -> int:
        """The most pictures that one question may be about; 1 until a model is there."""
        return MAX_PICTURES if self.state == "ready" and isinstance(self.loaded, Released) else 1

    def ask(
        self,
        image: Image | Sequence[Image],
        question: str,
        should_stop: Callable[[], bool] | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> Iterator[str]:
        """Stream an answer about a picture (H, W, 3) uint8, or up to `pictures` of them, piece by piece.

        `history` holds the (question, answer) turns before it about the same pictures. `ValueError`: too many pictures.
        """
        self.wait()
        images = [image] if isinstance(image, np.ndarray) else list(image)
        if not 1 <= len(images) <= self.pictures:
            most = "one picture" if self.pictures == 1 else f"1 to {self.pictures} pictures"
            raise ValueError(f"This model looks at {most} at a time, not at {len(images)}.")
        with inference(self.model, self._lock):
            embeds, cache, room = self._open(images, question, history)
        prompter = self.loaded.prompter
        tokens = self.model.decoder.generate(embeds, cache, room, prompter.stop_ids, text_only=True)
        yield from stream_text(self.model, prompter, tokens, self._lock, should_stop)

    def _open(
        self, images: Sequence[Image], question: str, history: Sequence[tuple[str, str]]
    ) -> tuple[Tensor, DecoderCache, int]:
        """A question's embeddings, a cache and the room for an answer. Released models see a picture in tiles."""
        loaded = self.loaded
        if isinstance(loaded, Released):
            config, room = loaded.model.config, MAX_RELEASED_ANSWER_TOKENS
            parts = [tile(image, config.vision.size, MAX_TILES // len(images)) for image in images]
            view = loaded.model.encode(torch.cat(parts).to(loaded.model.device))
            prompt = loaded.prompter.question(question, [len(part) for part in parts], history)
            return *loaded.model.open_prompt(prompt, view, room, config.compat.shared_cache), room
        pixels = preprocess(images[0], loaded.model.config.vision)[None].to(loaded.model.device)
        prompt, view = loaded.prompter.question(question, history=history), loaded.model.encode(pixels)
        return *loaded.model.open_prompt(prompt, view, MAX_ANSWER_TOKENS), MAX_ANSWER_TOKENS

    def fingerprint(self) -> str:
        """SHA-256 of the weights in use, those included that a checkpoint shares with the one beside it."""
        self.wait()
        if isinstance(self.loaded, Released):
            return self.loaded.sha256
        return checkpoints.fingerprint(self._folder)

    def describe(self) -> str:
        """One line: which model speaks and what it was trained on."""
        return self.loaded.about if self.state == "ready" else f"{self.name}: {self.state}"


def _drafts(prompter: Prompter) -> Drafts:
    """For thoughts in the words that our models were trained to think in, with the latent queries behind them."""
    named = {token for name in names() for token in prompter.thought_ids(f" {name}").tolist()}
    replies = (prompter.thought_ids(reply).tolist() + prompter.query_ids.tolist() for reply in sample_replies())
    return Drafts(replies, named)
