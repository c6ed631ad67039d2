"""How well questions about pictures are answered: exact match, and the best of a closed set of answers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.data.photos import PhotoSet, held_out
from model.data.questions import Turn, conversation
from model.data.requests import WAYS, Requests
from model.data.scenes import SceneDataset
from model.data.splits import Split
from model.data.things import Catalog, catalog_of
from model.instructvla import InstructVLA, View
from model.language import IGNORE
from model.prompts import Batch, Prompter, PromptIds, collate, share_picture, share_question
from model.vision import preprocess

NEAR = 0.05
"""A point this close to the true one, in shares of the picture, has found its object."""


def exact(model: InstructVLA, prompter: Prompter, pixels: Tensor, turns: Sequence[Turn]) -> list[bool]:
    """Which questions about one picture (3, H, W) greedy decoding answers word for word.

    Each question stands alone, so that no earlier answer helps. Greedy decoding gives an answer exactly if every one of
    its tokens is the most likely one after the true tokens before it, so one forward pass decides a whole batch.
    """
    examples = [prompter.conversation([(turn.question, turn.answer)]) for turn in turns]
    hidden, text, _ = _read(model, pixels, share_picture(examples))
    return _right(model, hidden, text)


def best_answer(model: InstructVLA, prompter: Prompter, pixels: Tensor, question: str, answers: Sequence[str]) -> str:
    """Which of some answers the model finds most likely, by the mean log-probability of its tokens."""
    examples = [prompter.conversation([(question, answer)]) for answer in answers]
    hidden, text, _ = _read(model, pixels, share_question(examples))
    logits, targets, owner = _labelled(model, hidden, text)
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


def scene_scores(
    model: InstructVLA,
    prompter: Prompter,
    scenes: SceneDataset,
    catalog: Catalog,
    split: Split,
    limit: int,
    turns: int = 8,
) -> dict[str, float]:
    """How questions about the first `limit` scenes are answered, each asked alone in the words of a split.

    "exact match" over all and per kind, and "questions", their number.
    """
    marks: list[tuple[str, bool]] = []
    for row in range(min(limit, len(scenes))):
        talk = conversation(scenes[row].visible, catalog_of(catalog, split), scenes[row].seed, turns, split)
        pixels = preprocess(scenes.frame(row), model.config.vision)
        marks += zip((turn.kind for turn in talk), exact(model, prompter, pixels, talk), strict=True)
    return shares(marks) | {"questions": len(marks)}


@torch.no_grad()
def request_scores(
    model: InstructVLA, prompter: Prompter, scenes: SceneDataset, limit: int, split: Split = "validation", each: int = 6
) -> dict[str, float]:
    """How often the first `limit` scenes' requests, in the words of a split, get the right reply word for word.

    "replies" over all, and "reply plain", "reply rewrite" and "reply context". "meant" is the share, of those about
    things in the picture, for which the latents behind the true reply also point at each within `NEAR`.
    """
    requests, marks, meant = Requests(split), list[tuple[str, bool]](), list[bool]()
    for row in range(min(limit, len(scenes))):
        draw = random.Random(f"request scores {scenes[row].seed}")
        made = [requests.draw(scenes[row], draw, way) for way in WAYS for _ in range(each // len(WAYS))]
        told = [one for one in made if one is not None]
        if told:
            pixels = preprocess(scenes.frame(row), model.config.vision)
            examples = [_words_alone(prompter.think_example(one.words, one.reply)) for one in told]
            hidden, text, view = _read(model, pixels, share_picture(examples))
            right = _right(model, hidden, text)
            marks += zip((f"reply {one.way}" for one in told), right, strict=True)
            latents = model.latents(hidden, text)
            _, found = model.action_expert.point(view.trunk.expand(len(latents), -1, -1), latents)
            for one, said, points in zip(told, right, found.cpu(), strict=True):
                known = [(torch.tensor(p[:2]), to) for p, to in zip(one.places, points, strict=True) if p is not None]
                if known:
                    meant.append(said and all(float((place - to).norm()) < NEAR for place, to in known))
    scores = shares(marks) | {"meant": sum(meant) / max(1, len(meant))}
    return {"replies": scores.pop("exact match")} | scores


@torch.no_grad()
def gate_means(
    model: InstructVLA, prompter: Prompter, scenes: SceneDataset, catalog: Catalog, split: Split, limit: int
) -> dict[str, float]:
    """The first (action) expert's mean weight, 0..1, on what the model itself says: "gate text" on the words of answers
    and thoughts, "gate queries" on the latent queries that follow a thought."""
    told: dict[str, list[Tensor]] = {"gate text": [], "gate queries": []}
    for row in range(min(limit, len(scenes))):
        visible = scenes[row].visible
        talk = conversation(visible, catalog_of(catalog, split), scenes[row].seed, 4, split)
        names = sorted({catalog[name].name for name in visible if name in catalog and catalog[name].graspable})
        asked = [prompter.conversation([(turn.question, turn.answer)]) for turn in talk]
        asked += [prompter.think_example(f"pick up the {name}", f"I will pick up the {name}.") for name in names[:4]]
        text = collate([share_picture(asked)]).to(model.device)
        pixels = preprocess(scenes.frame(row), model.config.vision)[None].to(model.device)
        weight = model.read(text, model.encode(pixels))[1][..., 0]
        told["gate queries"].append(weight[text.query_positions])
        told["gate text"].append(weight[(text.labels != IGNORE) & ~text.query_positions])
    return {name: float(torch.cat(parts).mean()) for name, parts in told.items()}


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


def _words_alone(example: PromptIds) -> PromptIds:
    """A thought's training sequence without the space and the queries behind the thought, which say nothing."""
    end = int(example.query_positions.nonzero()[0]) - 1
    labels = torch.where(torch.arange(len(example.labels)) < end, example.labels, IGNORE)
    return replace(example, labels=labels)


@torch.no_grad()
def _read(model: InstructVLA, pixels: Tensor, examples: PromptIds) -> tuple[Tensor, Batch, View]:
    """One pass over packed examples about one picture (3, H, W): hidden states (1, T, D), the batch, the picture."""
    text = collate([examples]).to(model.device)
    view = model.encode(pixels[None].to(model.device))
    return model.read(text, view)[0], text, view


def _labelled(model: InstructVLA, hidden: Tensor, text: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of all N labelled tokens of packed examples: logits (N, V), targets (N,) and whose they are (N,)."""
    targets = text.labels[:, 1:]
    asked = targets != IGNORE
    assert text.branch is not None
    return model.decoder.logits(hidden[:, :-1][asked]), targets[asked], text.branch[:, 1:][asked] - 1


def _right(model: InstructVLA, hidden: Tensor, text: Batch) -> list[bool]:
    """Of which packed examples every labelled token is the most likely one."""
    logits, targets, owner = _labelled(model, hidden, text)
    missed = set(owner[logits.argmax(-1) != targets].tolist())
    assert text.branch is not None
    return [index not in missed for index in range(int(text.branch.max()))]
