"""The composition: picture and words in, thought, latent action and motion out.

Flow of one decision: `encode` (vision trunk once, image tokens for the decoder), a prompt decoded into a cache with
optional text (`Decoder.generate`), `read_latents` (the latent action at the query positions), `act` (flow matching in
the action expert). Training runs `language` and `action_losses` on batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.action_expert import ActionExpert, Context, place_losses
from model.cache import DecoderCache
from model.config import InstructVLAConfig
from model.flow import euler, interpolate, sample_time, target_velocity
from model.language import IGNORE, Decoder
from model.prompts import EXTRA_TOKENS, Batch, PromptIds
from model.vision import Connector, DinoV2, pixel_shuffle


@dataclass
class View:
    """One encoded batch of pictures: what the action expert starts from, and the decoder's image tokens (B, M, D).

    The expert's `trunk` is vision tokens (B, 1 + N, Dv) in the nano, normalised pictures (B, I, 3, S, S) in a released
    model, whose expert has eyes of its own.
    """

    trunk: Tensor
    tokens: Tensor


class LanguageModel(nn.Module):
    """What every InstructVLA has in common: a decoder that reads pictures and writes text and latent actions."""

    decoder: Decoder
    autocast: bool
    """Whether use needs bf16 autocast, because weights of several dtypes meet."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = queries

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.decoder.new_rows.device

    def embed(self, ids: Tensor, image_positions: Tensor, image_tokens: Tensor) -> Tensor:
        """Token embeddings (B, T, D) with the image slots (boolean (B, T)) filled by `image_tokens` (B, M, D)."""
        embeds = self.decoder.embed(ids)
        return embeds.masked_scatter(image_positions[..., None], image_tokens.to(embeds.dtype))

    def language(self, batch: Batch, view: View, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """LM loss, and a latent action (N, Q, D) for each of the N sequences or branches that end in queries."""
        hidden, _ = self.read(batch, view, gates)
        return self.speech_loss(hidden, batch), self.latents(hidden, batch)

    def read(self, batch: Batch, view: View, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D) and gates (B, T, K) of full sequences; see `Decoder.forward` for given gates."""
        embeds = self.embed(batch.ids, batch.image_positions, view.tokens)
        return self.decoder(embeds, branch=batch.branch, gates=gates)

    def gate_states(self, batch: Batch, view: View) -> Tensor:
        """What the scale head reads: the base's hidden states (B, T, D) of full sequences."""
        return self.decoder.base_states(self.embed(batch.ids, batch.image_positions, view.tokens), batch.branch)

    def latents(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The latent actions (N, Q, D) among hidden states."""
        return hidden[batch.query_positions].unflatten(0, (-1, self.queries))

    def speech_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the labelled tokens."""
        targets = batch.labels[:, 1:]
        supervised = targets != IGNORE  # the head is big: only positions that count pass through it
        logits = self.decoder.logits(hidden[:, :-1][supervised])
        return F.cross_entropy(logits.float(), targets[supervised])

    def open_prompt(
        self, prompt: PromptIds, view: View, room: int, shared: bool = False
    ) -> tuple[Tensor, DecoderCache]:
        """Embeddings (1, T, D) of an open prompt, and a cache with room for it, `room` more tokens and the queries.

        `shared` is `Decoder.new_cache`'s.
        """
        ids, positions = prompt.ids[None].to(self.device), prompt.image_positions[None].to(self.device)
        cache = self.decoder.new_cache(ids.shape[1] + room + self.queries, shared=shared)
        return self.embed(ids, positions, view.tokens), cache


EXACT = ("pointer.", "state_", "latent_norm.", "closeup.", "turn.")
"""Parts of the action expert that are kept in float32."""


class InstructVLA(LanguageModel):
    """Unified vision-language-action model (arXiv 2507.17520); weights are random until loaded."""

    autocast = False

    def __init__(self, config: InstructVLAConfig) -> None:
        super().__init__(config.queries)
        self.config = config
        self.vision = DinoV2(config.vision)
        self.connector = Connector(config.vision, config.decoder.dim)
        self.decoder = Decoder(config.decoder, config.lora, extra_tokens=config.queries + EXTRA_TOKENS)
        self.action_expert = ActionExpert(config)

    def encode(self, pixels: Tensor) -> View:
        """Normalised pixels (B, 3, H, W) to both branches' tokens."""
        trunk = self.vision.trunk(pixels)
        vision = self.config.vision
        return View(trunk, self.connector(pixel_shuffle(self.vision.tail(trunk), vision.grid, vision.shuffle)))

    def read_latents(self, cache: DecoderCache, ids: Tensor, before: Tensor | None = None) -> Tensor:
        """Append ids (B, T) that end in the queries to a decoded prefix; returns the latent action (B, Q, D).

        `before` are embeddings (B, N, D) of a prompt that has not been decoded yet: it is read in the same pass.
        """
        embeds = self.decoder.embed(ids)
        hidden, _ = self.decoder(embeds if before is None else torch.cat([before, embeds], 1), cache=cache)
        return hidden[:, -self.config.queries :]

    def action_losses(
        self,
        trunk: Tensor,
        latents: Tensor,
        proprio: Tensor,
        actions: Tensor,
        valid: Tensor,
        places: Tensor,
        draws: int,
    ) -> dict[str, Tensor]:
        """Flow-matching loss and place supervision.

        `actions` (B, T, 7) normalised, of which `valid` (B, T) count; `places` (B, 2, 5) as u, v, x, y, z; `draws` is
        the number of noise samples per observation, which share its encoding.
        """
        context = self.action_expert.context(trunk, latents, proprio)
        target, weight = actions.repeat_interleave(draws, 0), valid.repeat_interleave(draws, 0)[..., None].float()
        noise = torch.randn_like(target)
        time = sample_time((len(target),), device=target.device)
        sigma = self.config.action.sigma_min
        velocity = self.action_expert.velocity(context, interpolate(noise, target, time, sigma), time)
        error = F.mse_loss(velocity, target_velocity(noise, target, sigma), reduction="none") * weight
        flow = error.sum() / (weight.sum() * error.shape[-1]).clamp_min(1)
        return {"flow": flow, **place_losses(context, places, self.config.vision.grid)}

    def act(self, trunk: Tensor, latents: Tensor, proprio: Tensor, noise: Tensor) -> tuple[Tensor, Context]:
        """Sample chunks: normalised actions (B, T, 7) from `noise` of that shape, and what the expert looked at."""
        context = self.action_expert.context(trunk, latents, proprio)
        steps = self.config.action.euler_steps
        return euler(lambda x, t: self.action_expert.velocity(context, x, t), noise, steps), context

    def store_in(self, dtype: torch.dtype, base: torch.dtype) -> None:
        """Keep weights in `dtype` (the frozen backbone in `base`), but what `is_exact` names in float32."""
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if self.is_exact(name) else dtype)
        self.decoder.cast_base(base)
        self.autocast = torch.bfloat16 in (dtype, base)

    @staticmethod
    def is_exact(name: str) -> bool:
        """Whether a tensor carries coordinates or statistics, which bfloat16 would round to pixels or millimetres."""
        return name.startswith(tuple(f"action_expert.{part}" for part in EXACT))

    @staticmethod
    def is_base(name: str) -> bool:
        """Whether a parameter belongs to the frozen language backbone, which checkpoints do not carry."""
        return name.startswith("decoder.") and Decoder.is_base(name.removeprefix("decoder."))
