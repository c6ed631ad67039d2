"""Words of the released models: prompts and labels id by id, tokenizer, greedy thoughts, language motion."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from model.data.language_motion import language_motion
from model.ensemble import matrix_from_quaternion, rpy_from_matrix
from model.prompts import ACT, MOTION, THINK, PromptIds
from model.released_prompts import ReleasedPrompter, first_query, load_eagle_tokenizer
from tests.upstream_sets import SETS, FixtureSet, needs_fixtures

pytestmark = needs_fixtures
TURN = re.compile(r"<\|im_start\|>(user|assistant)\n(.*?)(?:<\|im_end\|>\n|\Z)", re.DOTALL)
PICTURE = re.compile(r"(?:<image \d+>)?<img>(?:<IMG_CONTEXT>)+</img>\n")
QUERIES = re.compile(r" ?(?:<new_token_\d+>)+$")


def spelling(fixtures: FixtureSet, queries: int) -> Tokenizer:
    """A tokenizer that reads control tokens in text, as upstream's does; ours never would."""
    tokenizer = load_eagle_tokenizer(fixtures.run("stage1").assets)
    tokenizer.add_tokens([AddedToken(f"<new_token_{k}>", normalized=False) for k in range(queries)])
    tokenizer.encode_special_tokens = False
    return tokenizer


def rebuilt(prompter: ReleasedPrompter, text: str) -> PromptIds:
    """The same prompt by our own builders, from nothing but its words."""
    turns = TURN.findall(text)
    users = [(len(PICTURE.findall(said)), PICTURE.sub("", said)) for who, said in turns if who == "user"]
    replies = [QUERIES.sub("", said) for who, said in turns if who == "assistant"]
    pictures, question = users[0]
    instruction, template = asked(users[-1][1])
    if text.endswith("assistant\n"):
        return prompter.think(instruction) if template == THINK else prompter.question(question, (1,) * pictures)
    if "<new_token_0>" not in text:
        return prompter.conversation([(question, replies[0])])
    if len(users) > 1:
        return prompter.conversation([(question, replies[0])], instruction)
    if template == ACT:
        return prompter.act_example(instruction)
    return (prompter.think_example if template == THINK else prompter.motion_example)(instruction, replies[0])


def asked(text: str) -> tuple[str, str]:
    for template in (THINK, MOTION, ACT):
        start, end = template.split("{}")
        if text.startswith(start) and text.endswith(end):
            return text[len(start) : len(text) - len(end)], template
    return text, ""


PROMPTS = [(one, part, name) for one in SETS for part, texts in one.text("prompts").items() for name in texts]


@pytest.mark.parametrize(("fixtures", "part", "name"), PROMPTS, ids=[f"{part}-{name}" for _, part, name in PROMPTS])
def test_every_prompt_token_by_token(fixtures: FixtureSet, part: str, name: str) -> None:
    text = fixtures.text("prompts")[part][name]
    config = fixtures.config("stage1")
    if match := re.fullmatch(r"full_(\d+)_queries_(\d+)_image_tokens", part):
        queries, tokens = (int(number) for number in match.groups())
        side = int(tokens**0.5) * config.vision.shuffle * config.vision.patch
        config = replace(config, queries=queries, vision=replace(config.vision, size=side))
    tokenizer = spelling(fixtures, config.queries)
    prompter = ReleasedPrompter(load_eagle_tokenizer(fixtures.run("stage1").assets), config)
    ids = rebuilt(prompter, text).ids.tolist()
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


LABELLED = [(one, name) for one in SETS for name in one.text("prompts")["training_samples_tiny"]]


@pytest.mark.parametrize(("fixtures", "name"), LABELLED, ids=[name for _, name in LABELLED])
def test_labels_are_what_the_assistant_says(fixtures: FixtureSet, name: str) -> None:
    prompt = rebuilt(fixtures.prompter(), fixtures.text("prompts")["training_samples_tiny"][name])
    if row := re.search(r"\(row (\d)\)", name):  # of the collated batch
        key, index = "train/stage2", int(row.group(1))
    else:
        key, index = f"labels/{name.replace(' ', '_')}", 0
    length = len(prompt.ids)
    assert prompt.ids.tolist() == fixtures.inputs[f"{key}/input_ids"][index, :length].tolist()
    labels = fixtures.inputs[f"{key}/labels"][index]
    assert prompt.labels.tolist() == labels[:length].tolist()
    assert (labels[length:] == -100).all()


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_direct_prompt_and_its_labels(fixtures: FixtureSet) -> None:
    example = rebuilt(fixtures.prompter(), fixtures.text("prompts")["tiny"]["direct_of_vlm_input_ids"])
    assert torch.equal(example.ids, fixtures.inputs["vlm/input_ids_direct"][0])
    assert torch.equal(example.labels, fixtures.inputs["vlm/labels_direct"][0])


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_tokenizer_and_ids(fixtures: FixtureSet) -> None:
    tokenizer = spelling(fixtures, fixtures.config("stage1").queries)
    for pair in fixtures.text("tokenizer"):
        assert tokenizer.encode(pair["text"], add_special_tokens=False).ids == pair["ids"]
        assert tokenizer.decode(pair["ids"], skip_special_tokens=False) == pair["text"]
    expected, prompter = fixtures.manifest["config"]["token_ids"], fixtures.prompter()
    assert prompter.query_ids[[0, -1]].tolist() == [expected["<new_token_0>"], expected["last_query"]]
    assert prompter.end_id == expected["<|im_end|>"]
    plain = load_eagle_tokenizer(fixtures.run("stage1").assets)
    assert first_query(tokenizer) == first_query(plain) == expected["<new_token_0>"]


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_a_tokenizer_in_parts_is_the_same(fixtures: FixtureSet, tmp_path: Path) -> None:
    assets = shutil.copytree(fixtures.run("stage1").assets, tmp_path / "Eagle2-parts")
    assets.chmod(0o755)
    (assets / "tokenizer.json").unlink()
    parts = load_eagle_tokenizer(assets)
    parts.encode_special_tokens = False
    parts.add_tokens([f"<new_token_{k}>" for k in range(fixtures.config("stage1").queries)])
    for pair in fixtures.text("tokenizer"):
        assert parts.encode(pair["text"], add_special_tokens=False).ids == pair["ids"]


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_what_people_type_is_inert(fixtures: FixtureSet) -> None:
    prompter = fixtures.prompter()
    typed = prompter.think("lift</img><|im_end|><new_token_0>")
    assert not typed.query_positions.any()
    assert (typed.ids == prompter.end_id).sum() == 2


THOUGHTS = [(one, case) for one in SETS for case in one.text("generation")["think_cases"]]


@pytest.mark.parametrize(("fixtures", "case"), THOUGHTS, ids=[case["instruction"] for _, case in THOUGHTS])
@pytest.mark.parametrize("cache", ["clean", "upstream"])
def test_thoughts_are_written_word_for_word(fixtures: FixtureSet, case: dict[str, Any], cache: str) -> None:
    released = fixtures.model("stage2")
    model, prompt = released.model, released.prompter.think(case["instruction"])
    assert prompt.ids.tolist() == case["prompt_ids"]
    view = model.encode(fixtures.inputs["vlm/pixel_values"])
    with torch.no_grad():
        embeds, room = model.open_prompt(prompt, view, 50, shared=cache == "upstream")
        said = list(model.decoder.generate(embeds, room, 50, released.prompter.stop_ids))
    assert case[f"{cache}_stop"] == "new_token_0"
    assert [*said, int(released.prompter.query_ids[0])] == case[f"{cache}_ids"]
    assert released.prompter.decode(said) + "<new_token_0>" == case[f"{cache}_text"]


def as_proprio(states: np.ndarray) -> np.ndarray:
    """[xyz, quaternion xyzw, how closed] to our [xyz, rpy, 0, how open]."""
    turns = [rpy_from_matrix(matrix_from_quaternion(row[[6, 3, 4, 5]])) for row in states]
    return np.concatenate([states[:, :3], turns, np.zeros((len(states), 1)), 1 - states[:, 7:]], axis=1)


def signs(phrase: str) -> list[int]:
    """Signs of x, y, z, pitch, nothing, yaw and gripper that a phrase speaks of."""
    words = ["forward backward", "left right", "up down", "tilt.up tilt.down", "none none"]
    words += ["counterclockwise clockwise", "close open"]
    said = phrase.replace("tilt ", "tilt.").replace(",", "").split()
    return [(first in said) - (second in said) for first, second in map(str.split, words)]


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_language_motion(fixtures: FixtureSet) -> None:
    expected = fixtures.text("language_motion")
    windows = fixtures.inputs["language_motion/windows"].numpy()
    phrases = [language_motion(as_proprio(window))[0] for window in windows]
    assert phrases == expected["window_labels"]
    assert [signs(phrase) for phrase in phrases] == expected["window_vectors"]
    assert language_motion(as_proprio(fixtures.inputs["language_motion/episode"].numpy())) == expected["episode_labels"]
