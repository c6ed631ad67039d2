"""Where the scale head begins: as a reader of what comes next, so that neither expert has to be learned twice.

A fresh head that mixes the experts alike everywhere loses both what the model could do and what it could say. Here it
is first taught, alone, to leave the latent queries to the action expert and all else to the language expert, by the
base's hidden states; that needs no gradient through the decoder. Stage 2 then moves it as the losses ask, or, where its
recipe says so, trains the experts behind gates that are told, and spares the gate pass.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from model.instructvla import InstructVLA
from model.prompts import Batch

QUERIES, REST = 0.97, 0.03
"""The action expert's weight on the latent queries, and on pictures and words."""
PASSES, LEARNING_RATE = 60, 2e-3


def told(batch: Batch) -> Tensor:
    """Gates (B, T, 2) as they should be on the tokens of training sequences."""
    action = torch.where(batch.query_positions, QUERIES, REST)
    return torch.stack([action, 1 - action], dim=-1)


def warm_up(model: InstructVLA, batches: Iterable[tuple[Batch, Tensor]]) -> float:
    """Teach the scale head of `model` what `told` says of (sequences, pictures); returns the last loss.

    Raises `ValueError` for a model without a scale head.
    """
    head = model.decoder.scale_head
    if head is None:
        raise ValueError("One expert alone needs no gates.")
    states, targets = [], []
    for batch, pixels in batches:
        batch = batch.to(model.device)
        with torch.no_grad():
            states.append(model.gate_states(batch, model.encode(pixels.to(model.device)))[batch.mask])
        targets.append(told(batch)[batch.mask])
    hidden, target = torch.cat(states).float(), torch.cat(targets)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE)
    loss = torch.zeros(())
    for _ in tqdm(range(PASSES), unit="pass", desc="gates"):
        for part in torch.randperm(len(hidden), device=hidden.device).split(2048):
            loss = F.cross_entropy(head.layers(hidden[part]), target[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())
