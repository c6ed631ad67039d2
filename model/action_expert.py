"""The action expert: looks again at the image with the latent action in mind, then samples a chunk of actions.

A FiLM-modulated copy of the vision tower's last blocks (paper section 3.2; FiLM from the mean latent, after the
attention residual) feeds a small transformer over [visual | latents | places | state | noisy actions] with a
block-causal mask: visual tokens see visual tokens, conditioning sees all but actions, actions see everything. Because
the prefix never sees the actions, its keys and values are computed once and shared by all Euler steps.

The nano adds one thing to the released design: two of its tokens are *places*, a source and a target pointed at in
the image by attention from the latents and lifted to the robot's base frame (`model/pointing.py`). They are supervised
from the simulator during training, make a few thousand demonstrations enough, and show a visitor what the robot is
looking at. A closer look then tells where exactly both are and how the source lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import attend
from model.config import InstructVLAConfig
from model.pointing import (
    FOURIER_BANDS,
    PLACE_SCALE,
    Closeup,
    Pointer,
    Turning,
    fourier,
    mlp,
    point_losses,
)
from model.products import linear
from model.vision import Block, pixel_shuffle

YAW = 5
"""Where proprioception has the gripper's commanded yaw [rad], and an action how it turns."""


def time_embedding(time: Tensor, dim: int) -> Tensor:
    """Sinusoids of t in [0, 1] at frequencies 1 .. 1/100 (reference: released expert). (B,) to (B, dim)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(100.0) * torch.arange(half, device=time.device) / (half - 1))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary(length: int, start: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, head_dim) of positions start .. start + length - 1, half-rotation layout."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(start, start + length, device=device).float()[:, None] * inverse
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions to (..., length, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-second, first], dim=-1) * sine).to(x.dtype)


class ExpertLayer(nn.Module):
    """Pre-norm transformer layer whose keys and values can be kept for later queries."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-6)
        self.gate_up = nn.Linear(dim, 2 * mlp_dim, bias=False)
        self.down = nn.Linear(mlp_dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        positions: tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, L, D) to (B, L, D), and this layer's (keys, values) of shape (B, heads, L, D / heads)."""
        qkv = linear(self.attention_norm(x), self.qkv.weight)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, *positions), rotate(key, *positions)
        own = (key, value)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = attend(query, key, value, bias)
        x = x + linear(attended.transpose(1, 2).flatten(2), self.out.weight)
        gate, up = linear(self.mlp_norm(x), self.gate_up.weight).chunk(2, dim=-1)
        return x + linear(F.silu(gate) * up, self.down.weight), own


class Standardise(nn.Module):
    """Centre and scale by running statistics, the same in training and in use.

    Latents share a large constant part (five times their spread, on the nano) in which the instruction would drown.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("square", torch.ones(shape))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) to the same, float32, of about zero mean and unit spread. In training the statistics follow."""
        x = x.float()
        if self.training:
            with torch.no_grad():
                self.seen += 1
                share = (1 / self.seen).clamp_min(self.momentum)  # a plain average first, then a moving one
                self.mean.lerp_(x.detach().mean(0), share)
                self.square.lerp_(x.detach().square().mean(0), share)
        spread = (self.square - self.mean.square()).clamp_min(1e-4).sqrt()
        return ((x - self.mean) / spread).clamp(-8, 8)


@dataclass
class Context:
    """Everything about one observation that the Euler steps share."""

    cache: list[tuple[Tensor, Tensor]]
    length: int
    heat: Tensor
    pointed: Tensor
    """Image points (B, 2, 2) as the pointer finds them."""
    lifted: Tensor
    """The same in the base frame (B, 2, 3) [m]."""
    points: Tensor
    places: Tensor
    """Both after the closer look, where there is one."""
    turn: Tensor | None
    """The yaws (B, T) that are added to what the transformer makes of them, where it is known how the source lies."""

    def repeat(self, times: int) -> list[tuple[Tensor, Tensor]]:
        """Cached keys and values, each batch row repeated for several noise draws."""
        if times == 1:
            return self.cache
        return [(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in self.cache]


class ActionExpert(nn.Module):
    """Latents, vision-trunk tokens and robot state to the velocity of a chunk of normalised actions."""

    state_low: Tensor
    state_high: Tensor

    def __init__(self, config: InstructVLAConfig) -> None:
        super().__init__()
        vision, action = config.vision, config.action
        self.config = config
        self.grid = vision.grid
        self.shuffle = vision.shuffle
        depth = vision.layers - vision.trunk_layers
        latent_dim, dim = config.decoder.dim, action.dim
        self.blocks = nn.ModuleList(Block(vision.dim, vision.heads) for _ in range(depth))
        films = [nn.Linear(latent_dim, 2 * vision.dim) for _ in range(depth)]
        self.film = nn.ModuleList(films)
        for film in films:
            nn.init.zeros_(film.weight)
            nn.init.zeros_(film.bias)
        self.norm = nn.LayerNorm(vision.dim, eps=1e-6)
        self.latent_norm = Standardise((config.queries, latent_dim))
        self.visual_projector = mlp(vision.dim * vision.shuffle**2, dim, dim)
        self.latent_projector = mlp(latent_dim, dim, dim)
        self.pointer = Pointer(config.queries * dim, vision.dim, dim, vision.grid)
        self.place_embed = mlp(vision.dim + 2 * 3 * (1 + 2 * FOURIER_BANDS), dim, dim)
        self.state_embed = mlp(action.proprio_dim * (1 + 2 * FOURIER_BANDS), dim, dim)
        if action.closeup:
            self.closeup = Closeup(vision.dim, dim, vision.grid)
            self.turn = Turning(action.proprio_dim, dim, action.chunk)
        self.action_in = nn.Linear(action.action_dim, dim)
        self.action_time = mlp(2 * dim, dim, dim)
        self.layers = nn.ModuleList(ExpertLayer(dim, action.heads, action.mlp) for _ in range(action.layers))
        self.out_norm = nn.RMSNorm(dim, eps=1e-6)
        flat = action.chunk * action.action_dim
        self.action_head = nn.Sequential(
            nn.Linear(action.chunk * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, flat)
        )
        self.register_buffer("state_low", torch.full((action.proprio_dim,), -1.0))
        self.register_buffer("state_high", torch.ones(action.proprio_dim))

    def look(self, trunk: Tensor, latents: Tensor) -> Tensor:
        """FiLM-modulated second look: trunk tokens (B, 1 + N, Dv) and latents (B, Q, D) to features (B, N, Dv)."""
        mean = latents.mean(dim=1)
        x = trunk
        for block, film in zip(self.blocks, self.film, strict=True):
            gamma, beta = film(mean)[:, None].chunk(2, dim=-1)
            x = block(x, film=(gamma, beta) if self.config.action.film else None)
        features = self.norm(x)[:, 1:]
        return features if self.config.action.second_look else torch.zeros_like(features)

    def conditions(self, latents: Tensor) -> list[Tensor]:
        """All that latents (B, Q, D) tell the expert: its own tokens for them (B, Q * dim), and their FiLM (B, F)."""
        latents = self.latent_norm(latents)
        mean = latents.mean(dim=1)
        return [self.latent_projector(latents).flatten(1), torch.cat([film(mean) for film in self.film], dim=-1)]

    def point(self, trunk: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Where latents (B, Q, D) point in a picture, whatever the arm does: see `Pointer` for both results."""
        latents = self.latent_norm(latents)
        features = self.look(trunk, latents)
        return self.pointer(self.latent_projector(latents).flatten(1), features)[:2]

    def context(self, trunk: Tensor, latents: Tensor, proprio: Tensor) -> Context:
        """Encode one observation: trunk (B, 1 + N, Dv), latents (B, Q, D), raw proprio (B, 8)."""
        latents = self.latent_norm(latents)
        features = self.look(trunk, latents)
        visual = self.visual_projector(pixel_shuffle(features, self.grid, self.shuffle))
        thought = self.latent_projector(latents)
        heat, pointed, lifted, attended = self.pointer(thought.flatten(1), features)
        points, places, lie = pointed, lifted, None
        if self.config.action.closeup:
            looks, places, lies = self.closeup(trunk, pointed.detach())
            points, lie = looks[-1], lies[:, 0]
        relative = (places - proprio[:, None, :3].float()) / PLACE_SCALE
        absolute = (places - self.pointer.origin) / PLACE_SCALE
        where = torch.cat([attended, fourier(relative), fourier(absolute)], dim=-1)
        state = fourier(self._state(proprio))
        conditioning = [thought, self.place_embed(where), self.state_embed(state)[:, None]]
        x = torch.cat([visual, *(token.to(visual.dtype) for token in conditioning)], dim=1)
        length, seen = x.shape[1], visual.shape[1]
        bias = torch.zeros(length, length, device=x.device)
        bias[:seen, seen:] = -torch.inf
        positions = self._positions(length, 0, x.device)
        cache = []
        for layer in self.layers:
            x, own = layer(x, positions, bias=bias)
            cache.append(own)
        turn = None if lie is None else self.turning(lie, places[:, 0], proprio)
        return Context(cache, length, heat, pointed, lifted, points, places, turn)

    def turning(self, lies: Tensor, place: Tensor, proprio: Tensor, far: bool = False) -> Tensor:
        """The chunk's yaws (B, T), normalised, towards a thing that lies so (B, 4) at a place (B, 3) [m]."""
        relative = (place - proprio[:, :3].float()) / PLACE_SCALE
        return self.turn(lies, proprio[:, YAW].float(), self._state(proprio), relative, far)

    def _state(self, proprio: Tensor) -> Tensor:
        span = (self.state_high - self.state_low).clamp_min(1e-6)
        return (2 * (proprio.float() - self.state_low) / span - 1).clamp(-1.5, 1.5)

    def velocity(self, context: Context, noisy: Tensor, time: Tensor) -> Tensor:
        """Velocity of noisy chunks. `noisy` (B, T, 7), `time` (B,); B may be a multiple of the context's batch."""
        repeats = noisy.shape[0] // context.points.shape[0]
        when = time_embedding(time, self.config.action.dim)[:, None].expand(-1, noisy.shape[1], -1)
        x = self.action_time(torch.cat([when, self.action_in(noisy)], dim=-1))
        positions = self._positions(noisy.shape[1], context.length, x.device)
        for layer, past in zip(self.layers, context.repeat(repeats), strict=True):
            x, _ = layer(x, positions, past=past)
        velocity = self.action_head(self.out_norm(x).flatten(1)).unflatten(-1, noisy.shape[1:]).float()
        if context.turn is not None:
            velocity[..., YAW] += context.turn.repeat_interleave(repeats, 0)
        return velocity

    def _positions(self, length: int, start: int, device: torch.device) -> tuple[Tensor, Tensor]:
        head_dim = self.config.action.dim // self.config.action.heads
        return rotary(length, start, head_dim, self.config.action.rope_theta, device)


def place_losses(context: Context, places: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """`point_losses`, and the base-frame places; `places` are (B, 2, 5) as u, v, x, y, z."""
    points, metres = places[..., :2], places[..., 2:]
    return {
        **point_losses(context.heat, context.pointed, points, grid),
        "place": F.smooth_l1_loss(context.lifted, metres, beta=0.02),
    }
