"""VLA-IT files: the public layout is read, ours survives the disk and is the same layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.data.phrases import Annotation
from model.data.vla_it import AnnotatedEpisode, EpisodeFacts, GrammarAnnotator, read_vla_it, write_vla_it

PUBLIC = {
    "bridge/train-00000.tfrecord": {
        "17": {
            "features": {"move_primitive": ["move left", "stop", "stop"]},
            "alt_instruction": {
                "Caption": "A pot and a spoon beside a sink.",
                "CR": [{"question": "Put the shiny utensil in the round vessel.", "answer": "Moving the spoon."}],
                "CC": [{"question": "Soup is served, help me eat.", "answer": "Bringing a spoon."}] * 2,
                "QA": [{"question": "Is the tap open?", "answer": "No."}],
            },
        },
        "18": {"features": {"move_primitive": ["stop"]}},
    },
    "fractal/0": {"3": {"features": {}, "alt_instruction": {"CR": [{"question": "Fetch soda.", "answer": "Can."}]}}},
}
"""Made by hand after the published keys; episode 18 has no instruction."""


def test_a_file_in_the_public_layout_is_read(tmp_path: Path) -> None:
    (tmp_path / "bridge.json").write_text(json.dumps(PUBLIC))
    episodes = read_vla_it(tmp_path / "bridge.json")
    assert set(episodes) == {("bridge/train-00000.tfrecord", "17"), ("fractal/0", "3")}
    first = episodes["bridge/train-00000.tfrecord", "17"]
    assert first.move_primitive == ("move left", "stop", "stop") and first.split is None and not first.objects
    assert [a.answer for a in first.of("Caption")] == ["A pot and a spoon beside a sink."]
    assert [len(first.of(kind)) for kind in ("CR", "CC", "QA")] == [1, 2, 1]
    assert first.of("CR")[0].question.startswith("Put the shiny")
    assert not episodes["fractal/0", "3"].of("Caption")


def test_what_is_written_is_read_and_has_the_public_keys(tmp_path: Path) -> None:
    scene = {"seed": 4, "goal": {"kind": "pick", "source": "lemon", "target": None}, "objects": {"lemon": [0.4, 0.5]}}
    told = GrammarAnnotator().annotate(EpisodeFacts(scene, "pick up the lemon", "train"))
    episode = AnnotatedEpisode(tuple(told), ("move down", "stop"), "train", scene["objects"])
    write_vla_it(tmp_path / "annotations.json", {("episodes-00000.parquet", "0"): episode})
    stored = json.loads((tmp_path / "annotations.json").read_text())["episodes-00000.parquet"]["0"]
    assert isinstance(stored["alt_instruction"]["Caption"], str)
    for kind in ("CR", "CC", "QA"):
        pairs = stored["alt_instruction"][kind]
        assert 1 <= len(pairs) <= 3 and all(set(pair) == {"question", "answer"} for pair in pairs)
    back = read_vla_it(tmp_path / "annotations.json")["episodes-00000.parquet", "0"]
    plain = {(a.kind, a.question if a.kind != "Caption" else "", a.answer) for a in told}
    assert {(a.kind, a.question, a.answer) for a in back.annotations} == plain
    assert (back.move_primitive, back.split, back.objects) == (("move down", "stop"), "train", {"lemon": [0.4, 0.5]})


def test_the_grammar_annotates_an_episode_the_same_way_each_time() -> None:
    scene = {"seed": 4, "goal": {"kind": "open", "source": None, "target": "top"}, "objects": {"lemon": [0.4, 0.5]}}
    facts = EpisodeFacts(scene, "open the top drawer", "test")
    told = GrammarAnnotator(per_kind=2).annotate(facts)
    assert told == GrammarAnnotator(per_kind=2).annotate(facts)
    assert [a.kind for a in told] == ["Caption", "QA", "QA", "CR", "CR", "CC", "CC"]


def test_trouble_is_one_line_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"a\.json cannot be read"):
        read_vla_it(path)
    path.write_text(json.dumps({"file": {"7": {"alt_instruction": {"CR": [{"question": "no answer"}]}}}}))
    with pytest.raises(ValueError, match="episode 7 of file"):
        read_vla_it(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not in the VLA-IT layout"):
        read_vla_it(path)


def test_a_caption_of_an_endpoint_needs_no_question(tmp_path: Path) -> None:
    episode = AnnotatedEpisode((Annotation("Caption", "Describe it.", "A cup."),))
    write_vla_it(tmp_path / "a.json", {("f", "0"): episode})
    assert read_vla_it(tmp_path / "a.json")["f", "0"].annotations == (Annotation("Caption", "", "A cup."),)
