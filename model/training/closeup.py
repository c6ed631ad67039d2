"""Where exactly things are and how they lie, learned from still pictures: `Closeup` reads it off the frozen trunk.

A few thousand demonstrations, whose scenes show one grasped thing each, teach the action expert little about either; a
few thousand stills, with everything in them known, do within minutes. What stills do not show, drawers' handles and
things in the hand, comes from moments of the demonstrations. How to turn the hand by what is seen is then learned from
these moments, too, as a part of every chunk that is added to what the rest of the expert makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from model import checkpoints
from model.action_expert import YAW
from model.data.episodes import EpisodeDataset
from model.data.scenes import SceneDataset, Still
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.pointing import PLACE_SCALE
from model.precision import fast_dtype
from model.training.stage1 import foreseeable
from model.training.trainer import Group, ShuffledOrder, TrainingConfig, train
from model.vision import preprocess

LEARNING_RATE, TURN_DECAY = 1e-3, 0.05
TURN_STEPS = 1000
CLOSEUP_DECAY = 0.5
"""Of the weights: a few thousand cameras are few to learn from where one stands."""
EVERY = 4
"""Control steps between the moments of an episode that are looked at."""
PICTURES, THINGS = 64, 4
"""Per step, and of each picture."""
MOMENTS = 128
"""Per step of learning to turn."""
ASIDE = 0.02
"""Standard deviation (shares of the picture) by which a thing is looked at beside its middle, as it is pointed at."""
RIGHT = math.radians(10)
"""A grasp bears a heading that is this far off."""
NEAR = 0.01
"""And a place [m]."""
Told = tuple[Sequence[float], Sequence[float]]
"""A thing's u, v, x, y, z as in `sim.interface.Episode.keypoints`, and how it lies, see `told`."""
UNKNOWN = [math.nan] * 4
HANDLE = [1.0, 0.0, 1.0, 0.0]
"""A drawer's handle is taken with the hand as it is at home."""


@dataclass
class Things:
    """P pictures as trunk tokens (P, 1 + N, Dv), and of each up to M things: where they are (P, M, 5), how they lie
    (P, M, 4; nan: unknown), and how many there are (P,)."""

    tokens: Tensor
    places: Tensor
    lies: Tensor
    count: Tensor

    @classmethod
    def of(cls, tokens: Tensor, told: Sequence[Sequence[Told]]) -> Things:
        """From what is told of each picture."""
        count = torch.tensor([len(things) for things in told])
        shape = len(told), int(count.max())
        places, lies = torch.zeros(*shape, 5), torch.full((*shape, 4), torch.nan)
        for row, things in enumerate(told):
            for column, (place, lie) in enumerate(things):
                places[row, column], lies[row, column] = torch.tensor(place), torch.tensor(lie)
        return cls(tokens, places, lies, count)

    def __add__(self, other: Things) -> Things:
        """These pictures, then those of `other`."""
        most = max(self.places.shape[1], other.places.shape[1])
        padded = [
            [F.pad(one, (0, 0, 0, most - one.shape[1])) for one in (each.places, each.lies)] for each in (self, other)
        ]
        places, lies = (torch.cat(pair) for pair in zip(*padded, strict=True))
        return Things(torch.cat([self.tokens, other.tokens]), places, lies, torch.cat([self.count, other.count]))


def told(yaw: float, period: float) -> list[float]:
    """The four numbers of `Closeup` for a gripper's yaw that fits and the turn [rad] after which it fits again."""
    half, quarter = (math.cos(2 * yaw), math.sin(2 * yaw)), (math.cos(4 * yaw), math.sin(4 * yaw))
    if period == 0:
        return [0.0] * 4
    return [*half, *quarter] if period > 2 else [0.0, 0.0, *quarter]


def off(found: Tensor, true: Tensor) -> Tensor:
    """By how many radians headings (K, 4) miss those of the things that have one, long or square."""
    missed = []
    for first, turns in ((0, 2), (2, 4)):
        long = true[:, 0].square() + true[:, 1].square() > 0.5
        chosen = long if turns == 2 else ~long & (true[:, 2].square() + true[:, 3].square() > 0.5)
        a, b = (torch.atan2(one[chosen, first + 1], one[chosen, first]) for one in (found, true))
        missed.append(((a - b + math.pi) % (2 * math.pi) - math.pi).abs() / turns)
    return torch.cat(missed)


@torch.no_grad()
def _tokens(model: InstructVLA, frames: Iterable[NDArray[np.uint8]], total: int, what: str) -> Tensor:
    """Trunk tokens (P, 1 + N, Dv) of pictures, in half precision."""
    found, waiting = list[Tensor](), list[Tensor]()

    def look() -> None:
        found.append(model.vision.trunk(torch.stack(waiting).to(model.device)).half().cpu())
        waiting.clear()

    for frame in tqdm(frames, total=total, unit="picture", desc=what):
        waiting.append(preprocess(frame, model.config.vision))
        if len(waiting) == 16:
            look()
    if waiting:
        look()
    return torch.cat(found)


def of_stills(model: InstructVLA, scenes: SceneDataset) -> Things:
    """Look at every picture once. Raises `ValueError` where the set does not say where things are and how they lie."""
    stills = [scenes[index] for index in range(len(scenes))]
    known = [_told_of(still) for still in stills]
    if not any(known):
        raise ValueError(
            f"{scenes.folder} does not say where things are and how they lie: "
            "take new pictures with `python app.py collect --scenes`."
        )
    rows = [row for row, things in enumerate(known) if things]
    tokens = _tokens(model, (scenes.frame(row) for row in rows), len(rows), "stills")
    return Things.of(tokens, [known[row] for row in rows])


def _told_of(still: Still) -> list[Told]:
    """What is in the picture and can be grasped or put something on; nothing where no places were stored."""
    if not still.headings:
        return []
    lies = {name: told(*heading) for name, heading in still.headings.items()}
    return [
        (place, lies.get(name, UNKNOWN)) for name, place in still.visible.items() if len(place) == 5 and _inside(place)
    ]


def _inside(place: Sequence[float]) -> bool:
    return all(0 < x < 1 for x in place[:2])


@dataclass
class Moments:
    """Every `EVERY`th step of episodes: trunk tokens (P, 1 + N, Dv), where source and target are (P, 2, 5), how they
    lie (P, 4; nan but for handles), proprioception (P, 8), and how the expert turns then (P, T), normalised, as far as
    that counts (P, T)."""

    tokens: Tensor
    keypoints: Tensor
    lies: Tensor
    proprio: Tensor
    turns: Tensor
    counts: Tensor

    @classmethod
    def of(cls, model: InstructVLA, episodes: EpisodeDataset, statistics: ActionStatistics) -> Moments:
        """Look at the episodes once."""
        chunk = model.config.action.chunk
        steps = [(row, step) for row in range(len(episodes)) for step in range(0, len(episodes[row]), EVERY)]
        columns: list[list[Tensor]] = [[], [], [], [], []]
        for row, step in steps:
            episode = episodes[row]
            actions = statistics.normalise(torch.from_numpy(episode.chunk(step, chunk)))
            values = (
                torch.from_numpy(episode.keypoints[step]).view(2, 5),
                torch.tensor(HANDLE if episode.kind in ("open", "close") else UNKNOWN),
                torch.from_numpy(episode.proprio[step]),
                actions[:, YAW],
                foreseeable(episode, step, chunk),
            )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        tokens = _tokens(model, (episodes.frame(*moment) for moment in steps), len(steps), "moments")
        return cls(tokens, *map(torch.stack, columns))

    def things(self) -> Things:
        """Where source and target are, as far as they are in the picture."""
        pairs = zip(self.keypoints.tolist(), self.lies.tolist(), strict=True)
        return Things.of(self.tokens, [[(place, lies) for place in pair if _inside(place)] for pair, lies in pairs])


def begin(start: Path) -> checkpoints.Loaded:
    """A checkpoint with a `Closeup`, a fresh one where it has none. Raises `ValueError` for one that does not act."""
    loaded = checkpoints.load(start, dtype=torch.float32)
    if loaded.statistics is None:
        raise ValueError(f"{start} has not learned to act: give the checkpoint that `train stage1` left.")
    old = loaded.model
    if old.config.action.closeup:
        return loaded
    model = InstructVLA(replace(old.config, action=replace(old.config.action, closeup=True)))
    model.load_state_dict(model.state_dict() | old.state_dict())
    model.store_in(torch.float32, fast_dtype())
    return replace(loaded, model=model)


def run(
    data: Path,
    episodes: Path,
    start: Path,
    out: Path,
    *,
    steps: int = 3000,
    seed: int = 0,
    minutes: float | None = None,
) -> None:
    """Add to the checkpoint `start` a close look, from the pictures in `data` and from `episodes`, and how to turn.

    The best is kept under `out/checkpoint`. Raises `ValueError` where something is missing.
    """
    sets = [EpisodeDataset(episodes, split=split) for split in ("train", "held_out")]
    for one in sets:
        one.check_frames()
    torch.manual_seed(seed)
    loaded = begin(start)
    assert loaded.statistics is not None
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    moments = [Moments.of(loaded.model, one, loaded.statistics) for one in sets]
    stills = [of_stills(loaded.model, SceneDataset(data, split)) for split in ("train", "held_out")]
    things = [still + moment.things() for still, moment in zip(stills, moments, strict=True)]
    _see(loaded, things, out / "seeing", steps, seed, minutes)
    checkpoints.restore(loaded.model, out / "seeing" / "checkpoint")
    _turn(loaded, moments, out, min(steps, TURN_STEPS), seed)


def _see(
    loaded: checkpoints.Loaded, sets: Sequence[Things], out: Path, steps: int, seed: int, minutes: float | None
) -> None:
    torch.manual_seed(seed)
    model, (shown, held) = loaded.model, sets
    module = model.action_expert.closeup
    order = ShuffledOrder(len(shown.tokens), PICTURES, seed)

    def batch_at(step: int) -> tuple[Tensor, ...]:
        rows, draw = torch.from_numpy(order(step)), np.random.default_rng([seed, step])
        share = torch.from_numpy(draw.random((len(rows), THINGS)))
        chosen = rows[:, None], (share * shown.count[rows, None]).long()
        aside = torch.from_numpy(draw.normal(0, ASIDE, (len(rows), THINGS, 2))).float()
        return shown.tokens[rows], shown.places[chosen], shown.lies[chosen], aside

    def losses(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        tokens, true, lying, aside = (one.to(model.device) for one in batch)
        looks, places, lies = module(tokens, true[..., :2] + aside)
        known = lying.isfinite().all(-1)
        parts = {
            "point": torch.stack([((found - true[..., :2]) / module.cell).abs().mean() for found in looks]).sum(),
            "place": F.smooth_l1_loss(places / PLACE_SCALE, true[..., 2:] / PLACE_SCALE, beta=0.05),
            "lies": F.mse_loss(lies[known], lying[known]),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def evaluate() -> dict[str, float]:
        draw = torch.Generator().manual_seed(0)
        aside = ASIDE * torch.randn(held.places[..., :2].shape, generator=draw)
        found, headings = zip(*_seen(model, held, aside), strict=True)
        here = torch.arange(held.places.shape[1]) < held.count[:, None]
        there = here & held.lies.isfinite().all(-1)
        beside = (torch.cat(found) - held.places[..., 2:])[here].norm(dim=-1)
        lies = torch.cat(headings)[there]
        missed = off(lies, held.lies[there])
        return {
            "loss": float(beside.mean() / PLACE_SCALE + F.mse_loss(lies, held.lies[there])),
            "near": float((beside < NEAR).float().mean()),
            "millimetres": 1000 * float(beside.median()),
            "right": float((missed < RIGHT).float().mean()),
            "degrees": math.degrees(float(missed.median())),
        }

    module.requires_grad_(True)
    config = TrainingConfig(
        out, steps, seed, warmup=50, schedule="cosine", minutes=minutes, evaluate_every=250, save_every=250
    )
    train(
        model,
        [Group(list(module.parameters()), LEARNING_RATE, CLOSEUP_DECAY)],
        batch_at,
        losses,
        config,
        evaluate=evaluate,
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=loaded.statistics),
    )
    module.requires_grad_(False)


def _seen(model: InstructVLA, things: Things, aside: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Places and headings, some pictures at a time, looked at `aside` of where the things are."""
    for rows in torch.arange(len(things.tokens)).split(PICTURES):
        points = (things.places[rows, :, :2] + aside[rows]).to(model.device)
        _, places, lies = model.action_expert.closeup(things.tokens[rows].to(model.device), points)
        yield places.cpu(), lies.cpu()


def _turn(loaded: checkpoints.Loaded, sets: Sequence[Moments], out: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, expert = loaded.model, loaded.model.action_expert
    shown, held = (_before_turning(model, one) for one in sets)
    order = ShuffledOrder(len(shown[0]), MOMENTS, seed)

    def missed(batch: tuple[Tensor, ...]) -> Tensor:
        """By the nearer way round or, where the expert took the other one, by that: either takes hold of the thing."""
        lies, places, proprio, wanted, counts = (one.to(model.device) for one in batch)
        ways = (expert.turning(lies, places, proprio, far) for far in (False, True))
        beside = [((way - wanted).square() * counts).sum(1) for way in ways]
        return torch.minimum(*beside).sum() / counts.sum()

    expert.turn.requires_grad_(True)
    train(
        model,
        [Group(list(expert.turn.parameters()), LEARNING_RATE, TURN_DECAY)],
        lambda step: tuple(one[torch.from_numpy(order(step))] for one in shown),
        lambda batch: {"loss": missed(batch)},
        TrainingConfig(out, steps, seed, warmup=50, schedule="cosine", evaluate_every=250, save_every=250),
        evaluate=lambda: {"loss": float(missed(held)), "of": float((held[3].square() * held[4]).sum() / held[4].sum())},
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=loaded.statistics),
    )


@torch.no_grad()
def _before_turning(model: InstructVLA, moments: Moments) -> tuple[Tensor, ...]:
    """How the source seems to lie (P, 4) and where (P, 3), proprioception, and the turns that are wanted and count."""
    sources = Things(moments.tokens, moments.keypoints[:, :1], torch.empty(0), torch.empty(0))
    places, lies = zip(*_seen(model, sources, torch.zeros(len(moments.tokens), 1, 2)), strict=True)
    return torch.cat(lies)[:, 0], torch.cat(places)[:, 0], moments.proprio, moments.turns, moments.counts
