"""Text out of a shared model, piece by piece: one forward pass at a time, so that callers interleave and can stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from model.instructvla import LanguageModel
from model.prompts import Prompter

logger = logging.getLogger(__name__)


class OutOfMemory(ValueError):
    """The pass did not fit beside the others; one plain sentence."""


@contextmanager
def inference(model: LanguageModel, lock: threading.Lock) -> Iterator[None]:
    """One forward pass: alone on the model, without gradients, in bf16 autocast where the model needs it.

    Raises `OutOfMemory` where the GPU has none left; what nobody uses is given back to it, so that the next pass fits.
    """
    with ExitStack() as stack:
        stack.enter_context(lock)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(model.device.type, torch.bfloat16, enabled=model.autocast))
        try:
            yield
        except torch.OutOfMemoryError:
            logger.exception("a forward pass ran out of memory")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory("The GPU ran out of memory: try again, or with shorter words.") from None


def stream_text(
    model: LanguageModel,
    prompter: Prompter,
    tokens: Iterator[int],
    lock: threading.Lock,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Decode a stream of token ids into text, whole characters at a time; the lock is free between tokens."""
    ids: list[int] = []
    text = ""
    while should_stop is None or not should_stop():
        with inference(model, lock):
            token = next(tokens, None)
        if token is None:
            return
        ids.append(token)
        decoded = prompter.decode(ids)
        if not decoded.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may span several tokens
            piece, text = decoded[len(text) :], decoded
            if piece:
                yield piece
