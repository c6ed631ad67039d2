"""What the evaluation command shows and keeps: a table, and videos of what went wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from app.recording import encode
from sim.compare import ALL, group_means
from sim.evaluate import EpisodeResult, Report


def failure_videos(folder: Path) -> Callable[[EpisodeResult, list[bytes]], None]:
    """An `on_episode` that keeps an mp4 and the instruction of every episode that failed."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(result: EpisodeResult, frames: list[bytes]) -> None:
        if result.success or not frames:
            return
        name = re.sub(r"\W+", "-", f"{result.task}-{result.seed}").strip("-")
        encode(frames, folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(f"{result.instruction}\n", encoding="utf-8")

    return keep


def print_report(report: Report, rules: str) -> None:
    """The report as a table on standard output; `rules` say when an episode ends."""
    width = max(24, *(len(task.name) + 2 for task in report.tasks))
    head = f"{'task':<{width}}{'success':>10}{'95 % interval':>18}{'steps':>8}{'Hz':>8}"
    print(f"\n{report.model} on {report.suite}, {rules}\n{head}")
    for task in report.tasks:
        interval = f"{task.wilson_low:.0%} - {task.wilson_high:.0%}"
        count = f"{task.successes}/{task.episodes}"
        print(f"{task.name:<{width}}{count:>10}{interval:>18}{task.mean_steps:>8.1f}{task.control_hz:>8.1f}")
    for group, mean in group_means(report).items():
        print(f"{'mean success' + (f', {group}' if group != ALL else ''):<{width}}{mean:>10.1%}")
