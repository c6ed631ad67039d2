"""Stage 2, VLA-IT tuning (paper section 3.3): the model that acts learns to listen and to answer again.

Two LoRA experts, the action one from stage 1 and a language one, are mixed per token by the scale head. The action
expert is frozen; its losses still reach the latents through it. The language expert starts as the LoRA of the aligned
model, that is of the vision-language model before it learned to act, so that nothing has to be learned twice.

Each step takes `action_pictures` of recorded episodes with several sequences each (direct commands, thoughts,
descriptions, contexts, rewritten commands), `request_pictures` of scenes with requests that the model of stage 1 shows
how to act upon (`model.training.latents`), and `multimodal_pictures` with questions. Any of them may be none. All
ratios are in `stage2.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import checkpoints
from model.checkpoints import Loaded
from model.data.episodes import EpisodeDataset, EpisodeRow
from model.data.multimodal import Mix
from model.data.photos import PhotoSet
from model.data.phrases import Kind
from model.data.scenes import SceneDataset
from model.data.splits import Split
from model.data.statistics import ActionStatistics
from model.data.things import load_catalog
from model.data.vla_it import AnnotatedEpisode, read_vla_it
from model.instructvla import InstructVLA
from model.language import IGNORE
from model.precision import fast_dtype
from model.prompts import Batch, Prompter, PromptIds, share_picture
from model.training.align import Example, Questions, sources
from model.training.answering import NEAR, photo_scores, request_scores, scene_scores
from model.training.gates import told, warm_up
from model.training.latents import RequestBatch, RequestData, Teacher
from model.training.latents import losses as request_losses
from model.training.recipe import RECIPE, Recipe
from model.training.stage1 import ActionBatch, ActionData
from model.training.trainer import Group, TrainingConfig, in_processes, spare_processes, train

ANNOTATIONS = "annotations.json"
"""The file beside the episodes that `collect --annotate` writes."""
ACTION, LANGUAGE = 0, 1
"""Which LoRA expert is which."""
EYES = ("vision.", "connector.")
"""How the decoder sees; the action expert's own look at the picture is not among it, but for the frozen trunk."""
TEST_PICTURES, ASKED_PICTURES, ASKED_PHOTOS = 6, 24, 96
ACTION_GATE = 0.95
"""Weight of the action expert on every token before the scale head has learned anything."""
GATE_BATCHES, EXAMPLES = 8, 16
"""Batches of either kind from which the scale head learns where to begin."""
CAPTION_REQUEST = "Describe what is on the table."
"""VLA-IT files hold captions without a request for one."""
Ablation = Literal["experts", "descriptions", "frozen-backbone"]
"""What a run can do without: two experts (one LoRA learns both), QA and captions, or freezing (full fine-tuning)."""
TOLD: dict[str, tuple[Kind, ...]] = {"describe": ("Caption", "QA"), "context": ("CC",), "rewrite": ("CR",)}
"""Which annotations each kind of sequence is made from."""


@dataclass
class MixedBatch:
    """One step's share of manipulation, of requests and of multimodal data; None is no share."""

    action: ActionBatch | None
    requests: RequestBatch | None
    multimodal: Example | None


class MixedData(ActionData):
    """Manipulation sequences in the recipe's proportions, and questions about pictures beside them."""

    def __init__(
        self,
        episodes: EpisodeDataset,
        prompter: Prompter,
        model: InstructVLA,
        statistics: ActionStatistics,
        told: Mapping[int, AnnotatedEpisode],
        requests: Callable[[int], RequestBatch],
        multimodal: Callable[[int], Example],
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__(episodes, prompter, model, statistics, seed, recipe.action_pictures, frames=1)
        self.told, self._requests, self._multimodal = told, requests, multimodal
        self._recipe, self._each = recipe, recipe.sequences_per_picture
        self._kinds, self._shares = list(recipe.sequences), list(recipe.sequences.values())

    def mixed(self, step: int) -> MixedBatch:
        """The batch of one training step."""
        recipe = self._recipe
        return MixedBatch(
            self(step) if recipe.action_pictures else None,
            self._requests(step) if recipe.request_pictures else None,
            self._multimodal(step) if recipe.multimodal_pictures else None,
        )

    def _prompt(self, row: EpisodeRow, step: int, random: np.random.Generator) -> PromptIds:
        # Evenly spread draws, and no sequence twice: a template command has but one form.
        places = (random.random() + np.arange(self._each)) / self._each
        kinds = [self._kinds[index] for index in np.searchsorted(np.cumsum(self._shares)[:-1], places, "right")]
        said = [self.said(kind, row, step, random) for kind in kinds]
        return share_picture(list({tuple(one.ids.tolist()): one for one in said}.values()))

    def said(self, kind: str, row: EpisodeRow, step: int, random: np.random.Generator) -> PromptIds:
        """The training sequence of a kind of `Recipe.sequences` for a moment of an episode."""
        if kind == "direct":
            return self.prompter.act_example(row.instruction)
        if kind == "think":
            return self.prompter.think_example(row.instruction, row.reply)
        annotated = self.told.get(row.seed)
        choices = [one for told in TOLD[kind] for one in annotated.of(told)] if annotated is not None else []
        if not choices:  # a pair of another split, or a scene that nothing of this kind can be said about
            return self.prompter.think_example(row.instruction, row.reply)
        chosen = choices[int(random.integers(len(choices)))]
        if kind == "describe":
            return self.prompter.conversation([(chosen.question or CAPTION_REQUEST, chosen.answer)], row.instruction)
        return self.prompter.think_example(chosen.question, chosen.answer)


def told_about(folder: Path, episodes: EpisodeDataset, split: Split) -> dict[int, AnnotatedEpisode]:
    """Annotations of a split by the episodes' scene seeds. Raises `ValueError` where the set has none."""
    path = folder / ANNOTATIONS
    if not path.exists():
        command = f"python app.py collect --out {folder} --annotate grammar"
        raise ValueError(f"{folder} has no {ANNOTATIONS}: run `{command}`.")
    every = read_vla_it(path)
    known = {episodes[index].seed: every.get(episodes.key(index)) for index in range(len(episodes))}
    return {seed: told for seed, told in known.items() if told is not None and told.split in (None, split)}


def losses(
    model: InstructVLA, teacher: Teacher, batch: MixedBatch, weights: Mapping[str, float], told_gates: bool = False
) -> dict[str, Tensor]:
    """All terms and their weighted sum, "loss"; `teacher` shows how to act upon requests."""
    model.action_expert.eval()  # frozen, its running statistics too
    parts: dict[str, Tensor] = {}

    def gates(sequences: Batch) -> Tensor | None:
        return told(sequences) if told_gates and model.decoder.scale_head is not None else None

    if batch.action is not None:
        action = batch.action.to(model.device)
        assert action.prompts is not None and action.first is not None
        with torch.no_grad():
            trunk, view = model.vision.trunk(action.pixels), model.encode(action.first)
        parts["language"], latents = model.language(action.prompts, view, gates(action.prompts))
        parts |= model.action_losses(*_facing(action, trunk, latents), draws=1)
    if batch.requests is not None:
        wishes = batch.requests.to(model.device)
        for name, value in request_losses(model, teacher, wishes, gates(wishes.requests)).items():
            parts[name] = parts.get(name, 0) + value  # motion points at things too
    if batch.multimodal is not None:
        talk = batch.multimodal.to(model.device)
        with torch.no_grad():
            pictures = model.encode(talk.pixels)
        parts["multimodal"] = model.language(talk.text, pictures, gates(talk.text))[0]
    return {"loss": sum((weights[name] * value for name, value in parts.items()), torch.zeros(())), **parts}


def _facing(
    action: ActionBatch, trunk: Tensor, latents: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of `action_losses`: every latent action faces the observation of its picture."""
    assert action.prompts is not None
    times = action.prompts.query_positions.sum(1) // latents.shape[1]

    def each(part: Tensor) -> Tensor:
        return part.repeat_interleave(times, 0)

    seen = each(trunk), latents, each(action.proprio)
    return *seen, each(action.actions), each(action.valid), each(action.places)


def begin(stage1: Path, aligned: Path | None, without: Ablation | None = None) -> Loaded:
    """A model of two experts: action from the checkpoint `stage1`, language from `aligned` (None: a fresh one).

    The picture reaches the decoder through the aligned model's vision tail and connector; where stage 1 began at the
    same model they are its own too.

    Where the aligned model has learned visual words alone, the language expert starts as a copy of the acting one.
    Where `aligned` is a generalist, that one goes on, behind the action expert of `stage1`. A generalist as `stage1`,
    alone, goes on as it is: what it makes of plain commands is then its own example.

    Without "experts" there is the acting one alone; without "frozen-backbone" the backbone is made ready to learn.

    Raises `ValueError` where `stage1` has not learned to act, the two do not belong together, or a generalist that goes
    on should be without what it has, or beside another model.
    """
    acting = checkpoints.load(stage1, dtype=torch.float32)
    if acting.statistics is None:
        raise ValueError(f"{stage1} has not learned to act: give the checkpoint that `train stage1` left.")
    if acting.model.config.lora.experts != 1:
        if aligned is not None or without in ("experts", "frozen-backbone"):
            raise ValueError(f"{stage1} is a generalist already: it goes on alone, and with all that it has.")
        return acting
    if without == "experts":
        return acting
    other = checkpoints.load(aligned, dtype=torch.float32).model if aligned is not None else None
    if other is not None and other.config.lora.experts == 2:
        if other.config.tuned_backbone != (without == "frozen-backbone"):
            raise ValueError(f"Whether {aligned} trains its backbone was decided before: start anew without it.")
        if other.config.action != acting.model.config.action:
            raise ValueError(f"{aligned} has another action expert than {stage1}: it was not made from it.")
        other.action_expert.load_state_dict(acting.model.action_expert.state_dict())
        return replace(acting, model=other)
    lora = replace(acting.model.config.lora, experts=2)
    config = replace(acting.model.config, lora=lora, tuned_backbone=without == "frozen-backbone")
    model = InstructVLA(config)
    stored = acting.model.state_dict()
    spoken = other.state_dict() if other is not None else {}
    talks = any("lora_b" in name and tensor.any() for name, tensor in spoken.items())
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "lora_" in name:  # lora_a (P, K, R, I), lora_b (W, K, R)
                tensor[:, ACTION] = stored[name][:, 0]
                if spoken:
                    tensor[:, LANGUAGE] = (spoken if talks else stored)[name][:, 0]
            elif name.startswith(EYES) and spoken:
                tensor.copy_(spoken[name])
            elif name in stored:
                tensor.copy_(stored[name])
    model.store_in(torch.float32, fast_dtype())
    if config.tuned_backbone:
        model.decoder.cast_base(torch.float32)
    head = model.decoder.scale_head
    assert head is not None
    torch.nn.init.zeros_(head.last.weight)
    with torch.no_grad():
        head.last.bias.copy_(torch.tensor([ACTION_GATE, 1 - ACTION_GATE]).log())
    return replace(acting, model=model)


def groups(model: InstructVLA, rates: Mapping[str, float], head: bool = True) -> list[Group]:
    """What stage 2 trains, with or without the scale head, and how fast. Freezes everything else."""
    model.requires_grad_(False)
    decoder = model.decoder
    lora = [p for name, p in decoder.named_parameters() if "lora_" in name]
    chosen = [Group(lora, rates["lora"]), Group([decoder.new_rows], rates["new_rows"])]
    if head and decoder.scale_head is not None:
        chosen.append(Group(list(decoder.scale_head.parameters()), rates["scale_head"]))
    if model.config.tuned_backbone:
        base = [parameter for name, parameter in decoder.named_parameters() if decoder.is_base(name)]
        chosen.append(Group(base, rates["backbone"]))
    for group in chosen:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    return chosen


@dataclass
class Validation:
    """What a generalist is judged by while it trains, on held-out episodes, phrases and pictures."""

    data: MixedData
    multimodal: Callable[[InstructVLA], dict[str, float]]
    batches: int = 2

    @torch.no_grad()
    def __call__(self, model: InstructVLA) -> dict[str, float]:
        """Mean losses, `pointed` (share of held-out phrases whose source is pointed at within `NEAR`), gates.

        `gate_queries` and `gate_text` are the action expert's mean weights on latent queries and on the words that the
        model says itself.
        """
        random = np.random.default_rng(0)
        chosen = random.permutation(len(self.data.steps))[: self.batches * TEST_PICTURES]
        seen: dict[str, list[float]] = {}
        for start in range(0, len(chosen) - TEST_PICTURES + 1, TEST_PICTURES):
            torch.manual_seed(start)
            rows = [tuple(self.data.steps[i]) for i in chosen[start : start + TEST_PICTURES]]
            for name, value in self._judge(model, self.data.batch(rows, random).to(model.device)).items():
                seen.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in seen.items()} | self.multimodal(model)

    def _judge(self, model: InstructVLA, batch: ActionBatch) -> dict[str, float]:
        prompts, first = batch.prompts, batch.first
        assert prompts is not None and first is not None
        hidden, gates = model.read(prompts, model.encode(first))
        seen = _facing(batch, model.vision.trunk(batch.pixels), model.latents(hidden, prompts))
        trunk, latents, proprio, *_, places = seen
        context = model.action_expert.context(trunk, latents, proprio)
        miss = (context.points[:, 0] - places[:, 0, :2]).norm(dim=-1)
        spoken = (prompts.labels != IGNORE) & ~prompts.query_positions
        values = {"language": model.speech_loss(hidden, prompts), "pointed": (miss < NEAR).float().mean()}
        values |= model.action_losses(*seen, draws=1)
        values["gate_queries"] = gates[prompts.query_positions][:, ACTION].mean()
        values["gate_text"] = gates[spoken][:, ACTION].mean()
        return {name: float(value) for name, value in values.items()}


def _for_gates(data: MixedData, count: int) -> Iterator[tuple[Batch, Tensor]]:
    """Sequences and their pictures, requests and talks in turn."""
    for mixed in in_processes(data.mixed, range(count), spare_processes()):
        if mixed.action is not None:
            assert mixed.action.prompts is not None and mixed.action.first is not None
            yield mixed.action.prompts, mixed.action.first
        if mixed.requests is not None:
            yield mixed.requests.requests, mixed.requests.pixels
        if mixed.multimodal is not None:
            yield mixed.multimodal.text, mixed.multimodal.pixels


def run(
    data: Path,
    scenes: Path,
    stage1: Path,
    aligned: Path | None,
    out: Path,
    *,
    photos: Path | None = None,
    minutes: float | None = None,
    steps: int = 4000,
    seed: int = 0,
    recipe: Path = RECIPE,
    without: Ablation | None = None,
) -> None:
    """Tune the checkpoint `stage1` on annotated episodes in `data`, pictures in `scenes` and `photos`; see `begin`.

    Keeps the best model under `out/checkpoint`. Resumes when `out` holds an unfinished run. Raises `ValueError` where
    something is missing.
    """
    settings = Recipe.load(recipe)
    if without == "descriptions":
        settings = settings.silent()
    if settings.best.startswith("photo") and photos is None:
        raise ValueError(f"{recipe.name} keeps the weights with the best `{settings.best}`: give --photos too.")
    sets = {split: EpisodeDataset(data, split=split) for split in ("train", "held_out")}
    for episodes in sets.values():
        episodes.check_frames()  # the held-out ones are looked at even where the recipe has no action pictures
    torch.manual_seed(seed)
    loaded = begin(stage1, aligned, without)
    model, prompter, statistics = loaded.model, loaded.prompter, loaded.statistics
    assert statistics is not None
    acting = checkpoints.load(stage1, dtype=torch.float32).model.requires_grad_(False).eval()
    for one in (model, acting):
        one.to("cuda" if torch.cuda.is_available() else "cpu")
    catalog, held_out = load_catalog(), SceneDataset(scenes, "held_out")
    shown = {split: PhotoSet(photos, split) for split in ("train", "validation")} if photos is not None else {}
    known = sources(SceneDataset(scenes, "train"), catalog, shown.get("train"), settings.turns)
    mix = Mix(known, {name: share for name, share in settings.multimodal.items() if name in known}, seed)
    questions = Questions(mix, prompter, model.config, settings.multimodal_pictures)
    wishes = RequestData(
        SceneDataset(scenes, "train"), prompter, model.config, settings.request_pictures,
        settings.requests_per_picture, settings.requests, seed,
    )  # fmt: skip
    examples = range(EXAMPLES if settings.request_pictures else 0)
    teacher = Teacher(acting, in_processes(wishes, examples, spare_processes()))
    train_set = MixedData(
        sets["train"], prompter, model, statistics, told_about(data, sets["train"], "train"), wishes, questions,
        settings, seed,
    )  # fmt: skip
    test_set = MixedData(
        sets["held_out"], prompter, model, statistics, told_about(data, sets["held_out"], "validation"), wishes,
        questions, settings, seed,
    )  # fmt: skip

    def talks(model: InstructVLA) -> dict[str, float]:
        asked = scene_scores(model, prompter, held_out, catalog, "train", ASKED_PICTURES)
        if shown:
            named = photo_scores(model, prompter, shown["validation"], ASKED_PHOTOS, closed=False)
            asked |= {"photos": named["exact match"], "photo what": named["photo what"]}
        return asked | request_scores(model, prompter, held_out, ASKED_PICTURES)

    validation = Validation(test_set, talks)
    head = model.decoder.scale_head
    kept = settings.gates == "learned" and (out / "state.pt").exists()
    if head is not None and not head.last.weight.any() and not kept:  # one that knows nothing yet
        plain = MixedData(
            sets["train"], prompter, model, statistics, train_set.told, wishes, questions,
            settings.without_talks(), seed,
        )  # fmt: skip
        warm_up(model, _for_gates(plain, GATE_BATCHES))
    chosen = groups(model, settings.learning_rate, head=settings.gates == "learned")
    slow = model.device.type == "cpu"  # a GPU makes ten steps while a CPU makes one
    config = TrainingConfig(
        folder=out, steps=steps, seed=seed, warmup=10, schedule="cosine", minutes=minutes,
        evaluate_every=250 if slow else 500, save_every=25 if slow else 500, workers=1, best=(settings.best, "max"),
        processes=spare_processes(),
    )  # fmt: skip
    train(
        model,
        chosen,
        train_set.mixed,
        lambda batch: losses(model, teacher, batch, settings.weights, settings.gates == "told"),
        config,
        evaluate=lambda: validation(model),
        keep=lambda: checkpoints.save(model, out / "checkpoint", statistics=statistics),
    )
