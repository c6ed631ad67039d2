"""How well questions about pictures are answered: exact match, and the best of a closed set of answers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from model.data.photos import PhotoSet, held_out
from model.data.questions import Turn
from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Prompter, collate, share_picture
from model.vision import preprocess


def exact(model: InstructVLA, prompter: Prompter, pixels: Tensor, turns: Sequence[Turn]) -> list[bool]:
    """Which questions about one picture (3, H, W) greedy decoding answers word for word.

    Each question stands alone, so that no earlier answer helps. Greedy decoding gives an answer exactly if every one of
    its tokens is the most likely one after the true tokens before it, so one forward pass decides a whole batch.
    """
    logits, targets, owner = _teacher_forced(model, prompter, pixels, [(turn.question, turn.answer) for turn in turns])
    missed = set(owner[logits.argmax(-1) != targets].tolist())
    return [index not in missed for index in range(len(turns))]


def best_answer(model: InstructVLA, prompter: Prompter, pixels: Tensor, question: str, answers: Sequence[str]) -> str:
    """Which of some answers the model finds most likely, by the mean log-probability of its tokens."""
    logits, targets, owner = _teacher_forced(model, prompter, pixels, [(question, answer) for answer in answers])
    likely = torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]
    total = torch.zeros(len(answers), device=likely.device).index_add(0, owner, likely)
    return answers[int((total / owner.bincount(minlength=len(answers))).argmax())]


def shares(marks: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """Share of right answers over all ("exact match") and per kind, from (kind, right)."""
    right: dict[str, list[bool]] = defaultdict(list)
    for kind, mark in marks:
        right[kind].append(mark)
    every = [mark for kind in right.values() for mark in kind]
    return {"exact match": sum(every) / len(every)} | {kind: sum(m) / len(m) for kind, m in sorted(right.items())}


def photo_scores(
    model: InstructVLA, prompter: Prompter, photos: PhotoSet, limit: int, seed: int = 0, closed: bool = True
) -> dict[str, float]:
    """How `limit` photographs of a split are answered about.

    "exact match" over all questions and per kind; "closed set", the share of "what is this" where the right one of
    `PhotoSet.names` is the most likely (left out unless `closed`: it takes long); "questions", their number.
    """
    chosen = random.Random(seed).sample(range(len(photos)), min(limit, len(photos)))
    asked: dict[int, list[Turn]] = {index: [] for index in chosen}
    for index, turn in held_out(photos, seed):
        if index in asked:
            asked[index].append(turn)
    marks: list[tuple[str, bool]] = []
    ranked: list[bool] = []
    for index, turns in asked.items():
        if not turns:
            continue
        pixels = preprocess(photos.image(index), model.config.vision)
        marks += zip((turn.kind for turn in turns), exact(model, prompter, pixels, turns), strict=True)
        for turn in turns:
            if closed and turn.kind == "photo what":
                ranked.append(best_answer(model, prompter, pixels, turn.question, photos.names) == turn.answer)
    found = shares(marks) | {"questions": len(marks)}
    return found | {"closed set": sum(ranked) / max(1, len(ranked))} if closed else found


@torch.no_grad()
def _teacher_forced(
    model: InstructVLA, prompter: Prompter, pixels: Tensor, pairs: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of all answers' N tokens: logits (N, V), targets (N,) and which pair each belongs to (N,)."""
    text = collate([share_picture([prompter.conversation([pair]) for pair in pairs])]).to(model.device)
    view = model.encode(pixels[None].to(model.device))
    hidden, _ = model.decoder(model.embed(text.ids, text.image_positions, view.tokens), branch=text.branch)
    targets = text.labels[:, 1:]
    asked = targets != IGNORE
    assert text.branch is not None
    return model.decoder.logits(hidden[:, :-1][asked]), targets[asked], text.branch[:, 1:][asked] - 1
