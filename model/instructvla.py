"""The composition: picture and words in, thought, latent action and motion out.

Flow of one decision: `encode` (vision trunk once, image tokens for the decoder), `think` (optional text, streamed),
`plan` (the latent action read at the query positions), `act` (flow matching in the action expert). Training uses
`language` and `action_losses` on batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.action_expert import ActionExpert, Context, place_losses
from model.config import InstructVLAConfig
from model.flow import euler, interpolate, sample_time, target_velocity
from model.language import Decoder, DecoderCache
from model.prompts import EXTRA_TOKENS, Batch
from model.vision import Connector, DinoV2, pixel_shuffle


@dataclass
class View:
    """One encoded batch of pictures: trunk tokens (B, 1 + N, Dv) and decoder image tokens (B, M, D)."""

    trunk: Tensor
    tokens: Tensor


@dataclass
class Latents:
    """Decoder output over a batch: latent action (B, Q, D), LM loss (None without labels) and gates (B, T, K)."""

    queries: Tensor
    loss: Tensor | None
    gates: Tensor | None


class InstructVLA(nn.Module):
    """Unified vision-language-action model (arXiv 2507.17520); weights are random until loaded."""

    def __init__(self, config: InstructVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = DinoV2(config.vision)
        self.connector = Connector(config.vision, config.decoder.dim)
        self.decoder = Decoder(config.decoder, config.lora, extra_tokens=config.queries + EXTRA_TOKENS)
        self.action_expert = ActionExpert(config)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.connector.device if hasattr(self.connector, "device") else next(self.parameters()).device

    def encode(self, pixels: Tensor) -> View:
        """Normalised pixels (B, 3, H, W) to both branches' tokens."""
        trunk = self.vision.trunk(pixels)
        vision = self.config.vision
        return View(trunk, self.connector(pixel_shuffle(self.vision.tail(trunk), vision.grid, vision.shuffle)))

    def embed(self, ids: Tensor, image_positions: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D) with the image slots (boolean (B, T)) filled by `image_tokens` (B, M, D)."""
        embeds = self.decoder.embed(ids)
        if image_tokens is None:
            return embeds
        return embeds.masked_scatter(image_positions[..., None], image_tokens.to(embeds.dtype))

    def language(self, batch: Batch, view: View | None) -> Latents:
        """One decoder pass over full sequences: LM loss where labelled, latents at the query positions."""
        embeds = self.embed(batch.ids, batch.image_positions, view.tokens if view else None)
        hidden, gates = self.decoder(embeds, batch.mask)
        loss = None
        predicts = batch.labels[:, 1:] != -100
        if predicts.any():
            logits = self.decoder.logits(hidden[:, :-1][predicts])
            loss = F.cross_entropy(logits.float(), batch.labels[:, 1:][predicts])
        queries = hidden[batch.query_positions].reshape(hidden.shape[0], -1, hidden.shape[-1])
        return Latents(queries, loss, gates)

    def action_losses(
        self, trunk: Tensor, latents: Tensor, proprio: Tensor, actions: Tensor, places: Tensor, draws: int
    ) -> dict[str, Tensor]:
        """Flow-matching loss and place supervision.

        `actions` (B, T, 7) normalised; `places` (B, 2, 5) as u, v, x, y, z; `draws` noise samples per observation.
        """
        context = self.action_expert.context(trunk, latents, proprio)
        target = actions.repeat_interleave(draws, 0)
        noise = torch.randn_like(target)
        time = sample_time((target.shape[0],), device=str(target.device))
        sigma = self.config.action.sigma_min
        velocity = self.action_expert.velocity(context, interpolate(noise, target, time, sigma), time)
        return {
            "flow": F.mse_loss(velocity, target_velocity(noise, target, sigma)),
            **place_losses(context, places, self.config.vision.grid),
        }

    def think(
        self, prefix: Prefix, max_tokens: int, stop_ids: frozenset[int], should_stop: Callable[[], bool] | None = None
    ) -> Iterator[int]:
        """Greedy text after `prefix`, token by token; ends before a stop id, which is never fed. Extends the prefix."""
        for _ in range(max_tokens):
            token = int(self.decoder.logits(prefix.last).argmax(-1))
            if token in stop_ids or (should_stop is not None and should_stop()):
                return
            yield token
            self.extend(prefix, torch.tensor([[token]], device=prefix.last.device))

    def prefill(self, ids: Tensor, image_positions: Tensor, view: View | None) -> Prefix:
        """Run a prompt (1, T) into fresh caches."""
        cache = self.decoder.new_cache()
        hidden, gates = self.decoder(self.embed(ids, image_positions, view.tokens if view else None), cache=cache)
        return Prefix(cache, hidden[:, -1], [gates] if gates is not None else [])

    def extend(self, prefix: Prefix, ids: Tensor) -> Tensor:
        """Append tokens (1, T) to a prefix; returns their hidden states (1, T, D)."""
        hidden, gates = self.decoder(self.decoder.embed(ids), cache=prefix.cache)
        prefix.last = hidden[:, -1]
        if gates is not None:
            prefix.gates.append(gates)
        return hidden

    def act(self, trunk: Tensor, latents: Tensor, proprio: Tensor, noise: Tensor) -> tuple[Tensor, Context]:
        """Sample chunks: normalised actions (B, T, 7) from `noise` of that shape, and what the expert looked at."""
        context = self.action_expert.context(trunk, latents, proprio)
        steps = self.config.action.euler_steps
        return euler(lambda x, t: self.action_expert.velocity(context, x, t), noise, steps), context

    def is_base(self, name: str) -> bool:
        """Whether a parameter belongs to the frozen language backbone, which checkpoints do not carry."""
        return self.decoder.is_base(name.removeprefix("decoder.")) if name.startswith("decoder.") else False


@dataclass
class Prefix:
    """A decoded prefix: both caches, the last hidden state (1, D) and the gates so far."""

    cache: DecoderCache
    last: Tensor
    gates: list[Tensor]
