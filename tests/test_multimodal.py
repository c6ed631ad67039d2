"""The multimodal set: photographs split by source, answers that labels give, mixes that depend on seed and step."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.multimodal import Mix, PhotoTalks, SceneTalks, TextTalks
from model.data.photos import ENOUGH, PhotoSet, held_out
from model.data.questions import Turn
from model.data.scenes import SceneDataset, SceneWriter
from model.data.things import load_catalog
from model.instructvla import InstructVLA
from model.prompts import Prompter
from model.training.answering import best_answer, exact, photo_scores, shares
from tests.test_episodes import jpeg
from tests.tiny import TINY, byte_tokenizer

ROWS = [
    ("grocery/golden", ["golden delicious apple", "apple", "fruit"], "fruit", 30),
    ("grocery/red-bell-pepper", ["red bell pepper", "bell pepper", "vegetable"], "vegetable", 30),
    ("clothing/hat", ["hat"], "clothing", 30),
    ("clothing/shirt", ["shirt"], "clothing", 30),
    ("trash/glass", ["glass object"], "household waste / material", 30),
    ("animals/yak", ["yak"], "animal", ENOUGH - 1),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = []
    for shade, (name, labels, category, count) in enumerate(ROWS):
        for index in range(count):
            file = f"{name}_{index:02d}.jpg"
            (tmp_path / file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 16), (40 * shade, 8 * (index % 30), 0)).save(tmp_path / file)
            lines.append({"file": file, "labels": labels, "category": category, "caption": None})
    lines.append({"file": "coco/1.jpg", "labels": ["dog"], "category": "scene: animal", "caption": "A dog runs."})
    (tmp_path / "coco").mkdir()
    Image.new("RGB", (20, 16)).save(tmp_path / "coco/1.jpg")
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return tmp_path


def test_photographs_of_one_thing_stay_together(folder: Path) -> None:
    sets = {split: PhotoSet(folder, split) for split in ("train", "validation", "test")}
    files = [photo.file for photos in sets.values() for photo in photos.photos]
    assert sorted(files) == sorted(photo.file for photo in sets["train"].all) and len(set(files)) == len(files)
    runs = [{photo.run for photo in photos.photos} for photos in sets.values()]
    assert not runs[0] & runs[1] and not runs[0] & runs[2] and not runs[1] & runs[2]
    assert len(sets["train"]) > len(sets["test"]) > 0
    photo = sets["train"].all[7]
    assert photo.run == ("grocery/golden_", "1") and photo.what == "apple"


def test_labels_answer_what_is_asked(folder: Path) -> None:
    photos = PhotoSet(folder, "train")
    assert photos.names == ["apple", "bell pepper", "glass object", "hat", "shirt"]
    answers = {
        "apple": {"what": "apple", "which": "golden delicious apple", "kind": "fruit", "eat": "yes"},
        "bell pepper": {"what": "bell pepper", "which": "red bell pepper", "colour": "red", "eat": "yes"},
        "hat": {"what": "hat", "kind": "clothing", "eat": "no"},
        "shirt": {"what": "shirt", "kind": "clothing", "eat": "no"},
        "glass object": {"what": "glass object", "material": "glass", "eat": "no"},
        "dog": {"caption": "A dog runs."},
    }  # fmt: skip
    seen = set()
    for index, turn in held_out(photos):
        photo, kind = photos.photos[index], turn.kind.removeprefix("photo ")
        if kind in ("presence", "is"):
            named = any(word in turn.question for word in (photo.what, *photo.labels))
            assert turn.answer == ("yes" if named else "no"), turn
        elif photo.what in answers and kind in answers[photo.what]:
            assert turn.answer == answers[photo.what][kind]
        else:
            assert kind in ("kind", "name_food") or photo.what == "yak", (photo, turn)
        seen.add((kind, turn.answer))
    assert {("presence", "no"), ("is", "yes"), ("is", "no"), ("material", "glass"), ("colour", "red")} <= seen
    assert not [turn for _, turn in held_out(photos) if turn.answer == "yak" and turn.kind == "photo what"]


def test_a_folder_without_labels_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels\.jsonl"):
        PhotoSet(tmp_path, "train")


def sources(folder: Path, scenes: Path) -> dict:
    writer = SceneWriter(scenes)
    for seed in range(4):
        writer.add(str(seed), seed, jpeg(seed), {"carrot": (0.2, 0.4), "red_can": (0.6, 0.5 + seed / 10)})
    return {
        "scene": SceneTalks(SceneDataset(scenes), load_catalog()),
        "photo": PhotoTalks(PhotoSet(folder, "train")),
        "text": TextTalks(load_catalog()),
    }


def test_a_mix_is_a_function_of_seed_and_step(folder: Path, tmp_path: Path) -> None:
    shares_of = {"scene": 2, "photo": 1, "text": 1}
    made = sources(folder, tmp_path / "scenes")
    mix, again, other = Mix(made, shares_of), Mix(made, shares_of), Mix(made, shares_of, seed=1)
    plain = [(talk.source, talk.turns) for step in range(60) for talk in mix(step, 4)]
    assert [(talk.source, talk.turns) for talk in again(7, 4)] == plain[28:32]
    assert [talk.turns for talk in other(0, 4)] != [talk.turns for talk in mix(0, 4)]
    names = [name for name, _ in plain]
    assert 0.4 < names.count("scene") / len(names) < 0.6 and names.count("text") > 30
    for _, turns in plain:
        assert turns and all(turn.question and turn.answer and "{" not in turn.question for turn in turns)
    for talk in mix(0, 8):
        assert talk.image.dtype == np.uint8 and talk.image.ndim == 3
    with pytest.raises(ValueError, match="'video'"):
        Mix(made, {"video": 1})


def test_plain_knowledge_is_true_and_choices_hold_one_right_answer() -> None:
    catalog = {thing.name: thing for thing in load_catalog().values()}
    talks = TextTalks(load_catalog(), "test")
    turns = [turn for seed in range(80) for turn in talks.talk(random.Random(seed)).turns]
    for turn in turns:
        if " or " in turn.question:
            named = [name for name in catalog if f"{name}," in turn.question or f"{name} or" in turn.question]
            assert turn.answer in turn.question and named
        elif any(language in turn.question for language in ("French", "Spanish", "German", "Chinese")):
            assert any(turn.answer in (thing.names or {}).values() for thing in catalog.values())
    assert not [turn for turn in turns if " a apple" in turn.question or "a the" in turn.question]


def test_exact_match_and_the_closed_set_agree_with_the_models_own_words() -> None:
    torch.manual_seed(0)
    model, prompter = InstructVLA(TINY).eval(), Prompter(byte_tokenizer(), TINY)
    pixels = torch.randn(3, TINY.vision.height, TINY.vision.width)
    embeds, cache = model.open_prompt(prompter.question("What?"), model.encode(pixels[None]), 8)
    said = []
    with torch.no_grad():
        for token in model.decoder.generate(embeds, cache, 6, prompter.stop_ids):
            said.append(int(token))
    own = byte_tokenizer().decode(said)
    marks = exact(model, prompter, pixels, [Turn("x", "What?", own), Turn("x", "What?", "certainly not this")])
    assert marks[1] is False  # whether the first ends right there is up to the stop token
    likely = best_answer(model, prompter, pixels, "What?", ["certainly not this", own])
    one_by_one = [best_answer(model, prompter, pixels, "What?", [answer]) for answer in ("a", "b")]
    assert likely in ("certainly not this", own) and one_by_one == ["a", "b"]
    assert likely == best_answer(model, prompter, pixels, "What?", [own, "certainly not this"])
    assert shares([("a", True), ("a", False), ("b", True), ("b", True)]) == {"exact match": 0.75, "a": 0.5, "b": 1.0}


def test_photographs_are_scored_exactly_and_over_the_closed_set(folder: Path) -> None:
    torch.manual_seed(0)
    model, photos = InstructVLA(TINY).eval(), PhotoSet(folder, "test")
    scores = photo_scores(model, Prompter(byte_tokenizer(), TINY), photos, limit=4)
    assert {"exact match", "closed set", "photo what", "questions"} <= set(scores)
    assert scores["questions"] >= 8 and all(0 <= scores[name] <= 1 for name in scores if name != "questions")
    again = photo_scores(model, Prompter(byte_tokenizer(), TINY), photos, limit=4)
    assert scores == again


PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the labelled photographs in ../shared/photos")
def test_the_labelled_photographs_give_enough_held_out_questions() -> None:
    test = PhotoSet(PHOTOS, "test")
    asked = held_out(test)
    assert len(asked) >= 300 and len([turn for _, turn in asked if turn.kind == "photo what"]) >= 300
    assert {photo.file for photo in test.photos}.isdisjoint(p.file for p in PhotoSet(PHOTOS, "train").photos)
    assert test.image(0).ndim == 3
