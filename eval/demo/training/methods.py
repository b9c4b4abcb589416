"""Compare all methods on the demo models and MiniBench at equal retention ratios: write the page and figures in docs/.

    python -m eval.demo.training.methods

An interrupted sweep continues where it stopped. The page has a part for each model whose sweep is finished.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidcom2 import compressor

from ...benchmarks.mvbench import MVBENCH
from ...models.packaged import DEMO_MODELS
from ...reports.figures import Point, accuracy_retention
from ...results.files import write_whole
from ...results.load import Run, load_run
from ...results.stats import paired_interval
from ...results.tables import markdown_table
from ...run.distributed import World
from ...run.flags import status
from ...run.sweep import Sweep
from ..minibench import write_mvbench
from ..run import PER_TASK, config
from ..world import TASKS
from .comparison import (
    ADJUSTABLE,
    DRAWN,
    METHODS,
    POSITIONS,
    RETENTIONS,
    Comparison,
    layers_of,
    lines,
    name_of,
    specs,
    why_not,
)
from .order import RESAMPLES, section
from .own import section as own_section

PER_TASK_AT = 0.25
"""The retention ratio of the tables per task."""

HEAD = """# All methods on the demo models

`python -m eval.demo.training.methods` makes this page, with {questions} questions of MiniBench in MVBench's schema, in
{dtype} on a CPU. Each cell has the accuracy in percent, its 95 % bootstrap interval, and the actual retention ratio:
the share of visual tokens that the LLM saw, separators included, as the mean over its layers. "cannot" is a ratio that
a method cannot reach in this LLM; the reason is below the table.

What this can tell: whether a method, as implemented here, keeps the tokens that these questions need. What this cannot
tell: how the methods compare on a 7 B model. A demo model is small and was trained on MiniBench's world only. With
another model, the order of the methods may be different. [The demo](demo.md#results) says what the tasks need, and why
VidCom² is no better than random tokens at `action_localization`.

All methods have their default settings, except those that a part names. VidCom² rounds the budget of every frame up, so
it may keep up to one token per frame more than asked for. With +fca, methods inside the LLM keep at least one token of
every frame in every layer, which may be more than asked for.

The papers of VisionZip, FastVID, HoliTom, FlashVID and AOT rank by attention inside the vision tower, which a method
that sees features does not have. |x| stands in for it, as in the adoptions by the authors of VidCom². The control
`norm` ranks by |x| alone, and is among the worst here. So these methods' numbers are also those of the stand-in.
"""
PART = """## {model}

Dense: {dense}.

The highest accuracy of a method with {most:.0f} % of the tokens is {original:.1f} % if the kept tokens keep their
position ids, and {repack:.1f} % if they are numbered anew.
"""
TITLES = {
    "original": "Kept tokens at their original positions",
    "repack": "Kept tokens numbered anew, as released for LLaVA, and in PDrop and SparseVLM",
}
FCA = """### VidCom²'s frame budgets in other methods (+fca)

The difference that +fca makes to each method, in percentage points, with its paired 95 % interval. Kept tokens keep
their position ids.
"""


def report(comparisons: Sequence[Comparison], docs: Path, resamples: int = RESAMPLES) -> None:
    """Write demo-methods.md and its figures.

    Args:
        comparisons: The finished runs of each model.
        docs: The directory to write into.
        resamples: Number of resamples for the intervals of rank correlations.
    """
    dense = comparisons[0].dense
    text = [HEAD.format(questions=len(dense.samples), dtype=dense.summary.run.dtype)]
    for comparison in comparisons:
        draw(comparison, docs / "figures")
        text.append(part(comparison))
        text.append(own_section(comparison))
        text.append(section(comparison, resamples))
    write_whole(docs / "demo-methods.md", "\n".join(text))


def draw(comparison: Comparison, figures: Path) -> None:
    """Draw a model's figures: accuracy over retention, for each kind of positions, and with +fca."""
    drawn = {
        "original": ("kept tokens at their original positions", "original", DRAWN, False),
        "repack": ("kept tokens numbered anew", "repack", DRAWN, False),
        "fca": ("with VidCom²'s frame budgets, original positions", "original", ("vidcom2", *ADJUSTABLE[:10]), True),
    }
    for name, (title, positions, methods, fca) in drawn.items():
        curves: dict[str, list[Point]] = {}
        for method in methods:
            adjusted = fca and method in ADJUSTABLE
            points = [comparison.point(method, r, positions, adjusted) for r in RETENTIONS]
            curves[name_of(method, adjusted)] = [point for point in points if point]
        path = figures / f"demo-{comparison.model}-{name}"
        accuracy_retention(curves, comparison.points["none"], path, f"MiniBench, {comparison.model}: {title}")


def part(comparison: Comparison) -> str:
    """The tables of one model, but not the section about the order."""
    most = max(RETENTIONS)
    best = {
        positions: max(point.accuracy for m in METHODS if (point := comparison.point(m, most, positions)))
        for positions in POSITIONS
    }
    text = [PART.format(model=comparison.model, dense=cell(comparison.points["none"]), most=100 * most, **best)]
    text.append(other_settings(comparison.layers))
    for positions in POSITIONS:
        text.append(f"### {TITLES[positions]}\n")
        text.append(table(comparison, positions))
        text.append(impossible(comparison))
        text.append(f"![accuracy over retention](figures/demo-{comparison.model}-{positions}.png)\n")
    text.append(FCA)
    text.append(differences(comparison))
    text.append(f"![accuracy over retention, with +fca](figures/demo-{comparison.model}-fca.png)\n")
    for positions, words in POSITIONS.items():
        text.append(f"### Per task, at {100 * PER_TASK_AT:.0f} %, {words}\n")
        text.append(per_task(comparison, positions))
    return "\n".join(text)


def other_settings(layers: int) -> str:
    """Say which methods do not have their default settings, and what those reach in an LLM of so many layers."""
    text = []
    for method, settings in METHODS.items():
        if settings:
            reached = [f"{100 * r:.0f} %" for r in RETENTIONS if not why_not(compressor(f"{method}@{r}"), layers)]
            limits = f"reach {', '.join(reached)}" if reached else "reach none of the ratios"
            text.append(f"- `{method}{settings}`: the default settings {limits} in this LLM of {layers} layers.\n")
    return "".join(text)


def cell(point: Point | None) -> str:
    """Accuracy with its interval, and the retention ratio."""
    if point is None:
        return "cannot"
    return f"{point.accuracy:.1f} [{point.low:.1f}, {point.high:.1f}] at {100 * point.retention:.1f} %"


def table(comparison: Comparison, positions: str) -> str:
    """The table of all methods and retention ratios."""
    rows = [("method", *(f"{100 * r:.0f} %" for r in RETENTIONS))]
    for method, fca in lines():
        cells = [cell(comparison.point(method, retention, positions, fca)) for retention in RETENTIONS]
        rows.append((name_of(method, fca), *cells))
    return markdown_table(rows)


def impossible(comparison: Comparison) -> str:
    """The reasons of the table's "cannot", each once. They are the same for both kinds of positions and with +fca."""
    return "".join(f"- {reason}.\n" for reason in dict.fromkeys(comparison.cannot.values()))


def differences(comparison: Comparison) -> str:
    """The table of what VidCom²'s frame budgets change in other methods."""
    rows = [("method", *(f"{100 * r:.0f} %" for r in RETENTIONS))]
    for method in ADJUSTABLE:
        cells = []
        for r in RETENTIONS:
            plain, adjusted = (comparison.run(method, r, "original", fca) for fca in (False, True))
            if plain is None or adjusted is None:
                cells.append("cannot")
                continue
            difference, low, high = paired_interval(plain.scores, adjusted.scores, plain.categories, plain.overall)
            cells.append(f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]")
        rows.append((method, *cells))
    return markdown_table(rows)


def per_task(comparison: Comparison, positions: str) -> str:
    """The table of all methods and tasks at PER_TASK_AT: accuracies in percent, and the number of questions."""
    columns = {m: comparison.run(m, PER_TASK_AT, positions) for m in METHODS}
    runs: Mapping[str, Run | None] = {"dense": comparison.dense, **columns}
    rows = [("", "questions", *runs)]
    for task in TASKS:
        cells = [f"{run.summary.scores.categories[task].accuracy:.0f}" if run else "cannot" for run in runs.values()]
        rows.append((task, str(comparison.dense.summary.scores.categories[task].samples), *cells))
    return markdown_table(rows)


def sweep_of(name: str, data: Path, output: Path) -> Sweep:
    """The sweep of a demo model: all specs that its layers allow.

    Args:
        name: A key of DEMO_MODELS.
        data: The directory with the questions.
        output: The directory of the runs of all models.
    """
    model = DEMO_MODELS[name]
    layers = layers_of(model)
    possible = [one for one in map(compressor, specs()) if not why_not(one, layers)]
    return Sweep(replace(config(MVBENCH, data, output / name), model=str(model)), possible)


def finished(name: str, data: Path, output: Path) -> Comparison | None:
    """Return the runs of a model's sweep, see `sweep_of`. None if one is missing.

    Raises:
        ValueError: They were made with other settings or questions.
    """
    sweep = sweep_of(name, data, output)
    if sweep.missing:
        return None
    sweep.check()
    runs = {run.compressor.spec: load_run(run.output) for run in sweep.runs}
    return Comparison(name, layers_of(DEMO_MODELS[name]), runs)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=DEMO_MODELS, help="evaluate only this model (default: all, one by one)")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo/methods"), help="directory for the runs")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="directory for page and figures")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="questions per task")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="number of processes that share the questions"
    )
    arguments = parser.parse_args(argv)
    data = arguments.output / "data"
    print(f"making the questions and videos in {data}", file=sys.stderr)
    write_mvbench(data, arguments.per_task)
    for name in [arguments.model] if arguments.model else DEMO_MODELS:
        sweep = sweep_of(name, data, arguments.output)
        sweep.check()
        if failed := sweep.run(World((("cpu",),) * arguments.processes)):
            message = (
                f"{failed} questions of {name} failed, so no page is written: mend what is listed above, remove "
                f"{arguments.output / name}, and run this again"
            )
            print(message, file=sys.stderr)
            return status(failed)
    done = [finished(name, data, arguments.output) for name in DEMO_MODELS]
    report([comparison for comparison in done if comparison], arguments.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
