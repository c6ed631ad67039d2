"""One loaded model for many callers: background loading with a visible state, and one forward pass at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from model import checkpoints
from model.instructvla import InstructVLA
from model.policy import InstructPolicy
from model.prompts import Prompter
from model.streaming import inference, stream_text
from model.vision import preprocess
from sim.interface import Image

logger = logging.getLogger(__name__)

NANO = Path(__file__).resolve().parent.parent / "assets" / "checkpoints" / "nano"
MAX_ANSWER_TOKENS = 64
"""The nano was trained on answers of at most a sentence or two."""


class Engine:
    """Holds one model. `start` loads it in a thread; `policy` and `ask` wait for it.

    `name` is "nano" (the embedded checkpoint) or the folder of a checkpoint.
    """

    def __init__(self, name: str = "nano") -> None:
        self.name = name
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.error: str | None = None
        self._folder = NANO if name == "nano" else Path(name)
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
            loaded = checkpoints.load(self._folder)
            self.model: InstructVLA = loaded.model
            self.prompter: Prompter = loaded.prompter
            self.statistics, self.about = loaded.statistics, loaded.about
            if self.model.config.lora.experts == 1:
                self.model.decoder.merge()
            self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
            self.state = "ready"
        except Exception as error:
            logger.exception("The model could not be loaded")
            self.state, self.error = "failed", f"The model could not be loaded: {error}"
        finally:
            self._done.set()

    def policy(self, think: bool) -> InstructPolicy:
        """A fresh closed-loop policy on this model's weights. Raises `ValueError` if it was never taught to."""
        self.wait()
        if self.statistics is None:
            raise ValueError(f"{self.name} answers questions but has not been taught to act: train stage 1 first.")
        return InstructPolicy(self.model, self.prompter, self.statistics, think=think, lock=self._lock)

    def ask(
        self,
        image: Image,
        question: str,
        should_stop: Callable[[], bool] | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> Iterator[str]:
        """Stream an answer about a picture (H, W, 3) uint8, piece by piece.

        `history` holds the (question, answer) turns before it about the same picture.
        """
        self.wait()
        prompt = self.prompter.question(question, history)
        with inference(self.model, self._lock):
            view = self.model.encode(preprocess(image, self.model.config.vision)[None].to(self.model.device))
            embeds, cache = self.model.open_prompt(prompt, view, MAX_ANSWER_TOKENS)
        tokens = self.model.decoder.generate(embeds, cache, MAX_ANSWER_TOKENS, self.prompter.stop_ids, text_only=True)
        yield from stream_text(self.model, self.prompter, tokens, self._lock, should_stop)

    def describe(self) -> str:
        """One line: which model speaks and what it was trained on."""
        return self.about if self.state == "ready" else f"{self.name}: {self.state}"
