"""The released models' action expert: FiLM on DINOv2, and a bidirectional transformer over everything it knows.

Sequence [visual | latent | state, if the model takes it | noisy actions] with rotary positions; the actions' last
hidden states become the velocity (reference 2.4 to 2.6). It differs from the nano's in what `Compat` names: no pair of
tokens is masked, so visual tokens see the noisy actions and no Euler step can reuse another's keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.action_expert import ExpertLayer, rotary, time_embedding
from model.config import ReleasedConfig
from model.flow import euler
from model.pointing import mlp
from model.vision import Block


class FilmDino(nn.Module):
    """DINOv2 with registers up to the block whose output is used; the latent action modulates every block."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        dino, depth = config.dino, config.compat.feature_block + 1
        self.patch = nn.Conv2d(3, dino.dim, dino.patch, stride=dino.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dino.dim))
        self.registers = nn.Parameter(torch.zeros(1, dino.registers, dino.dim))
        self.position = nn.Parameter(torch.zeros(1, (dino.size // dino.patch) ** 2, dino.dim))
        self.blocks = nn.ModuleList(Block(dino.dim, dino.heads) for _ in range(depth))
        self.film = nn.ModuleList(nn.Linear(config.decoder.dim, 2 * dino.dim) for _ in range(depth))

    def walk(self, pixels: Tensor, latents: Tensor) -> Iterator[Tensor]:
        """Output of every block, (B, 1 + registers + N, dim), for pictures (B, 3, S, S) and latents (B, Q, D)."""
        patches = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2) + self.position
        marks = (self.cls.expand(len(patches), -1, -1), self.registers.expand(len(patches), -1, -1))
        x = torch.cat([*marks, patches], dim=1)
        mean = latents.mean(dim=1)
        for block, film in zip(self.blocks, self.film, strict=True):
            gamma, beta = film(mean)[:, None].chunk(2, dim=-1)
            x = block(x, film=(gamma, beta))
            yield x

    def forward(self, pixels: Tensor, latents: Tensor) -> Tensor:
        """Pictures (B, I, 3, S, S) and latents (B, Q, D) to features (B, N * I, dim).

        Several pictures of one moment are interleaved token by token (reference 2.5).
        """
        batch, pictures = pixels.shape[:2]
        *_, last = self.walk(pixels.flatten(0, 1), latents.repeat_interleave(pictures, 0))
        features = last[:, 1 + self.registers.shape[1] :]
        return features.unflatten(0, (batch, pictures)).transpose(1, 2).flatten(1, 2)


class ReleasedExpert(nn.Module):
    """Latents, pictures and, in the models that take it, robot state to the velocity of a chunk of actions."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        self.config = config.action
        self.bias = config.compat.attention_bias
        self.conditioning = config.queries + bool(config.action.proprio_dim)
        dim, chunk, width = config.action.dim, config.action.chunk, config.action.action_dim
        self.dino = FilmDino(config)
        self.visual_projector = mlp(config.dino.dim, dim, dim)
        self.latent_projector = mlp(config.decoder.dim, dim, dim)
        self.state_embed = mlp(config.action.proprio_dim, dim, dim) if config.action.proprio_dim else None
        self.action_in = nn.Linear(width, dim)
        self.action_time = mlp(2 * dim, dim, dim)
        self.layers = nn.ModuleList(
            ExpertLayer(dim, config.action.heads, config.action.mlp) for _ in range(config.action.layers)
        )
        self.out_norm = nn.RMSNorm(dim, eps=1e-6)
        widths = (chunk * dim, 4 * dim, 2 * dim, dim // 2)
        hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
        self.action_head = nn.Sequential(*hidden, nn.Linear(widths[-1], chunk * width))

    def context(self, pixels: Tensor, latents: Tensor, proprio: Tensor | None) -> Tensor:
        """The sequence before the actions (B, L, dim), which all Euler steps share.

        From pictures (B, I, 3, S, S), latents (B, Q, D) and normalised proprio (B, 8) or None. Raises
        `ValueError` where the model takes state and there is none.
        """
        visual = self.visual_projector(self.dino(pixels, latents))
        parts = [visual, self.latent_projector(latents)]
        if self.state_embed is not None:
            if proprio is None:
                raise ValueError("This model was trained with the robot's state: give it the observation's proprio.")
            parts.append(self.state_embed(proprio.to(visual.dtype))[:, None])
        return torch.cat(parts, dim=1)

    def velocity(self, context: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Velocity (B, T, 7), float32, of noisy chunks (B, T, 7) at times (B,)."""
        x = torch.cat([context, self.embed(noisy, time)], dim=1)
        positions = rotary(x.shape[1], 0, self.config.dim // self.config.heads, self.config.rope_theta, x.device)
        bias = self.attention_bias(context.shape[1], x)
        for layer in self.layers:
            x, _ = layer(x, positions, bias=bias)
        actions = self.out_norm(x)[:, -noisy.shape[1] :]
        return self.action_head(actions.flatten(1)).unflatten(-1, noisy.shape[1:]).float()

    def embed(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Action tokens (B, T, D) of noisy chunks (B, T, 7) at times (B,)."""
        noisy = noisy.to(self.action_in.weight.dtype)
        when = time_embedding(time, self.config.dim).to(noisy.dtype)[:, None].expand(-1, noisy.shape[1], -1)
        return self.action_time(torch.cat([when, self.action_in(noisy)], dim=-1))

    def attention_bias(self, prefix: int, x: Tensor) -> Tensor:
        """(L, L) for a sequence x (B, L, dim) with `prefix` tokens before the actions.

        Visual tokens were meant to see visual ones, the rest of the prefix all of it, actions everything. That mask
        reached the attention as numbers: allowed pairs get `bias` more, the others are not hidden.
        """
        length, visual = x.shape[1], prefix - self.conditioning
        allowed = torch.zeros(length, length, dtype=torch.bool, device=x.device)
        allowed[:visual, :visual] = True
        allowed[visual:prefix, :prefix] = True
        allowed[prefix:] = True
        scores = torch.zeros(length, length, dtype=x.dtype, device=x.device)
        return scores.masked_fill(~allowed, -torch.inf) if self.bias is None else scores.masked_fill(allowed, self.bias)

    def sample(self, context: Tensor, noise: Tensor) -> Tensor:
        """Normalised actions (B, T, 7) from `noise` of that shape, in Euler steps."""
        return euler(lambda x, t: self.velocity(context, x, t), noise, self.config.euler_steps)
