"""Sequences that share a picture read as if each stood alone, and pay for the picture once."""

from dataclasses import replace

import pytest
import torch

from model.instructvla import InstructVLA
from model.language import IGNORE
from model.prompts import Prompter, collate, share_picture
from tests.tiny import TINY, byte_tokenizer

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other

PROMPTER = Prompter(byte_tokenizer(), TINY)
EXAMPLES = [
    PROMPTER.act_example("pick up the cube"),
    PROMPTER.conversation([("what is red?", "a berry"), ("and blue?", "nothing at all")]),
    PROMPTER.think_example("tidy up", "I will put the cube away."),
]


@pytest.mark.parametrize("experts", [1, 2])
def test_branches_equal_sequences_that_stand_alone(experts: int) -> None:
    torch.manual_seed(0)
    model = InstructVLA(replace(TINY, lora=replace(TINY.lora, experts=experts))).eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pictures = model.encode(torch.randn(2, 3, TINY.vision.height, TINY.vision.width))
    # The second sequence of the batch is shorter: its padding must not matter either.
    batch = collate([share_picture(EXAMPLES), share_picture(EXAMPLES[:2])])
    assert batch.branch is not None
    hidden, gates = model.decoder(model.embed(batch.ids, batch.image_positions, pictures.tokens), branch=batch.branch)
    shared = int((batch.branch[0] == 0).sum())
    for row, examples in enumerate((EXAMPLES, EXAMPLES[:2])):
        for number, example in enumerate(examples, 1):
            alone = collate([example])
            expected, weights = model.decoder(
                model.embed(alone.ids, alone.image_positions, pictures.tokens[row : row + 1])
            )
            own = batch.branch[row] == number
            torch.testing.assert_close(hidden[row, own], expected[0, shared:])
            torch.testing.assert_close(gates[row, own], weights[0, shared:])


def test_losses_and_latent_actions_are_those_of_the_branches() -> None:
    torch.manual_seed(0)
    model = InstructVLA(TINY).eval()
    view = model.encode(torch.randn(1, 3, TINY.vision.height, TINY.vision.width))
    together, latents = model.language(collate([share_picture(EXAMPLES)]), view)
    alone = [model.language(collate([example]), view) for example in EXAMPLES]
    counts = [int((example.labels != IGNORE).sum()) for example in EXAMPLES]
    expected = sum(loss * count for (loss, _), count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(latents, torch.cat([own for _, own in alone]))
    assert len(latents) == 2  # the conversation has no queries


def test_only_what_begins_alike_can_share() -> None:
    other = replace(PROMPTER.act_example("go"), ids=PROMPTER.act_example("go").ids + 1)
    with pytest.raises(ValueError, match="begin with the same"):
        share_picture([EXAMPLES[0], other])
