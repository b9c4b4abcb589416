"""The figure of a demo training."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

from ...reports.figures import COLOURS, LINES, Files, save
from ..world import TASKS


def training_curve(reports: Path, path: Path) -> Files:
    """Draw the accuracies on held-out scenes over the steps of a training.

    A line each shows every task in words, and all tasks in words and in letters. Grey lines part the lessons.

    Args:
        reports: The training's curve.jsonl.
        path: Path of the files, without ending.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no accuracies yet.
    """
    entries = [json.loads(line) for line in reports.read_text(encoding="utf-8").splitlines()]
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
