"""Requests acted upon by example: the generalist's latent actions are drawn towards the acting model's.

The frozen action expert has learned to read the latents of the stage 1 model. What that model's latents tell it for the
plain command is what the generalist's have to tell it for the same wish in any words, thought about or not. So requests
about any picture can be learned, without a recorded motion and without the action expert's look at the picture.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import InstructVLAConfig
from model.data.requests import Requests, Way
from model.data.scenes import SceneDataset
from model.instructvla import InstructVLA
from model.prompts import Batch, Prompter, PromptIds, collate, share_picture
from model.training.trainer import ShuffledOrder
from model.vision import preprocess

MADE: dict[str, Way] = {"direct": "plain", "think": "plain", "rewrite": "rewrite", "context": "context"}
"""How the request of each kind of sequence is made; all but "direct" think before they act."""


@dataclass(frozen=True)
class RequestBatch:
    """Pictures (B, 3, H, W); per picture, packed into one sequence, requests, and as many plain commands."""

    pixels: Tensor
    requests: Batch
    commands: Batch

    def to(self, device: torch.device) -> RequestBatch:
        """The same on another device."""
        moved: dict[str, Any] = {name: part.to(device) for name, part in vars(self).items()}
        return RequestBatch(**moved)


class RequestData:
    """Turns pictures into batches of requests about them, by the step alone."""

    def __init__(
        self,
        scenes: SceneDataset,
        prompter: Prompter,
        config: InstructVLAConfig,
        pictures: int,
        each: int,
        ways: Mapping[str, float],
        seed: int,
        requests: Requests | None = None,
    ) -> None:
        """`each` requests per picture; `ways` are the shares of "direct", "think", "rewrite" and "context"."""
        self._scenes, self._prompter, self._config = scenes, prompter, config
        self._each, self._seed = each, seed
        self._order = ShuffledOrder(len(scenes), pictures, seed)
        self._requests = requests or Requests()
        self._ways = ways

    def __call__(self, step: int) -> RequestBatch:
        """The batch of one training step."""
        draw = random.Random(f"requests {self._seed} {step}")
        return self.batch([int(index) for index in self._order(step)], draw)

    def batch(self, pictures: list[int], draw: random.Random) -> RequestBatch:
        """Requests about some pictures; a scene too bare for any is left out, and another one drawn for it."""
        pixels, requests, commands = [], [], []
        for index in pictures:
            said: list[tuple[PromptIds, PromptIds]] = []
            while not said:
                said = self._said(index, draw)
                chosen, index = index, draw.randrange(len(self._scenes))
            pixels.append(preprocess(self._scenes.frame(chosen), self._config.vision))
            requests.append(share_picture([request for request, _ in said]))
            commands.append(share_picture([command for _, command in said]))
        return RequestBatch(torch.stack(pixels), collate(requests), collate(commands))

    def _said(self, index: int, draw: random.Random) -> list[tuple[PromptIds, PromptIds]]:
        found: dict[tuple[int, ...], tuple[PromptIds, PromptIds]] = {}
        for _ in range(self._each):
            (way,) = draw.choices(list(self._ways), list(self._ways.values()))
            request = self._requests.draw(self._scenes[index], draw, MADE[way])
            if request is not None:
                prompter = self._prompter
                thinks = prompter.think_example(request.words, request.reply)
                own = prompter.act_example(request.words) if way == "direct" else thinks
                found[tuple(own.ids.tolist())] = own, prompter.act_example(request.command)
        return list(found.values())


def losses(
    model: InstructVLA, teacher: InstructVLA, batch: RequestBatch, gates: Tensor | None = None
) -> dict[str, Tensor]:
    """The LM loss on replies ("reply"), and by how much the latents miss ("latent").

    That is the share of the variance over the batch's commands, of what the action expert makes of their latents
    (`ActionExpert.conditions`), that is not explained: 0 is the same, 2 is somebody else's. `teacher` is the model of
    stage 1, with its own eyes and the same action expert.
    """
    batch = batch.to(model.device)
    with torch.no_grad():
        view = model.encode(batch.pixels)
        hidden, _ = teacher.read(batch.commands, teacher.encode(batch.pixels))
        wanted = teacher.latents(hidden, batch.commands)
    reply, latents = model.language(batch.requests, view, gates)
    expert = teacher.action_expert
    missed = [unexplained(*pair) for pair in zip(expert.conditions(latents), expert.conditions(wanted), strict=True)]
    return {"reply": reply, "latent": torch.stack(missed).mean()}


def unexplained(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean square distance of two (N, F) over the variance of the second along N."""
    variance = wanted.var(0, unbiased=False).mean().clamp_min(1e-6)
    return (values - wanted).square().mean() / variance
