"""How well questions about pictures are answered: exact match, and the best of a closed set of answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from model.data.questions import Turn
from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Prompter, collate

BATCH = 24


def exact(model: InstructVLA, prompter: Prompter, pixels: Tensor, turns: Sequence[Turn]) -> list[bool]:
    """Which questions about one picture (3, H, W) greedy decoding answers word for word.

    Each question stands alone, so that no earlier answer helps. Greedy decoding gives an answer exactly if every one of
    its tokens is the most likely one after the true tokens before it, so one forward pass decides a whole batch.
    """
    logits, targets, asked = _teacher_forced(model, prompter, pixels, [(turn.question, turn.answer) for turn in turns])
    wrong = logits.argmax(-1) != targets[asked]
    missed = torch.zeros_like(asked).masked_scatter(asked, wrong).any(1)
    return [not miss for miss in missed.tolist()]


def best_answer(
    model: InstructVLA, prompter: Prompter, pixels: Tensor, question: str, answers: Sequence[str]
) -> str:
    """Which of some answers the model finds most likely, by the mean log-probability of its tokens."""
    scores: list[float] = []
    for start in range(0, len(answers), BATCH):
        pairs = [(question, answer) for answer in answers[start : start + BATCH]]
        logits, targets, asked = _teacher_forced(model, prompter, pixels, pairs)
        likely = torch.log_softmax(logits.float(), -1).gather(-1, targets[asked][:, None])[:, 0]
        total = torch.zeros(asked.shape, device=likely.device).masked_scatter(asked, likely)
        scores += (total.sum(1) / asked.sum(1)).tolist()
    return answers[max(range(len(answers)), key=scores.__getitem__)]


def shares(marks: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """Share of right answers over all ("exact match") and per kind, from (kind, right)."""
    right: dict[str, list[bool]] = defaultdict(list)
    for kind, mark in marks:
        right[kind].append(mark)
    every = [mark for kind in right.values() for mark in kind]
    return {"exact match": sum(every) / len(every)} | {kind: sum(m) / len(m) for kind, m in sorted(right.items())}


@torch.no_grad()
def _teacher_forced(
    model: InstructVLA, prompter: Prompter, pixels: Tensor, pairs: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the answers' tokens (N, V), the targets (B, T) and where they are asked for (B, T)."""
    text = collate([prompter.conversation([pair]) for pair in pairs]).to(model.device)
    tokens = model.encode(pixels[None].to(model.device)).tokens.expand(len(pairs), -1, -1)
    hidden, _ = model.decoder(model.embed(text.ids, text.image_positions, tokens))
    targets = text.labels[:, 1:]
    asked = targets != IGNORE
    return model.decoder.logits(hidden[:, :-1][asked]), targets, asked
