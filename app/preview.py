"""A recorded set as one HTML page: key frames, what is said about each episode, and its actions."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.annotating import FILE
from app.endpoint import data_url
from model.data.episodes import EpisodeDataset, EpisodeRow
from model.data.vla_it import KINDS, AnnotatedEpisode, read_vla_it
from sim.interface import ACTION_DIM

MOST_EPISODES = 40
FRAMES = 5
WIDTH, HEIGHT = 420, 110
NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
COLOURS = ("#c0392b", "#27ae60", "#2980b9", "#8e44ad", "#d35400", "#16a085", "#2c3e50")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ccc; padding: 1rem 0 }
h2 { font-size: 1.05rem } img { width: 160px; margin-right: 4px } svg { margin-top: .5rem }
td { padding: .1rem .8rem .1rem 0; vertical-align: top } .kind { color: #777; white-space: nowrap }
"""


def write_preview(folder: Path, target: Path, episodes: int = MOST_EPISODES) -> Path:
    """Write `target`/index.html about evenly spread episodes of the set in `folder`; returns its path."""
    dataset = EpisodeDataset(folder)
    told = read_vla_it(folder / FILE) if (folder / FILE).exists() else {}
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(episodes, len(dataset))).round().astype(int))
    sections = [_section(dataset, int(index), told.get(dataset.key(int(index)))) for index in chosen]
    legend = " ".join(f'<span style="color:{c}">{n}</span>' for n, c in zip(NAMES, COLOURS, strict=True))
    name = html.escape(folder.name)
    head = f"<h1>{name}</h1><p>{len(dataset)} episodes, {len(chosen)} shown, {len(told)} annotated. "
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
    page += f"<style>{STYLE}</style><body>{head}Actions: {legend}</p>{''.join(sections)}</body></html>\n"
    target.mkdir(parents=True, exist_ok=True)
    (target / "index.html").write_text(page, encoding="utf-8")
    return target / "index.html"


def _section(dataset: EpisodeDataset, index: int, told: AnnotatedEpisode | None) -> str:
    row = dataset[index]
    pictures = ""
    if dataset.has_frames(index):
        steps = np.unique(np.linspace(0, len(row) - 1, FRAMES).round().astype(int))
        pictures = "".join(
            f'<img src="{data_url(dataset.jpeg(index, int(step)))}" alt="step {step}" title="step {step}">'
            for step in steps
        )
    title = f"{index}: {row.instruction} ({row.kind}, seed {row.seed}, {len(row)} steps)"
    lines = [("reply", "", row.reply), ("motion", "", ", then ".join(_changes(row.language_motion)))]
    if told is not None:
        lines += [(a.kind, a.question, a.answer) for kind in KINDS for a in told.of(kind)]
        title += f", {told.split}" if told.split else ""
    return f"<section><h2>{html.escape(title)}</h2>{pictures}{_table(lines)}{action_plot(row)}</section>"


def _table(lines: Iterable[tuple[str, str, str]]) -> str:
    escaped = ([html.escape(text) for text in line] for line in lines)
    rows = (f"<tr><td class=kind>{kind}</td><td>{asked}</td><td>{said}</td></tr>" for kind, asked, said in escaped)
    return f'<table>{"".join(rows)}</table>'


def _changes(motions: list[str]) -> list[str]:
    return [motion for i, motion in enumerate(motions) if i == 0 or motion != motions[i - 1]][:12]


def action_plot(row: EpisodeRow) -> str:
    """The seven action dimensions over the steps as an SVG, each scaled to its own largest value; bursts are shaded."""
    actions: NDArray[np.float32] = row.actions
    across = WIDTH / max(1, len(actions) - 1)
    shades = [
        f'<rect x="{step * across:.1f}" y="0" width="{across:.1f}" height="{HEIGHT}" fill="#f3e6c8"/>'
        for step in np.flatnonzero(row.perturbed)
    ]
    lines = []
    for dimension in range(ACTION_DIM):
        values = actions[:, dimension] / max(1e-6, float(np.abs(actions[:, dimension]).max()))
        points = " ".join(f"{i * across:.1f},{HEIGHT / 2 * (1 - 0.95 * v):.1f}" for i, v in enumerate(values))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[dimension]}"/>')
    title = "<title>actions over control steps</title>"
    return f'<br><svg width="{WIDTH}" height="{HEIGHT}" role="img">{title}{"".join([*shades, *lines])}</svg>'
