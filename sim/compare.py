"""Several reports on the same scenes side by side: means, and whether a difference may be luck.

Episodes are paired by task and seed: the scene is the same, and so is the policies' noise. Only pairs that one of two
wins tell them apart, which McNemar's exact test asks about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.evaluate import EpisodeResult, Report, wilson

ALL = "all"


@dataclass(frozen=True)
class Pairing:
    """How a report does against the first one on the episodes that both have."""

    episodes: int
    gained: int
    """Solved here and not by the first."""
    lost: int
    """Solved by the first and not here."""
    p: float
    """Two-sided exact McNemar."""


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of McNemar's test; 1 where no pair differs."""
    from statsmodels.stats.contingency_tables import mcnemar as exact  # brings pandas: seconds, so only when needed

    return float(exact([[0, lost], [gained, 0]], exact=True).pvalue) if gained + lost else 1.0


def pairing(first: Report, other: Report) -> Pairing:
    """Compare two reports. Raises ValueError where they are of different suites or share no episode."""
    if (first.suite, first.success) != (other.suite, other.success):
        raise ValueError(f"{other.model} played {other.suite}, {first.model} {first.suite}: they cannot be compared.")
    before, after = ({(r.task, r.seed): r for r in report.results} for report in (first, other))
    shared = sorted(set(before) & set(after))
    if not shared:
        raise ValueError(f"{first.model} and {other.model} share no episode: play the same seeds.")
    gained = sum(after[key].success and not before[key].success for key in shared)
    lost = sum(before[key].success and not after[key].success for key in shared)
    return Pairing(len(shared), gained, lost, mcnemar(gained, lost))


def group_means(report: Report) -> dict[str, float]:
    """Unweighted mean of the tasks' success rates, per group of tasks and over "all" tasks."""
    groups = list(dict.fromkeys(task.group for task in report.tasks if task.group))
    means = {group: np.mean([task.success_rate for task in report.tasks if task.group == group]) for group in groups}
    return {group: float(mean) for group, mean in means.items()} | {ALL: report.mean_success}


def markdown(reports: Sequence[Report]) -> str:
    """A table of the reports, each compared with the first, and one of their tasks. Raises ValueError as `pairing`."""
    groups = list(group_means(reports[0]))
    lines = [f"{reports[0].suite}, success at the {reports[0].success} step, unweighted mean over tasks.", ""]
    head = ["model", *groups, "episodes solved", "95 % interval", "against the first", "McNemar p"]
    rows = []
    for report in reports:
        solved, low, high = _solved(report.results)
        row = [report.model, *(f"{group_means(report)[group]:.1%}" for group in groups)]
        row += [f"{solved} of {report.episodes}", f"{low:.0%} - {high:.0%}"]
        if report is reports[0]:
            rows.append([*row, "", ""])
        else:
            pair = pairing(reports[0], report)
            rows.append([*row, f"+{pair.gained} / -{pair.lost} of {pair.episodes}", f"{pair.p:.2g}"])
    lines += _table(head, rows)
    tasks = [[task.name, *(_rate(report, task.name) for report in reports)] for task in reports[0].tasks]
    return "\n".join([*lines, "", *_table(["task", *(report.model for report in reports)], tasks), ""])


def plot(reports: Sequence[Report], path: Path) -> None:
    """A PNG of the group means; lines are 95 % Wilson intervals of the episodes behind them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(group_means(reports[0]))
    figure, axes = pyplot.subplots(figsize=(1.8 + 1.6 * len(groups), 3.6), layout="constrained")
    width = 0.8 / len(reports)
    for number, report in enumerate(reports):
        at = np.arange(len(groups)) + (number - (len(reports) - 1) / 2) * width
        means = [group_means(report)[group] for group in groups]
        inside = [{t.name for t in report.tasks if group in (ALL, t.group)} for group in groups]
        bounds = [_solved([r for r in report.results if r.task in names])[1:] for names in inside]
        # The mean over tasks may lie outside the interval of the pooled episodes.
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, bounds, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, bounds, strict=True)]
        axes.bar(at, means, width, label=report.model, yerr=[below, above], capsize=2)
    axes.set(xticks=range(len(groups)), xticklabels=groups, ylim=(0, 1), ylabel="success", title=reports[0].suite)
    axes.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _solved(results: Sequence[EpisodeResult]) -> tuple[int, float, float]:
    """Count and 95 % Wilson interval of the successes."""
    solved = sum(result.success for result in results)
    return (solved, *wilson(solved, len(results)))


def _rate(report: Report, task: str) -> str:
    found = next((t for t in report.tasks if t.name == task), None)
    return f"{found.successes}/{found.episodes}" if found else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
