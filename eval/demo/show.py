"""--demo: the demo model on MiniBench, dense and compressed, side by side."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.benchmarks import Benchmark
from eval.demo.minibench import WRITERS
from eval.demo.world import TASKS, UNITS
from eval.run import RunConfig, run

MODEL = Path(__file__).parent / "model"
SETTINGS = ("none", "vidcom2@0.25", "vidcom2@0.15")
PER_TASK = 40


def show(benchmark: Benchmark, output: Path, per_task: int = PER_TASK) -> int:
    """Make the benchmark, run every setting, print and write one table; returns how many questions failed."""
    shutil.rmtree(output, ignore_errors=True)
    print(f"making {benchmark.name}'s questions and videos in {output}", file=sys.stderr)
    data = WRITERS[benchmark.name](output / "data", per_task)
    tasks = ",".join(f"mvbench_{task}" for task in TASKS) if benchmark.name == "mvbench" else benchmark.name
    failed, results = 0, {}
    for setting in SETTINGS:
        config = RunConfig(
            model=str(MODEL),
            tasks=tasks,
            compressor=setting,
            output=output / setting,
            data=data,
            sampling=f"uniform:{UNITS}",
            dtype="float32",
            device="cpu",
        )
        config.check()
        failed += run(config, quiet=True)
        results[setting] = json.loads((config.output / "results.json").read_text())
    table = side_by_side(results)
    (output / "table.md").write_text(markdown(benchmark.name, table))
    console = Console()
    console.print(rich_table(f"{benchmark.name}: MiniBench, demo model", table))
    console.print(f"results in {output}", highlight=False)
    return failed


def side_by_side(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text, the header first: accuracy per category and overall, share of dense, tokens, seconds per stage.

    results: results.json by setting; the first is what the others are compared with.
    """
    every = list(results.values())
    dense = every[0]["scores"]["overall"]
    rows: list[tuple[str, ...]] = [("", *results)]
    for category in every[0]["scores"]["categories"]:
        rows.append((category, *(f"{r['scores']['categories'][category]['accuracy']:.1f}" for r in every)))
    rows.append(("overall", *(f"{r['scores']['overall']:.1f}" for r in every)))
    rows.append(("% of dense", *(f"{100 * r['scores']['overall'] / dense:.1f}" for r in every)))
    for when in ("before", "after"):
        label = f"visual tokens {when}"
        rows.append((label, *(f"{r['visual_tokens'][f'{when}_per_sample']:.1f}" for r in every)))
    for stage in every[0]["seconds"]:
        rows.append((f"{stage}, ms", *(f"{1000 * r['seconds'][stage]['mean']:.1f}" for r in every)))
    return rows


def markdown(title: str, rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return f"# {title}\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in lines)


def rich_table(title: str, rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title)
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if i else "left")
    for row in rows[1:]:
        table.add_row(*row, style="bold" if row[0] in ("overall", "% of dense") else None)
    return table
