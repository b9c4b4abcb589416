"""Compare all methods on the demo model and MiniBench at equal token budgets: write the page and figures in docs/.

    python -m eval.demo.training.methods

It sweeps 103 specs. An interrupted sweep continues where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ...benchmarks.mvbench import MVBENCH
from ...reports.figures import Point, accuracy_retention, point
from ...results.files import write_whole
from ...results.load import Run, load_run
from ...results.stats import paired_interval
from ...results.tables import markdown_table
from ...run.distributed import Place
from ...run.sweep import Sweep, canonical
from ..minibench import write_mvbench
from ..run import PER_TASK, config
from ..world import TASKS

RETENTIONS = (0.5, 0.25, 0.15)
"""The retention ratios to compare."""
METHODS = {
    "vidcom2": ":rounding=exact",
    "random": "",
    "uniform": "",
    "dycoke": "",
    "visionzip": "",
    "fastvid": "",
    "holitom": "",
    "fastv": ":k=1",
    "pdrop": ":layers=(1,2,4)",
    "sparsevlm": "",
}
"""Settings by method. Without them a method cannot reach 15 % in the model's 8 layers, or misses the exact budget."""
ADJUSTABLE = ("random", "uniform", "dycoke", "visionzip", "fastv", "pdrop", "sparsevlm")
"""The methods that can take VidCom²'s frame budgets ("+fca")."""
POSITIONS = ("original", "repack")
"""Whether kept tokens keep their position ids or are numbered anew."""


def name_of(method: str, fca: bool) -> str:
    """A method's name, with "+fca" if it takes VidCom²'s frame budgets."""
    return f"{method}+fca" if fca else method


def spec(method: str, retention: float, positions: str, fca: bool = False) -> str:
    """The spec of a method in the comparison."""
    return canonical(f"{name_of(method, fca)}@{retention}{METHODS[method]}:positions={positions}")


def specs() -> list[str]:
    """All specs of the comparison, dense first."""
    every = [
        spec(method, retention, positions, fca)
        for retention in RETENTIONS
        for positions in POSITIONS
        for method in METHODS
        for fca in (False, True)
        if method in ADJUSTABLE or not fca
    ]
    return ["none", *every]


def report(runs: dict[str, Run], docs: Path) -> None:
    """Write demo-methods.md and its figures.

    Args:
        runs: The finished runs by spec.
        docs: The directory to write into.
    """
    dense = runs["none"]
    figures = docs / "figures"
    drawn = {
        "demo-original": ("kept tokens at their original positions", "original", METHODS, False),
        "demo-repack": ("kept tokens numbered anew", "repack", METHODS, False),
        "demo-fca": ("with VidCom²'s frame budgets, original positions", "original", ("vidcom2", *ADJUSTABLE), True),
    }
    for name, (title, positions, methods, fca) in drawn.items():
        curves: dict[str, list[Point]] = {}
        for method in methods:
            adjusted = fca and method in ADJUSTABLE
            points = [point(runs[spec(method, r, positions, adjusted)]) for r in RETENTIONS]
            curves[name_of(method, adjusted)] = points
        accuracy_retention(curves, point(dense), figures / name, f"MiniBench, demo model: {title}")

    best = {p: max(point(runs[spec(m, 0.5, p)]).accuracy for m in METHODS) for p in POSITIONS}
    text = [HEAD.format(dense=cell(dense), questions=len(dense.samples), **best)]
    for positions in POSITIONS:
        text.append(f"## {TITLES[positions]}\n")
        text.append(table(runs, positions))
        text.append(f"![accuracy over retention](figures/demo-{positions}.png)\n")
    text.append(FCA)
    text.append(differences(runs))
    text.append("![accuracy over retention, with +fca](figures/demo-fca.png)\n")
    text.append("## Per task, at 25 %, original positions\n")
    text.append(per_task(runs))
    write_whole(docs / "demo-methods.md", "\n".join(text))


HEAD = """# All methods on the demo model

`python -m eval.demo.training.methods` makes this page, with {questions} questions of MiniBench in MVBench's schema and
the demo model of `eval/demo/model`, in float32 on a CPU. Each cell has the accuracy in percent, its 95 % bootstrap
interval, and the actual retention ratio: the share of visual tokens that the LLM saw, separators included, as the mean
over its layers.

Dense: {dense}.

Positions decide. With half of the tokens, the best method has {original:.1f} % if the kept tokens keep their position
ids, and {repack:.1f} % if they are numbered anew.

What this can tell: whether a method, as implemented here, keeps the tokens that these questions need, at budgets that
are equal to the token. What this cannot tell: how the methods compare on a 7 B model. The demo model has 3.7 MB, sees
16 frames of 16 tokens, and was trained only on this world and always with all tokens in their places. A large model has
seen videos of many lengths, and missing tokens disturb it less. The order of the methods may be different there.

Three settings differ from the methods' defaults. FastV prunes after the first of the LLM's 8 layers (`k=1`) and PDrop
at layers 1, 2 and 4, because with their own settings they cannot go down to 15 %. VidCom² distributes its tokens
exactly (`rounding=exact`), because a frame has only 16 tokens, and rounding every frame's budget up would keep a
quarter more than asked for. With +fca, FastV, PDrop and SparseVLM keep at least one token of every frame in every
layer, which at 15 % is more than asked for.
"""
TITLES = {
    "original": "Kept tokens at their original positions",
    "repack": "Kept tokens numbered anew, as released for LLaVA, and in PDrop and SparseVLM",
}
FCA = """## VidCom²'s frame budgets in other methods (+fca)

The difference that +fca makes to each method, in percentage points, with its paired 95 % interval. Kept tokens keep
their position ids.
"""


def cell(run: Run) -> str:
    """Accuracy with its interval, and the retention ratio."""
    p = point(run)
    return f"{p.accuracy:.1f} [{p.low:.1f}, {p.high:.1f}] at {100 * p.retention:.1f} %"


def table(runs: dict[str, Run], positions: str) -> str:
    """The table of all methods and retention ratios."""
    rows = [("method", *(f"{100 * r:.0f} %" for r in RETENTIONS))]
    for method in METHODS:
        for fca in (False, True) if method in ADJUSTABLE else (False,):
            cells = [cell(runs[spec(method, retention, positions, fca)]) for retention in RETENTIONS]
            rows.append((name_of(method, fca), *cells))
    return markdown_table(rows)


def differences(runs: dict[str, Run]) -> str:
    """The table of what VidCom²'s frame budgets change in other methods."""
    rows = [("method", *(f"{100 * r:.0f} %" for r in RETENTIONS))]
    for method in ADJUSTABLE:
        cells = []
        for r in RETENTIONS:
            plain, adjusted = (runs[spec(method, r, "original", fca)] for fca in (False, True))
            difference, low, high = paired_interval(plain.scores, adjusted.scores, plain.categories, plain.overall)
            cells.append(f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]")
        rows.append((method, *cells))
    return markdown_table(rows)


def per_task(runs: dict[str, Run]) -> str:
    """The table of all methods and tasks at 25 %."""
    columns = {"dense": runs["none"]} | {m: runs[spec(m, 0.25, "original")] for m in METHODS}
    rows = [("", *columns)]
    for task in TASKS:
        accuracies = [run.summary.scores.categories[task].accuracy for run in columns.values()]
        rows.append((task, *(f"{accuracy:.0f}" for accuracy in accuracies)))
    return markdown_table(rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo/methods"), help="directory for the runs")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="directory for table and figures")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="questions per task")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="number of processes that share the questions"
    )
    arguments = parser.parse_args()
    data = arguments.output / "data"
    print(f"making the questions and videos in {data}", file=sys.stderr)
    write_mvbench(data, arguments.per_task)
    sweep = Sweep(config(MVBENCH, data, arguments.output), specs())
    sweep.check()
    sweep.run(Place((("cpu",),) * arguments.processes))
    report({run.compressor: load_run(run.output) for run in sweep.runs}, arguments.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
