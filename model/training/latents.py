"""Requests acted upon by example: the generalist's latent actions are drawn towards the acting model's.

The frozen action expert has learned to read the latents of the stage 1 model. What that model's latents tell it for the
plain command is what the generalist's have to tell it for the same wish in any words, thought about or not. So requests
about any picture can be learned, without a recorded motion and without the action expert's look at the picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import InstructVLAConfig
from model.data.requests import Requests, Way
from model.data.scenes import SceneDataset
from model.instructvla import InstructVLA
from model.pointing import point_losses
from model.prompts import Batch, Prompter, PromptIds, collate, share_picture
from model.training.trainer import ShuffledOrder
from model.vision import preprocess

Said = tuple[PromptIds, PromptIds, Tensor]
"""A request, the plain command, and where what they are about is."""
ASTRAY = 0.1
"""An example that points farther than this, in shares of the picture, beside what is meant is not followed."""
MADE: dict[str, Way] = {"direct": "plain", "think": "plain", "rewrite": "rewrite", "context": "context"}
"""How the request of each kind of sequence is made; all but "direct" think before they act."""


@dataclass(frozen=True)
class RequestBatch:
    """Pictures (B, 3, H, W); per picture, packed into one sequence, requests, and as many plain commands.

    `points` (N, 2, 2) are the image positions of what the N requests are about, source and target; -1 where unknown.
    """

    pixels: Tensor
    requests: Batch
    commands: Batch
    points: Tensor

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
        pixels, requests, commands, points = [], [], [], list[Tensor]()
        for index in pictures:
            said: list[Said] = []
            while not said:
                said = self._said(index, draw)
                chosen, index = index, draw.randrange(len(self._scenes))
            pixels.append(preprocess(self._scenes.frame(chosen), self._config.vision))
            requests.append(share_picture([request for request, _, _ in said]))
            commands.append(share_picture([command for _, command, _ in said]))
            points += [places for _, _, places in said]
        return RequestBatch(torch.stack(pixels), collate(requests), collate(commands), torch.stack(points))

    def _said(self, index: int, draw: random.Random) -> list[Said]:
        found: dict[tuple[int, ...], Said] = {}
        for _ in range(self._each):
            (way,) = draw.choices(list(self._ways), list(self._ways.values()))
            request = self._requests.draw(self._scenes[index], draw, MADE[way])
            if request is not None:
                prompter = self._prompter
                thinks = prompter.think_example(request.words, request.reply)
                own = prompter.act_example(request.words) if way == "direct" else thinks
                places = torch.tensor([(-1.0, -1.0) if place is None else tuple(place[:2]) for place in request.places])
                found[tuple(own.ids.tolist())] = own, prompter.act_example(request.command), places
        return list(found.values())


class Teacher:
    """The model of stage 1, with its own eyes and the same action expert, as an example."""

    def __init__(self, model: InstructVLA, examples: Iterable[RequestBatch]) -> None:
        """`examples` show how much what it makes of commands varies."""
        self.model = model
        wanted = [self.wanted(batch)[0] for batch in examples]
        self._variances = [max(1e-6, float(torch.cat(parts).var(0).mean())) for parts in zip(*wanted, strict=True)]

    @torch.no_grad()
    def wanted(self, batch: RequestBatch) -> tuple[list[Tensor], Tensor]:
        """What the action expert makes of the latents of the plain commands; see `ActionExpert.conditions`.

        And which of the N (N,) are to be followed: those that point at what is meant, as far as that is known.
        """
        batch = batch.to(self.model.device)
        view, expert = self.model.encode(batch.pixels), self.model.action_expert
        hidden, _ = self.model.read(batch.commands, view)
        latents = self.model.latents(hidden, batch.commands)
        times = batch.commands.query_positions.sum(1) // self.model.queries
        _, found = expert.point(view.trunk.repeat_interleave(times, 0), latents)
        near = (found - batch.points).norm(dim=-1) < ASTRAY
        return expert.conditions(latents), (near | (batch.points < 0).all(-1)).all(-1)

    def unexplained(self, latents: Tensor, batch: RequestBatch) -> Tensor:
        """By how much the latents (N, Q, D) of the requests miss: mean square distance over variance.

        0 is the same, 2 is another command's. Where the example itself goes astray, nothing is missed.
        """
        made = self.model.action_expert.conditions(latents)
        wanted, right = self.wanted(batch)
        missed = torch.stack([
            (own - example).square().flatten(1).mean(1) / variance
            for own, example, variance in zip(made, wanted, self._variances, strict=True)
        ]).mean(0)  # fmt: skip
        return (missed * right).sum() / right.sum().clamp(min=1)


def losses(
    model: InstructVLA, teacher: Teacher, batch: RequestBatch, gates: Tensor | None = None
) -> dict[str, Tensor]:
    """The LM loss on replies ("reply"), by how much the latents miss ("latent", `Teacher.unexplained`), and by how much
    they point beside what is meant ("patch" and "point", `point_losses`)."""
    batch = batch.to(model.device)
    with torch.no_grad():
        view = model.encode(batch.pixels)
    reply, latents = model.language(batch.requests, view, gates)
    times = batch.requests.query_positions.sum(1) // model.queries
    heat, found = model.action_expert.point(view.trunk.repeat_interleave(times, 0), latents)
    pointed = point_losses(heat, found, batch.points, model.config.vision.grid)
    return {"reply": reply, "latent": teacher.unexplained(latents, batch), **pointed}
