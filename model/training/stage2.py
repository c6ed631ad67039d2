"""Stage 2, VLA-IT tuning (paper section 3.3): the model that acts learns to listen and to answer again.

Two LoRA experts, the action one from stage 1 and a language one, are mixed per token by the scale head. The action
expert is frozen; its losses still reach the latents through it. The language expert starts as the LoRA of the aligned
model, that is of the vision-language model before it learned to act, so that nothing has to be learned twice.

Each step takes `action_sequences` prompts on recorded episodes (direct commands, thoughts, descriptions, contexts,
rewritten commands) and `multimodal_pictures` with questions. All ratios are in `stage2.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import checkpoints
from model.checkpoints import Loaded
from model.data.episodes import EpisodeDataset, EpisodeRow
from model.data.statistics import ActionStatistics
from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Prompter, PromptIds
from model.training.align import Example
from model.training.stage1 import ActionBatch, ActionData
from model.training.trainer import Group

RECIPE = Path(__file__).with_suffix(".yaml")
ACTION, LANGUAGE = 0, 1
"""Which LoRA expert is which."""
NEAR = 0.05
"""A point this close to the true one, in shares of the picture, has found its object."""
TEST_SEQUENCES = 6
ACTION_GATE = 0.75
"""Weight of the action expert on every token before the scale head has learned anything."""
Speech = tuple[list[tuple[str, str]], str, str]
"""What is said around one demonstration: question-answer turns before it, the instruction, the reply."""
Speaker = Callable[[str, EpisodeRow, int, np.random.Generator], Speech]
"""(kind of sequence, episode, step, random) -> what is said."""


@dataclass(frozen=True)
class Recipe:
    """`stage2.yaml`, read."""

    sequences: Mapping[str, float]
    action_sequences: int
    multimodal_pictures: int
    turns: int
    frames: int
    weights: Mapping[str, float]
    learning_rate: Mapping[str, float]

    @classmethod
    def load(cls, path: Path = RECIPE) -> Recipe:
        """Read a recipe. Raises `ValueError` where shares do not add up, or a name is unknown or missing."""
        import yaml

        try:
            recipe = cls(**yaml.safe_load(path.read_text()))
        except TypeError as error:
            raise ValueError(f"{path.name}: {error}") from None
        if abs(sum(recipe.sequences.values()) - 1) > 1e-6:
            raise ValueError(f"{path.name}: the shares under `sequences` add up to {sum(recipe.sequences.values())}.")
        return recipe


@dataclass
class MixedBatch:
    """One step's share of manipulation and of multimodal data."""

    action: ActionBatch
    multimodal: Example


class MixedData(ActionData):
    """Manipulation sequences in the recipe's proportions, and questions about pictures beside them."""

    def __init__(
        self,
        episodes: EpisodeDataset,
        prompter: Prompter,
        model: InstructVLA,
        statistics: ActionStatistics,
        speak: Speaker,
        multimodal: Callable[[int], Example],
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__(episodes, prompter, model, statistics, seed, recipe.action_sequences, recipe.frames)
        self._speak, self._multimodal = speak, multimodal
        self._kinds, self._shares = list(recipe.sequences), list(recipe.sequences.values())

    def mixed(self, step: int) -> MixedBatch:
        """The batch of one training step."""
        return MixedBatch(self(step), self._multimodal(step))

    def _prompt(self, row: EpisodeRow, step: int, random: np.random.Generator) -> PromptIds:
        return self.said(str(random.choice(self._kinds, p=self._shares)), row, step, random)

    def said(self, kind: str, row: EpisodeRow, step: int, random: np.random.Generator) -> PromptIds:
        """The training sequence of a kind of `Recipe.sequences` for a moment of an episode."""
        if kind == "direct":
            return self.prompter.act_example(row.instruction)
        if kind == "think":
            return self.prompter.think_example(row.instruction, row.reply)
        turns, instruction, reply = self._speak(kind, row, step, random)
        if turns:
            return self.prompter.conversation(turns, instruction)
        return self.prompter.think_example(instruction, reply)


def losses(model: InstructVLA, batch: MixedBatch, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """All terms and their weighted sum, "loss"."""
    model.action_expert.eval()  # frozen, its running statistics too
    action, talk = batch.action.to(model.device), batch.multimodal.to(model.device)
    assert action.prompts is not None and action.first is not None
    with torch.no_grad():
        trunk, view = model.vision.trunk(action.pixels), model.encode(action.first)
        pictures = model.encode(talk.pixels)
    language, latents = model.language(action.prompts, view)
    latents = latents.repeat_interleave(len(trunk) // len(latents), 0)
    parts = {
        "language": language,
        "multimodal": model.language(talk.text, pictures)[0],
        **model.action_losses(trunk, latents, action.proprio, action.actions, action.valid, action.places, draws=1),
    }
    return {"loss": sum((weights[name] * value for name, value in parts.items()), torch.zeros(())), **parts}


def begin(stage1: Path, aligned: Path | None) -> Loaded:
    """A model of two experts: action from the checkpoint `stage1`, language from `aligned` (None: a fresh one).

    Raises `ValueError` where `stage1` has not learned to act, or the two do not belong together.
    """
    acting = checkpoints.load(stage1, dtype=torch.float32)
    if acting.statistics is None:
        raise ValueError(f"{stage1} has not learned to act: give the checkpoint that `train stage1` left.")
    if acting.model.config.lora.experts != 1:
        raise ValueError(f"{stage1} is a generalist already: give the checkpoint that `train stage1` left.")
    config = replace(acting.model.config, lora=replace(acting.model.config.lora, experts=2))
    model = InstructVLA(config)
    stored = acting.model.state_dict()
    spoken = checkpoints.load(aligned, dtype=torch.float32).model.state_dict() if aligned is not None else {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "lora_" in name:  # lora_a (P, K, R, I), lora_b (W, K, R)
                tensor[:, ACTION] = stored[name][:, 0]
                if spoken:
                    tensor[:, LANGUAGE] = spoken[name][:, 0]
            elif name in stored:
                tensor.copy_(stored[name])
    model.store_in(torch.float32)
    head = model.decoder.scale_head
    assert head is not None
    last = head.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([ACTION_GATE, 1 - ACTION_GATE]).log())
    return replace(acting, model=model)


def groups(model: InstructVLA, rates: Mapping[str, float]) -> list[Group]:
    """What stage 2 trains, and how fast. Freezes everything else."""
    model.requires_grad_(False)
    decoder = model.decoder
    lora = [p for name, p in decoder.named_parameters() if "lora_" in name]
    head = list(decoder.scale_head.parameters()) if decoder.scale_head is not None else []
    chosen = [
        Group(lora, rates["lora"]), Group(head, rates["scale_head"]), Group([decoder.new_rows], rates["new_rows"])
    ]  # fmt: skip
    for group in chosen:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    return chosen


@dataclass
class Validation:
    """What a generalist is judged by while it trains, on held-out episodes, phrases and pictures."""

    data: MixedData
    multimodal: Callable[[InstructVLA], dict[str, float]]
    batches: int = 12

    @torch.no_grad()
    def __call__(self, model: InstructVLA) -> dict[str, float]:
        """Mean losses, `pointed` (share of held-out phrases whose source is pointed at within `NEAR`), gates.

        `gate_queries` and `gate_text` are the action expert's mean weights on latent queries and on the words that the
        model says itself.
        """
        random = np.random.default_rng(0)
        chosen = random.permutation(len(self.data.steps))[: self.batches * TEST_SEQUENCES]
        seen: dict[str, list[float]] = {}
        for start in range(0, len(chosen) - TEST_SEQUENCES + 1, TEST_SEQUENCES):
            torch.manual_seed(start)
            rows = [tuple(self.data.steps[i]) for i in chosen[start : start + TEST_SEQUENCES]]
            for name, value in self._judge(model, self.data.batch(rows, random).to(model.device)).items():
                seen.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in seen.items()} | self.multimodal(model)

    def _judge(self, model: InstructVLA, batch: ActionBatch) -> dict[str, float]:
        prompts, first = batch.prompts, batch.first
        assert prompts is not None and first is not None
        view = model.encode(first)
        hidden, gates = model.decoder(model.embed(prompts.ids, prompts.image_positions, view.tokens))
        latents = hidden[prompts.query_positions].reshape(len(hidden), -1, hidden.shape[-1])
        latents = latents.repeat_interleave(len(batch.pixels) // len(latents), 0)
        trunk = model.vision.trunk(batch.pixels)
        context = model.action_expert.context(trunk, latents, batch.proprio)
        miss = (context.points[:, 0] - batch.places[:, 0, :2]).norm(dim=-1)
        spoken = (prompts.labels != IGNORE) & ~prompts.query_positions
        parts = model.action_losses(trunk, latents, batch.proprio, batch.actions, batch.valid, batch.places, draws=1)
        values = {"language": model.language(prompts, view)[0], "pointed": (miss < NEAR).float().mean(), **parts}
        values["gate_queries"] = gates[prompts.query_positions][:, ACTION].mean()
        values["gate_text"] = gates[spoken][:, ACTION].mean()
        return {name: float(value) for name, value in values.items()}
