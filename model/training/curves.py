"""Loss curves as a picture, where matplotlib is installed."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw every number in `metrics` (JSONL of the trainer) over the step, training and held-out side by side."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # a training machine may lack it; the numbers are in the JSONL
        return
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for name in line.keys() - {"step", "kind", "seconds", "lr", "skipped"}:
            curves[name][line["kind"]].append((line["step"], line[name]))
    if not curves:
        return
    figure = Figure(figsize=(4 * len(curves), 3), layout="constrained")
    for place, name in enumerate(sorted(curves), 1):
        axes = figure.add_subplot(1, len(curves), place)
        axes.set_title(name)
        axes.set_xlabel("step")
        for kind, points in sorted(curves[name].items()):
            axes.plot(*zip(*points, strict=True), label=kind, marker="o" if len(points) == 1 else None)
        axes.legend()
    figure.savefig(picture, dpi=100)
