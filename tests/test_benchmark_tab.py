"""The Benchmark tab: numbers come from files alone, whatever lies beside the checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from app import scenes
from app.views.benchmark import PUBLISHED, published_tables, tables
from app.vqa import Answer, VqaReport, summarise
from sim.evaluate import EpisodeResult, Report
from sim.evaluate import summarise as add_up
from sim.suite import load_suite


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint's folder with the settings that every checkpoint has."""
    (tmp_path / "generalist").mkdir()
    monkeypatch.setattr(scenes, "CHECKPOINTS", tmp_path)
    (tmp_path / "generalist" / "meta.json").write_text('{"about": "a model"}')
    (tmp_path / "generalist" / "config.json").write_text("[1, 2]")
    return tmp_path / "generalist"


def played(suite: str, model: str, solved: int) -> Report:
    tasks = load_suite(suite)
    results = [
        EpisodeResult(task.name, 1_000_000 + seed, "do it", seed < solved, 30, 6.0)
        for task in tasks.tasks
        for seed in range(10)
    ]
    return add_up(tasks, model, results)


def test_nothing_measured_is_said_in_a_sentence(folder: Path) -> None:
    assert "Nothing has been measured yet" in tables("generalist")


def test_the_numbers_are_those_of_the_file(folder: Path) -> None:
    played("tabletop-basic", "nano (<b>), thinking", 7).save(folder / "evaluation.json")
    shown = tables("generalist")
    assert "7 of 10" in shown and "70% <small>(40%–89%)</small>" in shown and "mean over tasks 70.0%" in shown
    assert "nano (&lt;b&gt;), thinking" in shown and "McNemar" not in shown and "<details>" not in shown
    families = {recording.scene().family for recording in scenes.shipped_examples()}
    assert shown.count("Watch: ") >= len(families & {task.name for task in load_suite("tabletop-basic").tasks})


def test_a_second_run_of_a_suite_is_compared_with_the_first(folder: Path) -> None:
    played("tabletop-instruct", "thinking", 6).save(folder / "instruct-off.json")
    played("tabletop-instruct", "not thinking", 8).save(folder / "instruct-on.json")
    shown = tables("generalist")
    assert "Against thinking: 160 gained and 0 lost of 800 shared episodes" in shown
    assert shown.count("<summary>All 80 tasks</summary>") == 2 and "situated" in shown


def test_questions_are_shown_per_category(folder: Path) -> None:
    answers = [
        Answer(str(at), kind, "what?", ["yes"], said, {"exact": score, "relaxed": score, "anls": score / 2})
        for at, (kind, said, score) in enumerate([("colour", "yes", 1.0), ("colour", "no", 0.0), ("count", "yes", 1.0)])
    ]
    report = summarise("nano (01234567)", "vqa", False, answers)
    (folder / "vqa.json").write_text(json.dumps(asdict(report)))
    assert VqaReport.load(folder / "vqa.json") == report
    shown = tables("generalist")
    assert "67% <small>" in shown and "33% <small>" in shown and "colour" in shown and "commonest answer" in shown


def test_a_model_without_files_shows_the_shipped_ones(folder: Path, tmp_path: Path) -> None:
    played("tabletop-basic", "nano (0)", 1).save(folder / "evaluation.json")
    (tmp_path / "mine").mkdir()
    assert "nano (0)" in tables(str(tmp_path / "mine")) and "nano (0)" in tables("http://127.0.0.1:1")


def test_what_others_published_is_marked_with_its_source() -> None:
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["tables"]
    shown = published_tables()
    assert shown.count('class="tag">published') == len(content) and "measured here" not in shown
    for each in content:
        assert each["source"] and all(len(row) == len(each["columns"]) + 1 for row in each["rows"])
