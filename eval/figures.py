"""Figures of finished runs, and of the demo model's training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

from eval.demo.world import TASKS
from eval.runs import Run
from eval.stats import accuracy, bootstrap_interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colour-blind safe (Okabe and Ito, Color Universal Design, 2008), without black and the yellow that white swallows."""
MARKERS = "osD^vP*X<>ph"
LINES = ("-", ":")
"""The colours come twice, with another line; dashes are the dense model's."""


@dataclass(frozen=True)
class Point:
    """retention: actual share of visual tokens, in (0, 1]. accuracy, and its interval low to high: in percent."""

    retention: float
    accuracy: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.retention <= 1:
            raise ValueError(f"retention={self.retention} must be a share in (0, 1]: 0.25 for 25 %")
        rounding = 1e-9
        if not self.low - rounding <= self.accuracy <= self.high + rounding:
            raise ValueError(f"accuracy={self.accuracy} is not between low={self.low} and high={self.high}")


def point(run: Run) -> Point:
    """A run's actual retention and overall accuracy with its 95 % bootstrap interval."""
    retention = run.summary["visual_tokens"]["retention"]
    if retention is None:
        raise ValueError(f"{run.directory}: no video could be read, so there is no retention to draw")
    low, high = bootstrap_interval(run.scores, run.categories, run.overall)
    return Point(retention, accuracy(run.scores, run.categories, run.overall), low, high)


def accuracy_retention(
    curves: Mapping[str, Sequence[Point]], dense: Point, path: Path, title: str, ylabel: str = "accuracy, %"
) -> tuple[Path, Path]:
    """Draw accuracy over actual retention, one line per method, dense as a dashed line; returns the files, png and pdf.

    curves: points by method, in any order. dense: the uncompressed model; its retention is not drawn. path: of the
    files, without ending. The same input gives the same bytes. Raises ValueError for no or more than 12 methods, and
    for one without points.
    """
    if not 0 < len(curves) <= len(MARKERS):
        raise ValueError(f"{len(curves)} methods in a figure that can tell 1 to {len(MARKERS)} apart")
    if empty := [method for method, points in curves.items() if not points]:
        raise ValueError(f"{', '.join(empty)}: no points to draw")
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(dense.low, dense.high, color="black", alpha=0.08, linewidth=0)
    axes.axhline(dense.accuracy, color="black", linestyle="--", linewidth=1.2, label="dense")
    for i, (method, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point.retention)
        axes.errorbar(
            [100 * p.retention for p in ordered],
            [p.accuracy for p in ordered],
            # Not negative: low and accuracy can differ by rounding where there is no spread.
            yerr=[[max(0.0, p.accuracy - p.low) for p in ordered], [max(0.0, p.high - p.accuracy) for p in ordered]],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i],
            linestyle=LINES[i // len(COLOURS)],
            markersize=6,
            linewidth=1.5,
            elinewidth=0.8,
            capsize=2.5,
            label=method,
        )
    axes.set(title=title, xlabel="visual tokens that the LLM saw, % of dense", ylabel=ylabel)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return save(figure, path)


def training_curve(reports: Path, path: Path) -> tuple[Path, Path]:
    """Draw what a demo training has learned, and when; returns the files, png and pdf.

    reports: its curve.jsonl. Drawn are the accuracies on held-out scenes over the steps: every task in words, and
    overall in words and in letters. Grey lines part the lessons.
    """
    entries = [json.loads(line) for line in reports.read_text().splitlines()]
    examined = [entry for entry in entries if "word" in entry]
    if not examined:
        raise ValueError(f"{reports} has no accuracies yet: they are reported after the lesson in vision")
    steps = [entry["step"] for entry in examined]
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for i, task in enumerate(name for name in examined[0]["word"] if name in TASKS):
        values = [100 * entry["word"][task] for entry in examined]
        style = LINES[i // len(COLOURS)]
        axes.plot(steps, values, color=COLOURS[i % len(COLOURS)], linestyle=style, linewidth=0.9, label=task)
    for kind, name in (("word", "all tasks, in words"), ("choice", "all tasks, in letters")):
        values = [100 * entry[kind]["overall"] for entry in examined]
        axes.plot(steps, values, color="black", linestyle="--" if kind == "word" else "-", linewidth=2, label=name)
    for entry, following in pairwise(examined):
        if entry["lesson"] != following["lesson"]:
            axes.axvline(entry["step"], color="grey", linewidth=0.6)
    axes.axhline(25, color="grey", linestyle=":", linewidth=0.8, label="chance")
    axes.set(title="demo model, held-out scenes", xlabel="steps after the vision lesson", ylabel="accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return save(figure, path)


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """path: without ending. The same figure gives the same bytes."""
    png, pdf = (path.with_name(path.name + ending) for ending in (".png", ".pdf"))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)
    figure.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf
