"""Stage 1, action pre-training (paper section 3.3): the aligned model learns to act through its latent queries.

Loss = LM + flow matching (weights 1 : 1, reference recipe) + place supervision. Trainable: LoRA, new token rows and
the action expert; vision tower and connector stay as aligned. Each decoder pass is amortised: its latents serve
`frames` pictures of the same episode that are up to `REFRESH` control steps younger, which is also how the policy uses
them, and each picture serves `draws` noise samples.

Once the language part has settled, `freeze_language` trains the action expert alone: latents are read once where the
policy would read them and remembered (in a file beside the episodes), so that every picture of a batch can come from
another episode at a third of the cost. So does the action expert of a generalist, whose latents stage 2 has drawn near
to what the expert knows, not onto it: it learns to read them at a lower rate, and what the model says stays as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from model import checkpoints
from model.data.episodes import EpisodeDataset, EpisodeRow
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.policy import EXECUTE, REFRESH
from model.prompts import Batch, Prompter, PromptIds, collate
from model.training.trainer import (
    Group,
    ShuffledOrder,
    TrainingConfig,
    in_processes,
    join_processes,
    spare_processes,
    train,
)
from model.vision import normalise, shrink

THINK_SHARE, MOTION_SHARE = 0.5, 0.1
"""Of the sequences: reply then act, language motion then act; the rest acts directly."""
FIRST_SHARE = 0.6
"""Of the sequences, those that start where an episode starts, as the first plan of every rollout does."""
RENEWAL = -(-REFRESH // EXECUTE) * EXECUTE
"""Control steps after which the policy really reads new latents: at the first plan that finds them old enough."""
SEQUENCES, FRAMES, DRAWS = 3, 7, 4
"""Per step: decoder sequences, pictures per sequence, noise samples per picture."""
GPU_SEQUENCES, GPU_FRAMES = 48, 16
"""Per step on a GPU, which holds every picture (`ResidentData`)."""
Moment = tuple[int, int]
"""An episode and one of its steps."""
Ablation = Literal["film", "second-look", "language-motion"]
"""What a run can do without, to see what it is worth (paper section 5.3)."""
PLACE_WEIGHTS = {"patch": 0.2, "point": 20.0, "place": 20.0}
EXPERT_LR, LORA_LR, TAIL_LR = 5e-4, 4e-4, 1e-4
READING = 0.5
"""Share of these rates for the expert of a generalist."""


@dataclass
class ActionBatch:
    """`SEQUENCES` prompts and their pictures, or latents that are known; then observations with targets."""

    prompts: Batch | None
    first: Tensor | None
    latents: Tensor | None
    pixels: Tensor
    proprio: Tensor
    actions: Tensor
    valid: Tensor
    places: Tensor

    def to(self, device: torch.device) -> ActionBatch:
        """Move every tensor."""
        moved: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in vars(self).items()}
        return ActionBatch(**moved)


class ActionData:
    """Turns recorded episodes into batches of `sequences` prompts with `frames` pictures each, by the step alone."""

    def __init__(
        self,
        episodes: EpisodeDataset,
        prompter: Prompter,
        model: InstructVLA,
        statistics: ActionStatistics,
        seed: int,
        sequences: int = SEQUENCES,
        frames: int = FRAMES,
        motion_share: float = MOTION_SHARE,
    ) -> None:
        self.episodes, self.prompter, self.statistics, self.seed = episodes, prompter, statistics, seed
        self.config, self.frames, self.motion_share = model.config, frames, motion_share
        self.steps = episodes.steps()
        self.order = ShuffledOrder(len(self.steps), sequences, seed)

    def __call__(self, step: int) -> ActionBatch:
        """The batch of one training step."""
        random = np.random.default_rng([self.seed, step])
        starts = [tuple(self.steps[i]) for i in self.order(step)]
        return self.batch([(e, 0 if random.random() < FIRST_SHARE else t) for e, t in starts], random)

    def batch(self, starts: list[Moment], random: np.random.Generator) -> ActionBatch:
        """A batch whose sequences start at the given moments."""
        prompts: list[PromptIds] = []
        later: list[Moment] = []
        for episode, start in starts:
            row = self.episodes[episode]
            prompts.append(self._prompt(row, start, random))
            steps = start + random.integers(0, min(REFRESH, len(row) - start), self.frames)
            later += [(episode, int(step)) for step in steps]
        return ActionBatch(collate(prompts), self.pixels(starts), None, *self.observations(later))

    def pixels(self, moments: Sequence[Moment]) -> Tensor:
        """Normalised pictures (B, 3, H, W)."""
        return normalise(torch.stack([self._shown(*moment) for moment in moments]))

    def observations(self, moments: Sequence[Moment]) -> tuple[Tensor, ...]:
        """Pixels, proprioception (B, 8), action chunks (B, T, 7), which of them count (B, T), and places (B, 2, 5)."""
        columns = zip(*(self._told(*moment) for moment in moments), strict=True)
        return self.pixels(moments), *map(torch.stack, columns)

    def _prompt(self, row: EpisodeRow, step: int, random: np.random.Generator) -> PromptIds:
        draw = random.random()
        if draw < THINK_SHARE:
            return self.prompter.think_example(row.instruction, row.reply)
        if draw < THINK_SHARE + self.motion_share:
            return self.prompter.motion_example(row.instruction, row.language_motion[step])
        return self.prompter.act_example(row.instruction)

    def _shown(self, episode: int, step: int) -> Tensor:
        return shrink(self.episodes.frame(episode, step), self.config.vision)

    def _told(self, episode: int, step: int) -> tuple[Tensor, ...]:
        row, chunk = self.episodes[episode], self.config.action.chunk
        actions = self.statistics.normalise(torch.from_numpy(row.chunk(step, chunk)))
        return (
            torch.from_numpy(row.proprio[step]),
            actions,
            foreseeable(row, step, chunk),
            torch.from_numpy(row.keypoints[step]).view(2, 5),
        )


def foreseeable(row: EpisodeRow, step: int, chunk: int) -> Tensor:
    """Which actions (T,) of a chunk count: what follows a random push is the expert's answer to that push, which no
    plan could foresee."""
    noisy = row.perturbed[step : step + chunk]
    return torch.arange(chunk) < (int(np.argmax(noisy)) + 1 if noisy.any() else chunk)


class ResidentData(ActionData):
    """The same from memory: `load` decodes every picture once, and keeps it on the model's device from then on."""

    def load(self, device: torch.device) -> ResidentData:
        """Read every episode, before the first batch; returns itself."""
        vision = self.config.vision
        self._first = np.cumsum([0, *(len(row) for row in self.episodes)])
        shape = (len(self.steps), vision.height, vision.width, 3)
        self._pictures = torch.empty(shape, dtype=torch.uint8, device=device)
        told: list[tuple[Tensor, ...]] = []
        whole = in_processes(self._whole, range(len(self.episodes)), spare_processes())
        for index, (pictures, *columns) in enumerate(tqdm(whole, total=len(self.episodes), unit="episode")):
            self._pictures[self._first[index] : self._first[index + 1]] = pictures
            told.append(tuple(columns))
        self._columns = [torch.cat(column).to(device) for column in zip(*told, strict=True)]
        return self

    def pixels(self, moments: Sequence[Moment]) -> Tensor:
        """See `ActionData.pixels`."""
        return normalise(self._pictures[self._places(moments)])

    def observations(self, moments: Sequence[Moment]) -> tuple[Tensor, ...]:
        """See `ActionData.observations`."""
        places = self._places(moments)
        return normalise(self._pictures[places]), *(column[places] for column in self._columns)

    def _places(self, moments: Sequence[Moment]) -> Tensor:
        places = [int(self._first[episode]) + step for episode, step in moments]
        return torch.tensor(places, device=self._pictures.device)

    def _whole(self, episode: int) -> tuple[Tensor, ...]:
        """Every picture and everything told of an episode."""
        steps = range(len(self.episodes[episode]))
        columns = zip(*(self._told(episode, step) for step in steps), strict=True)
        return torch.stack([self._shown(episode, step) for step in steps]), *map(torch.stack, columns)


class FrozenLanguageData(ActionData):
    """The same without a decoder pass: latents read where the policy would read them are remembered."""

    def __init__(
        self,
        episodes: EpisodeDataset,
        prompter: Prompter,
        model: InstructVLA,
        statistics: ActionStatistics,
        seed: int,
        motion_share: float = MOTION_SHARE,
        memory: Path | None = None,
    ) -> None:
        super().__init__(episodes, prompter, model, statistics, seed, motion_share=motion_share)
        self.order = ShuffledOrder(len(self.steps), SEQUENCES * FRAMES, seed)
        if memory is not None and memory.exists():
            self.latents = {int(index): latents for index, latents in load_file(memory).items()}
            return
        self.latents = self._remember(model)
        if memory is not None and not (dist.is_initialized() and dist.get_rank()):
            temporary = memory.with_suffix(".tmp")
            save_file({str(index): latents for index, latents in self.latents.items()}, temporary)
            temporary.replace(memory)

    def __call__(self, step: int) -> ActionBatch:
        """The batch of one training step."""
        chosen = [tuple(self.steps[i]) for i in self.order(step)]
        known = [self.latents[episode][t // RENEWAL] for episode, t in chosen]
        return ActionBatch(None, None, torch.stack(known).float(), *self.observations(chosen))

    @torch.no_grad()
    def _remember(self, model: InstructVLA) -> dict[int, Tensor]:
        """(N, Q, D) per episode: one read every `RENEWAL` steps, behind a prompt drawn as in training.

        Several processes share the work.
        """
        join_processes()
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        model.eval()
        own = {}
        for index in tqdm(range(rank, len(self.episodes), world), unit="episode", disable=rank > 0):
            row, random = self.episodes[index], np.random.default_rng([self.seed, index])
            steps = range(0, len(row), RENEWAL)
            prompts = collate([self._prompt(row, step, random) for step in steps]).to(model.device)
            pixels = self.pixels([(index, step) for step in steps]).to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.autocast):
                own[index] = model.language(prompts, model.encode(pixels))[1].cpu().bfloat16()
        shares: list[dict[int, Tensor] | None] = [own] * world
        if world > 1:
            dist.all_gather_object(shares, own)
        return {index: latents for share in shares if share for index, latents in share.items()}


def memory_of(data: Path, model: InstructVLA, episodes: EpisodeDataset, seed: int, motion_share: float) -> Path:
    """The file in `data` for the latents of these episodes: of this language model and of prompts drawn in this way."""
    seen = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        known = model.is_base(name) and not model.config.tuned_backbone
        if not known and not name.startswith("action_expert."):  # which has no part in them
            seen.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    seen.update(repr((seed, motion_share, [row.seed for row in episodes])).encode())
    return data / f"latents-{seen.hexdigest()[:12]}.safetensors"


def losses(model: InstructVLA, batch: ActionBatch) -> dict[str, Tensor]:
    """All terms and their weighted sum, "loss"."""
    batch = batch.to(model.device)
    with torch.no_grad():  # the aligned vision tower is frozen
        trunk = model.vision.trunk(batch.pixels)
        view = model.encode(batch.first) if batch.first is not None else None
    if batch.latents is not None:
        lm, latents = torch.zeros(()), batch.latents
    else:
        assert batch.prompts is not None and view is not None
        lm, latents = model.language(batch.prompts, view)
        latents = latents.repeat_interleave(len(trunk) // len(latents), 0)
    parts = model.action_losses(
        trunk, latents, batch.proprio, batch.actions, batch.valid, batch.places, DRAWS if model.training else 1
    )
    extra = sum(weight * parts[name] for name, weight in PLACE_WEIGHTS.items())
    return {"loss": lm + parts["flow"] + extra, "lm": lm, **parts}


def groups(model: InstructVLA, freeze_language: bool = False) -> list[Group]:
    """What stage 1 trains, and how fast. Freezes everything else."""
    model.requires_grad_(False)
    expert = model.action_expert
    tail = [*expert.blocks.parameters(), *expert.norm.parameters()]
    pretrained = {id(parameter) for parameter in tail}
    if model.config.action.closeup:  # what `train closeup` has learned stays
        pretrained |= {id(parameter) for part in (expert.closeup, expert.turn) for parameter in part.parameters()}
    fresh = [parameter for parameter in expert.parameters() if id(parameter) not in pretrained]
    lora = [p for name, p in model.decoder.named_parameters() if not InstructVLA.is_base(f"decoder.{name}")]
    rate = READING if model.config.lora.experts > 1 else 1.0
    chosen = [Group(fresh, rate * EXPERT_LR), Group(tail, rate * TAIL_LR)]
    if not freeze_language:
        chosen.append(Group(lora, LORA_LR))
    for group in chosen:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    return chosen


def begin(
    aligned: Path, episodes: EpisodeDataset, without: Ablation | None = None
) -> tuple[InstructVLA, Prompter, ActionStatistics]:
    """The model to train on: with an action expert that starts from the aligned vision tail and the data's state range.

    A checkpoint that acts already goes on as it is, with its own statistics: say, with more data.
    """
    loaded = checkpoints.load(aligned, dtype=torch.float32)
    if without in ("film", "second-look"):
        change = {"film": without != "film", "second_look": without != "second-look"}
        model = loaded.model
        model.config = replace(model.config, action=replace(model.config.action, **change))
        model.action_expert.config = model.config
    if loaded.statistics is not None:
        return loaded.model, loaded.prompter, loaded.statistics
    model, statistics = loaded.model, episodes.statistics()
    expert, trunk_layers = model.action_expert, model.config.vision.trunk_layers
    expert.blocks.load_state_dict(model.vision.blocks[trunk_layers:].state_dict())
    expert.norm.load_state_dict(model.vision.norm.state_dict())
    expert.state_low.copy_(torch.tensor(statistics.proprio.q01))
    expert.state_high.copy_(torch.tensor(statistics.proprio.q99))
    return model, loaded.prompter, statistics


@torch.no_grad()
def held_out(model: InstructVLA, data: ActionData, batches: int = 12) -> dict[str, float]:
    """Mean losses and pointing error on held-out episodes, always the same observations."""
    random = np.random.default_rng(0)
    chosen = random.permutation(len(data.steps))[: batches * SEQUENCES]
    totals: dict[str, list[float]] = {}
    for batch in _slices(chosen, SEQUENCES):
        torch.manual_seed(int(batch[0]))
        for name, value in losses(model, data.batch([tuple(data.steps[i]) for i in batch], random)).items():
            totals.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _slices(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (values[start : start + size] for start in range(0, len(values) - size + 1, size))


def run(
    data: Path,
    aligned: Path,
    out: Path,
    *,
    minutes: float | None = None,
    steps: int = 20_000,
    seed: int = 0,
    freeze_language: bool = False,
    without: Ablation | None = None,
) -> None:
    """Train stage 1 on the episodes in `data`, from the checkpoint `aligned`; keeps the best under `out/checkpoint`.

    Of a generalist, the action expert alone. Resumes when `out` holds an unfinished run. Raises `ValueError` where data
    or checkpoint are missing, or a generalist's language should learn.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    episodes, held = (EpisodeDataset(data, split=split) for split in ("train", "held_out"))
    for one in (episodes, held):
        one.check_frames()
    model, prompter, statistics = begin(aligned, episodes, without)
    model.to(device)
    generalist = model.config.lora.experts > 1
    if generalist and not freeze_language:
        raise ValueError(f"{aligned} is a generalist, whose language learns in `train stage2`: add --freeze-language.")
    motion_share = 0.0 if without == "language-motion" or generalist else MOTION_SHARE  # stage 2 knows no motion
    told = episodes, prompter, model, statistics, seed
    batches: ActionData
    if device == "cuda":  # a pass through frozen language costs next to nothing there
        batches = ResidentData(*told, GPU_SEQUENCES, GPU_FRAMES, motion_share).load(model.device)
    elif freeze_language:
        memory = memory_of(data, model, episodes, seed, motion_share)
        batches = FrozenLanguageData(*told, motion_share, memory)
    else:
        batches = ActionData(*told, motion_share=motion_share)
    tests = ActionData(held, prompter, model, statistics, seed)
    parameters = groups(model, freeze_language)
    config = TrainingConfig(
        folder=out, steps=steps, seed=seed, warmup=100, schedule="cosine", minutes=minutes,
        evaluate_every=400 if device == "cpu" else 1000, save_every=200 if device == "cpu" else 1000, workers=1,
    )  # fmt: skip
    train(
        model,
        parameters,
        batches,
        lambda batch: losses(model, batch),
        config,
        evaluate=lambda: held_out(model, tests),
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=statistics),
    )
