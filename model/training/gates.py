"""Where the scale head begins: as a reader of what is being said, so that neither expert has to be learned twice.

A fresh head that mixes the experts alike everywhere loses both what the model could do and what it could say. Here it
is first taught, alone, to tell requests to the robot from questions about the picture by the base's hidden states; that
needs no gradient through the decoder. Stage 2 then moves it as the losses ask.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Batch

PICTURE, REQUEST, REPLY, QUERIES, TALK = 0.5, 0.95, 0.6, 0.97, 0.05
"""The action expert's weight on a picture, on a request to the robot and its reply, on the latent queries, and on
questions and answers."""
PASSES, LEARNING_RATE = 60, 2e-3


def wanted(batch: Batch, talk: bool) -> Tensor:
    """(B, T) the action expert's weight on each token of training sequences, questions (`talk`) or requests."""
    index = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    last = (batch.image_positions * index).amax(1, keepdim=True)
    spoken = TALK if talk else torch.where(batch.labels != IGNORE, REPLY, REQUEST)
    weight = torch.where(batch.query_positions, QUERIES, spoken)
    return torch.where(index <= last + 1, PICTURE, weight)  # the mark behind the last slot closes the picture


def warm_up(model: InstructVLA, batches: Iterable[tuple[Batch, Tensor, bool]]) -> float:
    """Teach the scale head of `model` what `wanted` says of (sequences, pictures, talk); returns the last loss.

    Raises `ValueError` for a model without a scale head.
    """
    head = model.decoder.scale_head
    if head is None:
        raise ValueError("One expert alone needs no gates.")
    states, targets = [], []
    for batch, pixels, talk in batches:
        batch = batch.to(model.device)
        with torch.no_grad():
            states.append(model.gate_states(batch, model.encode(pixels.to(model.device)))[batch.mask])
        targets.append(wanted(batch, talk)[batch.mask])
    hidden, target = torch.cat(states).float(), torch.cat(targets)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE)
    loss = torch.zeros(())
    for _ in tqdm(range(PASSES), unit="pass", desc="gates"):
        for part in torch.randperm(len(hidden), device=hidden.device).split(2048):
            likely = head(hidden[part]).clamp(1e-5, 1).log()
            loss = -(target[part] * likely[:, 0] + (1 - target[part]) * likely[:, 1]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())
