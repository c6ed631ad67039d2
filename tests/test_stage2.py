"""Stage 2 on synthetic episodes: two experts, what trains, the mix, and that forgetting is not built in."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoints
from model.data.episodes import EpisodeDataset, EpisodeWriter
from model.data.phrases import Annotation
from model.data.splits import Split
from model.data.vla_it import AnnotatedEpisode, write_vla_it
from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Prompter, collate
from model.training import gates, stage1, stage2
from model.training.align import Example
from model.training.gates import warm_up
from model.training.latents import RequestBatch, Teacher
from model.training.stage2 import ACTION, LANGUAGE, MixedData, Recipe
from tests.test_stage1 import episode
from tests.tiny import TINY, byte_tokenizer

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other

PROMPTER = Prompter(byte_tokenizer(), TINY)


TOLD = AnnotatedEpisode(
    (
        Annotation("QA", "what is red?", "a berry"),
        Annotation("CC", "I want jam", "I will pick up the strawberry."),
        Annotation("CR", "grab the red berry", "I will take the strawberry."),
    )
)
EVERYWHERE = dict.fromkeys(range(8), TOLD)


def question(step: int) -> Example:
    return Example(torch.zeros(1, 3, 28, 56), collate([PROMPTER.conversation([("is it day?", "yes")])]))


@pytest.fixture
def data(tmp_path: Path) -> EpisodeDataset:
    with EpisodeWriter(tmp_path) as writer:
        for seed in range(8):
            writer.add(episode(seed))
    return EpisodeDataset(tmp_path)


@pytest.fixture
def folders(tmp_path: Path, data: EpisodeDataset, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A checkpoint that acts and one that talks, with LoRA that differs."""
    base = InstructVLA(TINY).decoder.state_dict()

    def fill(decoder: torch.nn.Module, source: object) -> None:
        frozen = {name: tensor for name, tensor in base.items() if InstructVLA.is_base(f"decoder.{name}")}
        decoder.load_state_dict(frozen, strict=False)

    monkeypatch.setattr(checkpoints, "load_llama", fill)
    monkeypatch.setattr(checkpoints, "base_weights", lambda: tmp_path)
    monkeypatch.setattr(checkpoints, "load_tokenizer", lambda folder: byte_tokenizer())
    for name, statistics in (("acts", data.statistics()), ("talks", None)):
        model = InstructVLA(TINY)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        checkpoints.save(model, tmp_path / name, statistics=statistics)
    return tmp_path / "acts", tmp_path / "talks"


def mixture(data: EpisodeDataset, model: InstructVLA) -> MixedData:
    small = replace(Recipe.load(), action_pictures=2, sequences_per_picture=3, request_pictures=0)
    return MixedData(data, PROMPTER, model, data.statistics(), EVERYWHERE, nothing, question, small, seed=0)


def nothing(step: int) -> RequestBatch:
    raise AssertionError("A recipe without requests asks for none.")


def test_one_expert_comes_from_each_checkpoint(folders: tuple[Path, Path]) -> None:
    generalist = stage2.begin(*folders).model
    acts, talks = (checkpoints.load(folder, dtype=torch.float32).model for folder in folders)
    for name, tensor in generalist.state_dict().items():
        if "lora_" in name:
            torch.testing.assert_close(tensor[:, ACTION], acts.state_dict()[name][:, 0])
            torch.testing.assert_close(tensor[:, LANGUAGE], talks.state_dict()[name][:, 0])
        elif "scale_head" not in name:
            owner = talks if name.startswith(stage2.EYES) else acts
            torch.testing.assert_close(tensor, owner.state_dict()[name])


def test_a_generalist_goes_on_behind_the_action_expert_of_stage_1(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = stage2.begin(*folders)
    for parameter in before.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    checkpoints.save(before.model, tmp_path / "both", statistics=before.statistics)
    kept, acts = (checkpoints.load(one, dtype=torch.float32).model for one in (tmp_path / "both", folders[0]))
    generalist = stage2.begin(folders[0], tmp_path / "both").model
    assert generalist.decoder.experts == 2
    for name, tensor in generalist.state_dict().items():
        if not InstructVLA.is_base(name):
            owner = acts if name.startswith("action_expert.") else kept
            torch.testing.assert_close(tensor, owner.state_dict()[name], msg=name)
    with pytest.raises(ValueError, match="decided before"):
        stage2.begin(folders[0], tmp_path / "both", "frozen-backbone")


def test_a_generalist_alone_goes_on_as_it_is(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = stage2.begin(*folders)
    head = before.model.decoder.scale_head
    assert head is not None and not head.last.weight.any()  # by which `run` tells a head that has to be warmed up
    for parameter in before.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    both = tmp_path / "both"
    checkpoints.save(before.model, both, statistics=before.statistics)
    kept = checkpoints.load(both, dtype=torch.float32).model.state_dict()
    for name, tensor in stage2.begin(both, None).model.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], msg=name)
    with pytest.raises(ValueError, match="goes on alone"):
        stage2.begin(both, folders[1])


def test_the_action_expert_of_a_generalist_learns_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = stage2.begin(*folders)
    checkpoints.save(before.model, tmp_path / "both", statistics=before.statistics)
    with EpisodeWriter(tmp_path / "more") as writer:
        for seed in (0, 1, 2, 6):  # the last one is held out
            writer.add(episode(seed))
    data, both = tmp_path / "more", tmp_path / "both"
    with pytest.raises(ValueError, match="add --freeze-language"):
        stage1.run(data, both, tmp_path / "out", steps=2)
    stage1.run(data, both, tmp_path / "out", steps=2, freeze_language=True)
    kept, settled = (checkpoints.load(one, dtype=torch.float32).model for one in (both, tmp_path / "out/checkpoint"))
    moved = {name for name, tensor in settled.state_dict().items() if not torch.equal(tensor, kept.state_dict()[name])}
    assert "action_expert.pointer.query.weight" in moved  # a weight, not the running statistics alone
    assert all(name.startswith("action_expert.") for name in moved if not InstructVLA.is_base(name))


def test_a_recipe_says_what_it_does_otherwise() -> None:
    usual, gpu = Recipe.load(), Recipe.load(stage2.RECIPE.with_name("stage2-gpu.yaml"))
    assert gpu.weights == usual.weights and gpu.learning_rate == usual.learning_rate
    assert gpu.multimodal_pictures > usual.multimodal_pictures


def test_it_starts_as_the_acting_model_where_the_gates_are_all_for_it(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage2, "ACTION_GATE", 1 - 1e-7)
    generalist = stage2.begin(folders[0], None).model.eval()
    acting = checkpoints.load(folders[0], dtype=torch.float32).model
    batch = collate([PROMPTER.think_example("pick up the cube", "I will.")])
    view = acting.encode(torch.randn(1, 3, 28, 56))
    torch.testing.assert_close(
        generalist.language(batch, view)[1], acting.eval().language(batch, view)[1], atol=1e-2, rtol=1e-2
    )


def test_a_checkpoint_that_does_not_act_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="has not learned to act"):
        stage2.begin(folders[1], None)


def test_experts_gates_and_queries_learn_and_the_action_expert_does_not(
    data: EpisodeDataset, folders: tuple[Path, Path]
) -> None:
    model = stage2.begin(*folders).model.train()
    recipe = Recipe.load()
    stage2.groups(model, recipe.learning_rate)
    running = model.action_expert.latent_norm.mean.clone()
    stage2.losses(model, Teacher(model, ()), mixture(data, model).mixed(0), recipe.weights)["loss"].backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved and all("lora_" in name or "scale_head" in name or name == "decoder.new_rows" for name in moved)
    assert any("scale_head" in name for name in moved) and "decoder.new_rows" in moved
    torch.testing.assert_close(model.action_expert.latent_norm.mean, running)


def test_sequences_come_in_the_recipes_shares(data: EpisodeDataset, folders: tuple[Path, Path]) -> None:
    model = stage2.begin(*folders).model
    seen: Counter[str] = Counter()

    class Counting(MixedData):
        def said(self, kind, row, step, random):  # type: ignore[no-untyped-def]
            seen[kind] += 1
            return super().said(kind, row, step, random)

    recipe = replace(Recipe.load(), action_pictures=1)
    source = Counting(data, PROMPTER, model, data.statistics(), EVERYWHERE, nothing, question, recipe, seed=0)
    for step in range(60):
        source(step)
    assert set(seen) == set(Recipe.load().sequences)
    for kind, share in Recipe.load().sequences.items():
        assert abs(seen[kind] / seen.total() - share) < 0.08


def test_annotations_of_another_split_are_not_trained_on(data: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="--annotate grammar"):
        stage2.told_about(data.folder, data, "train")
    splits: list[Split] = ["train", "test", "validation", "train"]
    told = {data.key(index): replace(TOLD, split=split) for index, split in enumerate(splits)}
    write_vla_it(data.folder / stage2.ANNOTATIONS, told)
    assert set(stage2.told_about(data.folder, data, "train")) == {data[0].seed, data[3].seed}


def test_an_episode_without_annotations_is_still_acted_on(data: EpisodeDataset, folders: tuple[Path, Path]) -> None:
    model = stage2.begin(*folders).model
    silent = MixedData(data, PROMPTER, model, data.statistics(), {}, nothing, question, Recipe.load(), seed=0)
    prompt = silent.said("context", data[0], 0, np.random.default_rng(0))
    assert torch.equal(prompt.ids, PROMPTER.think_example(data[0].instruction, data[0].reply).ids)


def test_shares_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(stage2.RECIPE.read_text().replace("direct: 0.2", "direct: 0.5"))
    with pytest.raises(ValueError, match="add up"):
        Recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(stage2.RECIPE.read_text() + "\nmore: 1\n")
    with pytest.raises(ValueError, match="more"):
        Recipe.load(tmp_path / "r.yaml")


def test_by_what_weights_are_kept_is_checked_before_the_training(
    data: EpisodeDataset, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("best: fotos")
    with pytest.raises(ValueError, match="one of meant, replies, photos, photo what, not fotos"):
        Recipe.load(tmp_path / "r.yaml")
    further = stage2.RECIPE.with_name("stage2-further.yaml")
    with pytest.raises(ValueError, match="give --photos too"):
        stage2.run(data.folder, tmp_path, folders[0], None, tmp_path / "out", recipe=further)


def test_it_learns_other_words_without_losing_the_answer(data: EpisodeDataset, folders: tuple[Path, Path]) -> None:
    model, recipe = stage2.begin(*folders).model, Recipe.load()
    source = mixture(data, model)
    chosen = stage2.groups(model, recipe.learning_rate)
    optimiser = torch.optim.AdamW([{"params": list(group.parameters), "lr": 10 * group.lr} for group in chosen])
    talk = question(0)

    def multimodal(model: InstructVLA) -> dict[str, float]:
        return {"multimodal": float(model.language(talk.text, model.encode(talk.pixels))[0])}

    tests = stage2.Validation(source, multimodal, batches=2)
    before = tests(model.eval())
    model.train()
    for step in range(60):
        optimiser.zero_grad()
        stage2.losses(model, Teacher(model, ()), source.mixed(step), recipe.weights)["loss"].backward()
        optimiser.step()
    after = tests(model.eval())
    assert after["language"] < 0.93 * before["language"] and after["multimodal"] < 0.9 * before["multimodal"]
    assert 0 <= after["gate_text"] <= 1 and 0 <= after["gate_queries"] <= 1


@pytest.mark.parametrize("without", ["experts", "frozen-backbone"])
def test_ablated_models_train_and_come_back_from_disk(
    without: stage2.Ablation, data: EpisodeDataset, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model, recipe = stage2.begin(*folders, without).model, Recipe.load()
    chosen = stage2.groups(model, recipe.learning_rate)
    optimiser = torch.optim.SGD([p for group in chosen for p in group.parameters], lr=0.1)
    stage2.losses(model.train(), Teacher(model, ()), mixture(data, model).mixed(0), recipe.weights)["loss"].backward()
    optimiser.step()
    assert (model.decoder.layers[0].mlp.gate.weight.grad is not None) == (without == "frozen-backbone")
    assert (model.decoder.scale_head is None) == (without == "experts")
    checkpoints.save(model, tmp_path / "ablated", statistics=data.statistics())
    again = checkpoints.load(tmp_path / "ablated", dtype=torch.float32).model
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name].float(), tensor.float(), atol=0.02, rtol=0.02)


def test_gates_begin_by_telling_requests_from_questions(
    data: EpisodeDataset, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "PASSES", 120)
    torch.manual_seed(0)
    model = stage2.begin(*folders).model.train()
    source = mixture(data, model)
    warm_up(model, stage2._for_gates(source, 12))
    model.eval()
    prompts, pixels = next(stage2._for_gates(source, 1))
    weights = model.read(prompts, model.encode(pixels))[1][..., ACTION]
    talk, sight = list(stage2._for_gates(source, 1))[1]
    talked = model.read(talk, model.encode(sight))[1][..., ACTION]
    assert weights[prompts.query_positions].mean() > 0.8 > 0.3 > talked[talk.labels != IGNORE].mean()
    with pytest.raises(ValueError, match="no gates"):
        warm_up(checkpoints.load(folders[0], dtype=torch.float32).model, [])


def test_a_silent_recipe_still_adds_up() -> None:
    silent = Recipe.load().silent()
    assert sum(silent.sequences.values()) == pytest.approx(1) and "describe" not in silent.sequences
    assert silent.weights["multimodal"] == 0
