"""Where the latents point in a picture, and a closer look at what is there.

`Pointer` finds a source and a target by attention from the latents and lifts them to the robot's base frame. What it
knows comes from demonstrations, which show two things each, and the camera of every one stands a little elsewhere: on
varied scenes it misses by 15 mm, too much for fingers that leave 8 mm on either side of a cube. `Closeup` looks again
at the tokens around each point. Stills, with everything in them known, teach it within minutes where exactly the thing
lies and how, and where the camera stands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLACES = 2
PLACE_ORIGIN = (0.3, 0.0, 0.03)
PLACE_SCALE = 0.1
FOURIER_BANDS = 5
LOOKS = 2
"""How often `Closeup` looks: where it finds a thing, it looks again."""
TURN = 0.25
"""How far [rad] the hand turns in one control step at most, which is 1 after normalisation."""
LONG = 0.5
"""A thing is taken for a long one where what tells that is at least this share of what also square ones have: in the
first pictures of held-out episodes 0.7 and more for long things, 0.25 and less for square ones."""
VIEW_DIM = 16
"""What it keeps of each token to tell where the camera stands."""


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, SiLU, Linear: the projector form used throughout the released expert."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def fourier(values: Tensor, bands: int = FOURIER_BANDS) -> Tensor:
    """Append sin and cos of `values` at octave frequencies: (..., D) to (..., D (1 + 2 bands)), float32."""
    values = values.float()
    scaled = values[..., None] * (math.pi * 2.0 ** torch.arange(bands, device=values.device))
    return torch.cat([values, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], dim=-1)


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


class Closeup(nn.Module):
    """Where exactly the things at some points of a picture are, and how they lie, read off the trunk's tokens.

    The tokens around a point tell where in the picture the thing's centre is, which is then looked at once more; all
    others, where the robot and the table are seen and so where the camera stands. How a thing lies is told as
    (cos 2y, sin 2y, cos 4y, sin 4y) of the gripper's yaw y that fits, in the base frame: a long thing looks the same
    after half a turn, a square one (the first two are 0) after a quarter, and of a round one all are 0.
    """

    around: Tensor
    cell: Tensor
    origin: Tensor

    def __init__(self, dim: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        rows, columns = grid
        v, u = torch.meshgrid(torch.arange(-1, 2) / rows, torch.arange(-1, 2) / columns, indexing="ij")
        self.register_buffer("around", torch.stack([u, v], -1).flatten(0, 1), persistent=False)
        self.register_buffer("cell", torch.tensor([1 / columns, 1 / rows]), persistent=False)
        self.register_buffer("origin", torch.tensor(PLACE_ORIGIN), persistent=False)
        self.near_norm = nn.LayerNorm(9 * dim)
        self.near = nn.Linear(9 * dim, hidden)
        self.shift = nn.Linear(hidden, 2)
        self.lies = nn.Linear(hidden, 4)
        self.view_norm = nn.LayerNorm(dim)
        self.view_part = nn.Linear(dim, VIEW_DIM)
        self.view = nn.Linear(rows * columns * VIEW_DIM, hidden // 2)
        self.lift = mlp(hidden + hidden // 2 + 2 * (1 + 2 * FOURIER_BANDS), hidden, 3)

    def forward(self, trunk: Tensor, points: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Look at trunk tokens (B, 1 + N, Dv) near points (B, K, 2), u and v in [0, 1].

        Returns the points (B, K, 2) as found by each look, the best last, places (B, K, 3) in metres in the base frame,
        and how the things lie (B, K, 4); all float32.
        """
        with torch.autocast(trunk.device.type, enabled=False):
            tokens = trunk[:, 1:].float()
            part = self.view_part(self.view_norm(tokens)).flatten(1)
            view = F.silu(self.view(part))[:, None].expand(-1, points.shape[1], -1)
            picture = tokens.transpose(1, 2).unflatten(-1, self.grid)
            found, point = list[Tensor](), points.float()
            for _ in range(LOOKS):
                where = 2 * (point.detach()[:, :, None] + self.around) - 1
                near = F.grid_sample(picture, where, padding_mode="border", align_corners=False)
                seen = F.silu(self.near(self.near_norm(near.permute(0, 2, 1, 3).flatten(2))))
                point = point.detach() + self.cell * self.shift(seen)
                found.append(point)
            places = self.origin + PLACE_SCALE * self.lift(torch.cat([seen, view, fourier(point)], dim=-1))
            return found, places, self.lies(seen)


class Turning(nn.Module):
    """How the hand turns to the nearest yaw at which its fingers fit.

    That yaw is known where it is known how the thing lies; whether to turn, and at which steps, is learned. Left to
    find the yaw as well, a network learns the mean of both ways round, which is none, for a thing that lies askew.
    """

    def __init__(self, state_dim: int, hidden: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.gates = mlp(6 + (state_dim + 3) * (1 + 2 * FOURIER_BANDS), hidden, chunk)

    def forward(self, lies: Tensor, yaw: Tensor, state: Tensor, relative: Tensor, far: bool = False) -> Tensor:
        """How a thing lies (B, 4), the gripper's yaw (B,) [rad], the robot's state (B, S) and where the thing is from
        there (B, 3), both scaled, to the turns of the chunk's steps (B, T) in units of `TURN`; `far`: the other way
        round."""
        with torch.autocast(lies.device.type, enabled=False):
            seen = turned(lies, yaw).unflatten(-1, (2, 2))
            half, quarter = (torch.atan2(seen[:, i, 1], seen[:, i, 0]) / fold for i, fold in ((0, 2), (1, 4)))
            sure = seen.norm(dim=-1)
            long = sure[:, 0] > LONG * sure[:, 1]
            left = torch.where(long, half, quarter)
            if far:
                left = left - left.sign() * torch.where(long, math.pi, math.pi / 2)
            step = torch.arange(self.chunk, device=yaw.device)
            turns = ((left.abs() / TURN)[:, None] - step).clamp(0, 1) * left.sign()[:, None]
            known = [seen.flatten(1), sure, fourier(state), fourier(relative)]
            return self.gates(torch.cat(known, dim=-1)).sigmoid() * turns


def turned(lies: Tensor, yaw: Tensor) -> Tensor:
    """How a thing lies (B, 4; see `Closeup`) for a gripper that has turned to `yaw` (B,) [rad] already."""
    pairs = lies.unflatten(-1, (2, 2))
    angle = yaw.float()[:, None] * torch.tensor([2.0, 4.0], device=yaw.device)
    cosine, sine = angle.cos(), angle.sin()
    x, y = pairs.unbind(-1)
    return torch.stack([x * cosine + y * sine, y * cosine - x * sine], -1).flatten(1)


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
