"""The closed loop: when pictures and thoughts are due, what is reused, and that noise follows the seed."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.instructvla import InstructVLA
from model.policy import EXECUTE, REFRESH, InstructPolicy, Schedule, heat_rows
from model.prompts import Prompter, collate
from model.streaming import inference
from model.vision import preprocess
from sim.interface import Action
from tests.tiny import TINY, byte_tokenizer, observation, statistics

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


@pytest.fixture
def model() -> InstructVLA:
    torch.manual_seed(0)
    model = InstructVLA(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.abs().sum() == 0 else None
    return model


def policy(model: InstructVLA, think: bool, **options: Any) -> InstructPolicy:
    prompter = Prompter(byte_tokenizer(), TINY)
    return InstructPolicy(model, prompter, statistics(), think=think, lock=threading.Lock(), **options)


def rollout(pilot: InstructPolicy, steps: int, seed: int = 0) -> list[Action]:
    pilot.reset("pick up the cube", seed)
    return [pilot.act(observation(step, image=pilot.needs_image)) for step in range(steps)]


@pytest.mark.parametrize("think", [False, True])
def test_same_seed_same_actions(model: InstructVLA, think: bool) -> None:
    first, again = rollout(policy(model, think), 9), rollout(policy(model, think), 9)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, rollout(policy(model, think), 9, seed=1))


def test_reset_forgets_the_episode_before(model: InstructVLA) -> None:
    pilot = policy(model, think=True)
    rollout(pilot, 7, seed=3)
    np.testing.assert_array_equal(rollout(pilot, 5), rollout(policy(model, think=True), 5))


def test_actions_are_within_the_data_and_the_gripper_is_binary(model: InstructVLA) -> None:
    actions = np.array(rollout(policy(model, think=False), 12))
    bounds = np.array(statistics().action.q99[:6]) + 1e-6
    assert (np.abs(actions[:, :6]) <= bounds).all()
    assert set(np.unique(actions[:, 6])) <= {0.0, 1.0}


def test_pictures_are_needed_once_per_executed_chunk(model: InstructVLA) -> None:
    pilot = policy(model, think=False)
    pilot.reset("pick up the cube")
    needed = []
    for step in range(2 * EXECUTE + 1):
        needed.append(pilot.needs_image)
        pilot.act(observation(step, image=pilot.needs_image))
    assert needed == ([True] + [False] * (EXECUTE - 1)) * 2 + [True]


def test_missing_picture_is_refused_with_a_sentence(model: InstructVLA) -> None:
    pilot = policy(model, think=False)
    pilot.reset("pick up the cube")
    with pytest.raises(ValueError, match="needs a picture"):
        pilot.act(observation(image=False))


def test_thoughts_are_due_at_the_start_and_after_the_refresh(model: InstructVLA) -> None:
    pilot = policy(model, think=True)
    pilot.reset("pick up the cube")
    due = []
    for step in range(REFRESH + EXECUTE):
        due.append(pilot.thinking_due)
        pilot.act(observation(step, image=pilot.needs_image))
    assert [step for step, flag in enumerate(due) if flag] == [0, -(-REFRESH // EXECUTE) * EXECUTE]


def test_another_schedule(model: InstructVLA) -> None:
    pilot = policy(model, think=True, schedule=Schedule(think_every=4, execute=2))
    pilot.reset("pick up the cube")
    needed, due = [], []
    for step in range(9):
        needed.append(pilot.needs_image)
        due.append(pilot.thinking_due)
        pilot.act(observation(step, image=pilot.needs_image))
    assert [step for step, flag in enumerate(needed) if flag] == [0, 2, 4, 6, 8]
    assert [step for step, flag in enumerate(due) if flag] == [0, 4, 8]


def test_streamed_thought_gives_the_same_action_as_a_silent_one(model: InstructVLA) -> None:
    streamed, silent = policy(model, think=True), policy(model, think=True)
    streamed.reset("pick up the cube")
    silent.reset("pick up the cube")
    text = "".join(streamed.think(observation()))
    np.testing.assert_array_equal(streamed.act(observation()), silent.act(observation()))
    assert text == streamed.thought == silent.thought


def test_thinking_the_same_again_takes_one_pass(model: InstructVLA, monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = policy(model, think=True)
    pilot.reset("pick up the cube")
    first = "".join(pilot.think(observation()))
    passes: list[int] = []
    forward = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda x, *rest: passes.append(x.shape[1]) or forward(x, *rest))
    assert "".join(pilot.think(observation())) == first != ""
    assert len(passes) == 1
    pilot.reset("pick up the cube")  # another episode guesses nothing
    assert "".join(pilot.think(observation())) == first
    assert len(passes) > 4


def test_latents_after_a_cached_thought_equal_one_full_pass(model: InstructVLA) -> None:
    prompter = Prompter(byte_tokenizer(), TINY)
    with torch.no_grad():
        view = model.encode(torch.randn(1, 3, 28, 56))
        embeds, cache = model.open_prompt(prompter.think("pick up the cube"), view, 10)
        thought = list(model.decoder.generate(embeds, cache, 10, prompter.stop_ids))
        cached = model.read_latents(cache, prompter.query_ids[None])
        ids = torch.tensor([thought]) if thought else torch.zeros(1, 0, dtype=torch.long)
        full = torch.cat([embeds, model.decoder.embed(torch.cat([ids, prompter.query_ids[None]], 1))], 1)
        hidden, _ = model.decoder(full)
    torch.testing.assert_close(cached, hidden[:, -TINY.queries :], atol=1e-4, rtol=1e-4)


def test_stopping_ends_the_thought(model: InstructVLA) -> None:
    pilot = policy(model, think=True)
    pilot.reset("pick up the cube")
    seen: list[str] = []
    for piece in pilot.think(observation(), should_stop=lambda: len(seen) >= 2):
        seen.append(piece)
    assert len(seen) <= 2


def test_a_new_instruction_counts_from_the_next_action_on(model: InstructVLA) -> None:
    told, born = policy(model, think=False), policy(model, think=False)
    told.reset("pick up the cube")
    told.act(observation(0))
    told.instruct("open the top drawer")
    assert told.needs_image
    born.reset("open the top drawer")
    born._noise = torch.Generator().manual_seed(0)
    torch.randn((1, TINY.action.chunk, TINY.action.action_dim), generator=born._noise)  # the first plan's draw
    np.testing.assert_array_equal(told.act(observation(1)), born.act(observation(1)))


def test_an_edited_thought_is_acted_on_as_if_it_were_the_models_own(model: InstructVLA) -> None:
    edited, plain = policy(model, think=True), policy(model, think=True)
    for pilot in (edited, plain):
        pilot.reset("pick up the cube")
        pilot.act(observation(0))
    edited.rethink(observation(1), "take the plum")
    assert edited.needs_image and not edited.thinking_due and edited.thought == "take the plum"
    prompter = Prompter(byte_tokenizer(), TINY)
    with inference(model, threading.Lock()):
        example = collate([prompter.think_example("pick up the cube", "take the plum")])
        view = model.encode(preprocess(observation(1).image, TINY.vision)[None])
        _, latents = model.language(example, view)
        _, others = model.language(collate([prompter.think_example("pick up the cube", "take the pear")]), view)
    edited.act(observation(1))
    assert edited._latents is not None
    torch.testing.assert_close(edited._latents, latents, atol=0.03, rtol=0.03)  # bfloat16, in other pieces
    assert not torch.allclose(edited._latents, others, atol=0.1, rtol=0.1)


def test_a_thought_that_is_too_long_is_refused_and_nothing_is_lost(model: InstructVLA) -> None:
    pilot = policy(model, think=True)
    actions = rollout(policy(model, think=True), 3)
    pilot.reset("pick up the cube")
    np.testing.assert_array_equal(pilot.act(observation(0)), actions[0])
    with pytest.raises(ValueError, match="shorten"):
        pilot.rethink(observation(1), "word " * 100)
    np.testing.assert_array_equal(pilot.act(observation(1, image=False)), actions[1])


def test_gates_are_told_where_experts_are_mixed(model: InstructVLA) -> None:
    mixed = replace(TINY, lora=replace(TINY.lora, experts=2))
    torch.manual_seed(1)
    for net, told in ((model, False), (InstructVLA(mixed).eval(), True)):
        pilot = policy(net, think=True)
        pilot.reset("pick up the cube")
        gates = [pilot.gate for _ in pilot.think(observation())]
        assert gates and all((gate is not None and 0 < gate < 1) == told for gate in gates)


def test_attention_comes_with_every_plan_and_peaks_where_the_pointer_looks(model: InstructVLA) -> None:
    pilot = policy(model, think=False)
    assert pilot.heat is None
    rollout(pilot, 1)
    rows, columns = TINY.vision.grid
    assert pilot.heat is not None and set(pilot.heat) == {"source", "target"}
    for text in pilot.heat.values():
        assert [len(row) for row in text.split("/")] == [columns] * rows and "f" in text
    told = heat_rows(np.array([[0.64, 0.16], [0.0, 0.04]], np.float32))
    assert told == "f8/04", "square roots of the shares of the strongest, in fifteenths"
