"""How things lie, learned from still pictures: `Heading` reads it off the frozen trunk's tokens around a thing.

A few thousand demonstrations, whose scenes show one grasped thing each, teach the action expert next to nothing about
it; a few thousand stills, with everything in them known, do within minutes. How to turn the hand by it is then learned
from demonstrations, as a part of every chunk that is added to what the rest of the expert makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from model import checkpoints
from model.action_expert import YAW
from model.data.episodes import EpisodeDataset
from model.data.scenes import SceneDataset, Still
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.precision import fast_dtype
from model.training.trainer import Group, ShuffledOrder, TrainingConfig, train
from model.vision import preprocess

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
MOMENTS = (0, 4, 8, 12)
"""Control steps of an episode from which turning is learned: the hand is on its way, or there."""
THINGS = 128
"""Per step."""
ASIDE = 0.012
"""Standard deviation (shares of the picture) by which a thing is looked at beside its middle, as it is pointed at."""
PICTURES = 16
RIGHT = math.radians(10)
"""A grasp bears a heading that is this far off."""


@dataclass
class Lying:
    """All K things of P pictures: the pictures' trunk tokens (P, 1 + N, Dv), whose the things are (K,), where (K, 2),
    and how they lie (K, 4), see `Heading`."""

    tokens: Tensor
    picture: Tensor
    points: Tensor
    headings: Tensor

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, points and headings of some things."""
        return self.tokens[self.picture[chosen]].float(), self.points[chosen], self.headings[chosen]


def told(yaw: float, period: float) -> list[float]:
    """The four numbers of `Heading` for a gripper's yaw that fits and the turn [rad] after which it fits again."""
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
def gather(model: InstructVLA, scenes: SceneDataset) -> Lying:
    """Look at every picture once. Raises `ValueError` where the set does not say how things lie."""
    tokens, picture, points, headings = list[Tensor](), list[int](), list[Sequence[float]](), list[list[float]]()
    stills = [scenes[index] for index in range(len(scenes))]
    if not any(still.headings for still in stills):
        raise ValueError(
            f"{scenes.folder} does not say how things lie: take new pictures with `python app.py collect --scenes`."
        )
    for index, still in enumerate(stills):
        for name, (yaw, period) in _seen(still).items():
            picture.append(index)
            points.append(still.visible[name][:2])
            headings.append(told(yaw, period))
    for start in tqdm(range(0, len(stills), PICTURES), unit="batch", desc="pictures"):
        rows = range(start, min(start + PICTURES, len(stills)))
        pixels = torch.stack([preprocess(scenes.frame(row), model.config.vision) for row in rows]).to(model.device)
        tokens.append(model.vision.trunk(pixels).half().cpu())
    return Lying(torch.cat(tokens), torch.tensor(picture), torch.tensor(points), torch.tensor(headings))


def _seen(still: Still) -> dict[str, list[float]]:
    """Headings of what is in the picture."""
    inside = {name for name, place in still.visible.items() if all(0 < x < 1 for x in place[:2])}
    return {name: heading for name, heading in still.headings.items() if name in inside}


def begin(start: Path) -> checkpoints.Loaded:
    """A checkpoint with a `Heading`, a fresh one where it has none. Raises `ValueError` for one that does not act."""
    loaded = checkpoints.load(start, dtype=torch.float32)
    if loaded.statistics is None:
        raise ValueError(f"{start} has not learned to act: give the checkpoint that `train stage1` left.")
    old = loaded.model
    if old.config.action.heading:
        return loaded
    model = InstructVLA(replace(old.config, action=replace(old.config.action, heading=True)))
    model.load_state_dict(model.state_dict() | old.state_dict())
    model.store_in(torch.float32, fast_dtype())
    return replace(loaded, model=model)


@torch.no_grad()
def turns(model: InstructVLA, episodes: EpisodeDataset, statistics: ActionStatistics) -> tuple[Tensor, ...]:
    """How things seem to lie (K, 4) at the `MOMENTS` of episodes, where they are (K, 3), proprioception (K, 8), and how
    the expert turns then (K, T), normalised, as far as that counts (K, T)."""
    chunk, found = model.config.action.chunk, list[tuple[Tensor, ...]]()
    for row in tqdm(range(len(episodes)), unit="episode", desc="turns"):
        episode = episodes[row]
        steps = [step for step in MOMENTS if step < len(episode)]
        pixels = torch.stack([preprocess(episodes.frame(row, step), model.config.vision) for step in steps])
        points = torch.from_numpy(episode.keypoints[steps])
        trunk = model.vision.trunk(pixels.to(model.device))
        lies = model.action_expert.heading(trunk, points[:, :2].to(model.device)).cpu()
        actions = torch.stack([statistics.normalise(torch.from_numpy(episode.chunk(step, chunk))) for step in steps])
        calm = [~np.append(episode.perturbed[step : step + chunk], [False] * chunk)[:chunk] for step in steps]
        own = lies, points[:, 2:5], torch.from_numpy(episode.proprio[steps]), actions[..., YAW]
        found.append((*own, torch.from_numpy(np.stack(calm))))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


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
    """Add to the checkpoint `start` how things lie, from the pictures in `data`, and how to turn, from `episodes`.

    The best is kept under `out/checkpoint`. Raises `ValueError` where something is missing.
    """
    sets = [EpisodeDataset(episodes, split=split) for split in ("train", "held_out")]
    for one in sets:
        one.check_frames()
    _see(data, start, out / "seeing", steps, seed, minutes)
    loaded = checkpoints.load(out / "seeing" / "checkpoint", dtype=torch.float32)
    _turn(loaded, sets, out, steps, seed)


def _turn(loaded: checkpoints.Loaded, sets: Sequence[EpisodeDataset], out: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, statistics = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu"), loaded.statistics
    assert statistics is not None
    expert = model.requires_grad_(False).action_expert
    shown, held = (turns(model, episodes, statistics) for episodes in sets)
    order = ShuffledOrder(len(shown[0]), THINGS, seed)

    def missed(batch: tuple[Tensor, ...]) -> Tensor:
        lies, place, proprio, wanted, counts = (one.to(model.device) for one in batch)
        return ((expert.turning(lies, place, proprio) - wanted).square() * counts).sum() / counts.sum()

    expert.turn.requires_grad_(True)
    train(
        model,
        [Group(list(expert.turn.parameters()), LEARNING_RATE, WEIGHT_DECAY)],
        lambda step: tuple(one[torch.from_numpy(order(step))] for one in shown),
        lambda batch: {"loss": missed(batch)},
        TrainingConfig(out, steps, seed, warmup=50, schedule="cosine", evaluate_every=250, save_every=250),
        evaluate=lambda: {"loss": float(missed(held)), "of": float((held[3].square() * held[4]).sum() / held[4].sum())},
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=statistics),
    )


def _see(data: Path, start: Path, out: Path, steps: int, seed: int, minutes: float | None) -> None:
    torch.manual_seed(seed)
    loaded = begin(start)
    model = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    module = model.action_expert.heading
    shown, held = (gather(model, SceneDataset(data, split)) for split in ("train", "held_out"))
    order = ShuffledOrder(len(shown.picture), THINGS, seed)

    def batch_at(step: int) -> tuple[Tensor, Tensor, Tensor]:
        tokens, points, headings = shown(torch.from_numpy(order(step)))
        aside = np.random.default_rng([seed, step]).normal(0, ASIDE, points.shape)
        return tokens, points + torch.from_numpy(aside).float(), headings

    def losses(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        tokens, points, headings = (one.to(model.device) for one in batch)
        return {"loss": F.mse_loss(module(tokens, points), headings)}

    def evaluate() -> dict[str, float]:
        found = []
        for chosen in torch.arange(len(held.picture)).split(THINGS):
            tokens, points, _ = held(chosen)
            found.append(module(tokens.to(model.device), points.to(model.device)).cpu())
        every = torch.cat(found)
        missed = off(every, held.headings)
        return {
            "loss": float(F.mse_loss(every, held.headings)),
            "right": float((missed < RIGHT).float().mean()),
            "degrees": math.degrees(float(missed.median())),
        }

    module.requires_grad_(True)
    config = TrainingConfig(
        out, steps, seed, warmup=50, schedule="cosine", minutes=minutes, evaluate_every=250, save_every=250
    )
    train(
        model,
        [Group(list(module.parameters()), LEARNING_RATE, WEIGHT_DECAY)],
        batch_at,
        losses,
        config,
        evaluate=evaluate,
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=loaded.statistics),
    )
