"""Benchmark tab: what was measured, read from the files of `app.py evaluate --json`, beside published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from app import scenes
from app.pilots import Pilot
from app.views.widgets import HIDDEN
from app.vqa import ALL, VqaReport
from model.config import GENERALIST
from sim.compare import group_means, pairing
from sim.evaluate import Report
from sim.twins import Scene

PUBLISHED = scenes.ASSETS / "published.yaml"
PROPER = ' translate="no"'
MANY = 12
"""So many tasks fill a table that is shown at once; more stand behind a heading to be opened, below their groups."""
RULES = {
    "first": "An episode is solved at the first step at which the task's rule holds.",
    "last": "An episode is solved if the task's rule holds at the last step.",
}


def build(tab: gr.Tab, pilot: Pilot) -> None:
    """Lay out the tab. Its tables are read when it is opened, so that files written meanwhile are in them."""
    measured = gr.HTML(elem_id="measured", padding=False)
    published = gr.HTML(elem_id="published", padding=False)
    tab.select(lambda: (tables(pilot.name), published_tables()), None, [measured, published], **HIDDEN)


def reports_of(model: str) -> list[tuple[Path, Report | VqaReport]]:
    """Evaluations beside a model's checkpoint, `evaluation.json` first; where it has none, the shipped generalist's."""
    found: list[tuple[Path, Report | VqaReport]] = []
    files = scenes.checkpoint_folder(model).glob("*.json")
    for path in sorted(files, key=lambda path: (path.stem != "evaluation", path.stem)):
        for kind in (Report, VqaReport):
            try:
                found.append((path, kind.load(path)))
                break
            except ValueError:
                pass  # a checkpoint's own settings, or the other kind
    return found if found or model == GENERALIST else reports_of(GENERALIST)


def tables(model: str) -> str:
    """All measured tables, as HTML."""
    reports = reports_of(model)
    if not reports:
        return '<p class="note">Nothing has been measured yet for this model.</p>'
    firsts: dict[str, Report] = {}
    sections = []
    for path, report in reports:
        if isinstance(report, VqaReport):
            sections.append(_questions(path, report))
        else:
            sections.append(_episodes(path, report, firsts.setdefault(report.suite, report)))
    return "".join(sections)


def _episodes(path: Path, report: Report, first: Report) -> str:
    """One suite that was played."""
    solved = sum(task.successes for task in report.tasks)
    notes = [
        f"{solved} of {report.episodes} episodes solved; mean over tasks {report.mean_success:.1%}.",
        RULES.get(report.success, ""),
    ]
    if report is not first:
        try:
            pair = pairing(first, report)
            notes.append(
                f"Against {first.model}: {pair.gained} gained and {pair.lost} lost of {pair.episodes} shared episodes, "
                f"exact McNemar p = {pair.p:.2g}."
            )
        except ValueError:
            pass  # nothing in common
    head = ["task", "solved", "95 % interval", "mean steps", "video"]
    rows = [
        [
            scenes.LABELS.get(task.name, task.name),
            f"{task.successes} of {task.episodes}",
            interval(task.success_rate, task.wilson_low, task.wilson_high),
            f"{task.mean_steps:.0f}",
            videos(task.name),
        ]
        for task in report.tasks
    ]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    shown = table(head, rows, f"{report.suite}, {report.model}")
    if len(rows) > MANY:
        means = [[name, f"{mean:.1%}"] for name, mean in group_means(report).items()]
        groups = table(["group", "mean success"], means, f"{report.suite}, groups")
        shown = f"{groups}<details><summary>All {len(rows)} tasks</summary>{shown}</details>"
    return section(report.suite, report.model, path.name, notes, shown)


def _questions(path: Path, report: VqaReport) -> str:
    """One set of questions that was asked."""
    names = {"exact": "exact match", "relaxed": "within 5 %", "anls": "ANLS"}
    head = ["category", "questions", *(names.get(name, name) for name in report.overall.scores), "commonest answer"]
    rows = [
        [
            row.name if row.name != ALL else "all questions",
            f"{row.questions}",
            *(interval(score.mean, score.low, score.high) for score in row.scores.values()),
            f"{row.most_frequent:.0%}",
        ]
        for row in [report.overall, *report.categories]
    ]
    notes = ["Lines are 95 % intervals. The last column is what always giving the commonest answer would score."]
    return section(report.suite, report.model, path.name, notes, table(head, rows, f"{report.suite}, {report.model}"))


def section(title: str, model: str, file: str, notes: Iterable[str], shown: str) -> str:
    """A heading, who and what file, remarks, and the table."""
    remarks = "".join(f"<span>{escape(note)}</span> " for note in notes if note)
    return (
        f'<section class="bench"><h2><span translate="no">{escape(title)}</span> '
        '<span class="tag own">measured here</span></h2>'
        f'<p class="note"><b translate="no">{escape(model)}</b> <code>{escape(file)}</code></p>'
        f'<p class="note">{remarks}</p>{shown}</section>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], label: str, names: str = "") -> str:
    """A table that scrolls by itself where it is too wide; cells beyond the first column may hold HTML of ours.

    `names` says what consists of proper names, which stay in every language: "rows", or "rows and columns".
    """
    column, row = PROPER if "columns" in names else "", PROPER if names else ""
    top = "".join(f"<th scope=col{column if at else ''}>{escape(name)}</th>" for at, name in enumerate(head))
    body = "".join(
        f"<tr><th scope=row{row}>{escape(first)}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def interval(mean: float, low: float, high: float) -> str:
    """A share with its interval, in words and as a line."""
    return (
        f'<span class="share">{mean:.0%} <small>({low:.0%}\u2013{high:.0%})</small></span>'
        f'<span class="line" aria-hidden="true" style="--mean:{mean:.3f};--low:{low:.3f};--high:{high:.3f}"></span>'
    )


def videos(family: str) -> str:
    """Links to the shipped recordings of a family."""
    return " ".join(
        f'<a href="?run={run}" aria-label="Watch: {escape(scene.text)}">\u25b6</a>'
        for run, scene in _shipped()
        if scene.family == family
    )


@cache
def _shipped() -> list[tuple[str, Scene]]:
    """Every shipped recording's id and scene."""
    return [(recording.id, recording.scene()) for recording in scenes.shipped_examples()]


def published_tables() -> str:
    """What others published, marked as such."""
    content: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return "".join(
        f'<section class="bench"><h2>{escape(each["title"])} '
        f'<span class="tag">published</span></h2>'
        f'<p class="note">Source: <cite>{escape(each["source"])}</cite>. <span>{escape(each["note"])}</span></p>'
        + table(
            ["model", *each["columns"]],
            [[str(cell) for cell in row] for row in each["rows"]],
            each["title"],
            names="rows and columns" if each.get("proper") else "rows",
        )
        + "</section>"
        for each in content["tables"]
    )
