"""A released InstructVLA: SigLIP and Qwen2.5 as the published weights know them, over the parts the nano shares.

One decision: `encode` (tiles for the decoder, pictures for the expert), text from `Decoder.generate`, `plan` (the
latent action at the query positions; what was decoded before is not decoded again), `act` (ten Euler steps).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from model.cache import DecoderCache
from model.config import ReleasedConfig
from model.flow import interpolate, target_velocity
from model.graphs import Recorded
from model.instructvla import LanguageModel, View
from model.language import Decoder
from model.prompts import PromptIds, collate
from model.released_expert import ReleasedExpert
from model.siglip import Siglip
from model.static import StaticStep
from model.vision import Connector, pixel_shuffle

SMALL = 250_000_000
"""Parameters: a gigabyte in float32."""


class ReleasedVLA(LanguageModel):
    """Weights are random until loaded (`model/released_checkpoints.py`). Everything runs in the weights' dtype."""

    autocast = False

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__(config.queries)
        self.config = config
        self.vision = Siglip(config.vision)
        self.connector = Connector(config.vision, config.decoder.dim)
        self.decoder = Decoder(config.decoder, config.lora, extra_tokens=config.queries)
        self.action_expert = ReleasedExpert(config)
        self._sample = Recorded(self.action_expert.sample)

    def settle(self) -> None:
        """Get ready for use where the weights are now: they must not move after.

        A small model on a CPU turns to float32, for which PyTorch's CPU kernels are many times faster at small sizes.
        """
        if self.device.type == "cpu" and sum(weight.numel() for weight in self.parameters()) < SMALL:
            self.float()
        self.decoder.prepare()
        if self.device.type == "cuda":
            self.decoder.static = StaticStep(self.decoder)

    def encode(self, tiles: Tensor, pictures: Tensor | None = None) -> View:
        """Tiles (n, 3, S, S) for the decoder and pictures (B, I, 3, D, D) for the expert, both normalised.

        All tiles of a sequence follow each other; a question needs no `pictures`.
        """
        vision = self.config.vision
        tokens = self.connector(pixel_shuffle(self.vision(tiles), vision.grid, vision.shuffle))
        return View(tiles.new_zeros(0) if pictures is None else pictures, tokens)

    def plan(
        self, prompt: PromptIds, view: View, cache: DecoderCache | None = None, known: Sequence[int] = ()
    ) -> Tensor:
        """Latent action (1, Q, D) of a prompt that ends in the queries.

        `cache` may hold a decoded beginning, of the tokens `known` and about the same picture. Whatever part of it
        the prompt begins with is kept: after a thought little more than the queries is new.
        """
        ids, positions = prompt.ids[None].to(self.device), prompt.image_positions[None].to(self.device)
        embeds = self.embed(ids, positions, view.tokens)
        if cache is not None and not cache.shared and cache.capacity >= ids.shape[1]:
            kept = _common(prompt.ids.tolist()[: cache.length], known)
            cache.crop(kept)
            hidden, _ = self.decoder(embeds[:, kept:], cache)
        else:
            hidden, _ = self.decoder(embeds)
        return hidden[:, -self.queries :]

    def plan_together(self, prompts: Sequence[PromptIds], view: View) -> Tensor:
        """Latent actions (B, Q, D) of several complete prompts in one pass, for comparisons side by side.

        `view` holds one tile per prompt.
        """
        batch = collate(prompts).to(self.device)
        hidden, _ = self.decoder(self.embed(batch.ids, batch.image_positions, view.tokens))
        return hidden[batch.query_positions].view(len(prompts), self.queries, -1)

    def act(self, view: View, latents: Tensor, proprio: Tensor | None, noise: Tensor) -> Tensor:
        """Normalised actions (B, T, 7) from latents (B, Q, D), normalised proprio (B, 8) and noise (B, T, 7)."""
        return self._sample(self.action_expert.context(view.trunk, latents, proprio), noise)

    def flow_loss(
        self, view: View, latents: Tensor, proprio: Tensor | None, actions: Tensor, noise: Tensor, time: Tensor
    ) -> Tensor:
        """Mean squared error of the velocity, all steps counting; `actions` (B, T, 7) normalised, `time` (B,)."""
        sigma = self.config.action.sigma_min
        context = self.action_expert.context(view.trunk, latents, proprio)
        velocity = self.action_expert.velocity(context, interpolate(noise, actions, time, sigma), time)
        return F.mse_loss(velocity, target_velocity(noise, actions, sigma))


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
