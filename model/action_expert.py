"""The action expert: looks again at the image with the latent action in mind, then samples a chunk of actions.

A FiLM-modulated copy of the vision tower's last blocks (paper section 3.2; FiLM from the mean latent, after the
attention residual) feeds a small transformer over [visual | latents | places | state | noisy actions] with a
block-causal mask: visual tokens see visual tokens, conditioning sees all but actions, actions see everything. Because
the prefix never sees the actions, its keys and values are computed once and shared by all Euler steps.

The nano adds one thing to the released design: two of its tokens are *places*, a source and a target pointed at in
the image by attention from the latents and lifted to the robot's base frame. They are supervised from the simulator
during training, make a few thousand demonstrations enough, and show a visitor what the robot is looking at. The
generalist is also told how the source lies (`Heading`): demonstrations alone did not teach it to turn its hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import attend
from model.config import InstructVLAConfig
from model.products import linear
from model.vision import Block, pixel_shuffle

PLACES = 2
PLACE_ORIGIN = (0.3, 0.0, 0.03)
PLACE_SCALE = 0.1
FOURIER_BANDS = 5
YAW = 5
"""Where proprioception has the gripper's commanded yaw [rad], and an action how it turns."""


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, SiLU, Linear: the projector form used throughout the released expert."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def fourier(values: Tensor, bands: int = FOURIER_BANDS) -> Tensor:
    """Append sin and cos of `values` at octave frequencies: (..., D) to (..., D (1 + 2 bands)), float32."""
    values = values.float()
    scaled = values[..., None] * (math.pi * 2.0 ** torch.arange(bands, device=values.device))
    return torch.cat([values, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], dim=-1)


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


class Pointer(nn.Module):
    """Where the latents point: attention over patches, refined below patch size, lifted to the base frame."""

    origin: Tensor

    def __init__(self, latent_dim: int, feature_dim: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.query = nn.Linear(latent_dim, PLACES * feature_dim)
        self.feature_norm = nn.LayerNorm(feature_dim)
        point_dim = 2 * (1 + 2 * FOURIER_BANDS)
        self.refine = mlp(feature_dim + point_dim, hidden, 2)
        self.lift = mlp(feature_dim + point_dim, hidden, 3)
        rows, columns = grid
        v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        self.register_buffer("centres", torch.stack([u, v], -1).flatten(0, 1), persistent=False)
        self.register_buffer("cell", torch.tensor([1 / columns, 1 / rows]), persistent=False)
        self.register_buffer("origin", torch.tensor(PLACE_ORIGIN), persistent=False)

    def forward(self, latents: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Point with (B, latent_dim) at (B, N, feature_dim).

        Returns log-attention (B, 2, N), image points (B, 2, 2) as u, v in [0, 1], places (B, 2, 3) in metres in the
        base frame, and the attended features (B, 2, feature_dim).
        """
        with torch.autocast(latents.device.type, enabled=False):  # bf16 would round coordinates to whole pixels
            query = self.query(latents.float()).unflatten(-1, (PLACES, -1))
            keys = self.feature_norm(features.float())
            heat = query @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
            weights = heat.softmax(-1)
            attended, coarse = weights @ keys, weights @ self.centres
            points = coarse + self.cell * self.refine(torch.cat([attended, fourier(coarse)], dim=-1))
            places = self.origin + PLACE_SCALE * self.lift(torch.cat([attended, fourier(points)], dim=-1))
        return heat.log_softmax(-1), points, places, attended


class Heading(nn.Module):
    """How the thing at a point of the picture lies, read off the tokens around it.

    Told as (cos 2y, sin 2y, cos 4y, sin 4y) of the gripper's yaw y that fits, in the base frame: a long thing looks the
    same after half a turn, a square one (the first two are 0) after a quarter, and of a round one all are 0.
    """

    around: Tensor

    def __init__(self, dim: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        rows, columns = grid
        v, u = torch.meshgrid(torch.arange(-1, 2) / rows, torch.arange(-1, 2) / columns, indexing="ij")
        self.register_buffer("around", torch.stack([u, v], -1), persistent=False)
        self.norm = nn.LayerNorm(9 * dim)
        self.read = mlp(9 * dim, hidden, 4)

    def forward(self, trunk: Tensor, points: Tensor) -> Tensor:
        """Trunk tokens (B, 1 + N, Dv) and points (B, 2) as u, v in [0, 1] to (B, 4), float32."""
        with torch.autocast(trunk.device.type, enabled=False):
            tokens = trunk[:, 1:].float().transpose(1, 2).unflatten(-1, self.grid)
            where = 2 * (points.float()[:, None, None] + self.around) - 1
            near = F.grid_sample(tokens, where, padding_mode="border", align_corners=False)
            return self.read(self.norm(near.flatten(1)))


def turned(heading: Tensor, yaw: Tensor) -> Tensor:
    """A `Heading` (B, 4) as seen by a gripper that has turned to `yaw` (B,) [rad] already."""
    pairs = heading.unflatten(-1, (2, 2))
    angle = yaw.float()[:, None] * torch.tensor([2.0, 4.0], device=yaw.device)
    cosine, sine = angle.cos(), angle.sin()
    x, y = pairs.unbind(-1)
    return torch.stack([x * cosine + y * sine, y * cosine - x * sine], -1).flatten(1)


@dataclass
class Context:
    """Everything about one observation that the Euler steps share."""

    cache: list[tuple[Tensor, Tensor]]
    length: int
    heat: Tensor
    points: Tensor
    places: Tensor
    turn: Tensor | None
    """The yaws (B, T) that are added to what the transformer makes of them, where there is a `Heading`."""

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
        if action.heading:
            self.heading = Heading(vision.dim, dim, vision.grid)
            self.turn = mlp(4 + (action.proprio_dim + 2 * 3) * (1 + 2 * FOURIER_BANDS), dim, action.chunk)
            for parameter in self.turn[-1].parameters():  # an expert that has learned acts on as before
                nn.init.zeros_(parameter)
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
        heat, points, places, attended = self.pointer(thought.flatten(1), features)
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
        turn = None
        if self.config.action.heading:
            turn = self.turning(self.heading(trunk, points[:, 0].detach()), places[:, 0].detach(), proprio)
        return Context(cache, length, heat, points, places, turn)

    def turning(self, heading: Tensor, place: Tensor, proprio: Tensor) -> Tensor:
        """The chunk's yaws (B, T), normalised, towards a thing that lies so (B, 4) at a place (B, 3) [m]."""
        relative, absolute = (place - proprio[:, :3].float()) / PLACE_SCALE, (place - self.pointer.origin) / PLACE_SCALE
        known = [turned(heading, proprio[:, YAW]), *map(fourier, (self._state(proprio), relative, absolute))]
        with torch.autocast(heading.device.type, enabled=False):
            return self.turn(torch.cat(known, dim=-1))

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


def point_losses(heat: Tensor, found: Tensor, points: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Supervise where the latents point in the picture: patch cross-entropy, and distance to `points` (B, 2, 2).

    A point outside the picture (its patch cannot be named) does not count.
    """
    inside = ((points > 0) & (points < 1)).all(-1)
    rows, columns = grid
    column = (points[..., 0] * columns).long().clamp(0, columns - 1)
    row = (points[..., 1] * rows).long().clamp(0, rows - 1)
    patch = -heat.gather(-1, (row * columns + column)[..., None]).squeeze(-1)
    near = F.smooth_l1_loss(found, points, reduction="none", beta=0.02).sum(-1)
    weight = inside.float() / inside.float().sum().clamp_min(1)
    return {"patch": (patch * weight).sum(), "point": (near * weight).sum()}


def place_losses(context: Context, places: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """`point_losses`, and the base-frame places; `places` are (B, 2, 5) as u, v, x, y, z."""
    points, metres = places[..., :2], places[..., 2:]
    return {
        **point_losses(context.heat, context.points, points, grid),
        "place": F.smooth_l1_loss(context.places, metres, beta=0.02),
    }
