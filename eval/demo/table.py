"""The demo's tables: first what a newcomer needs, then every task."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from ..reports.figures import point
from ..results.load import Run
from ..results.schema import Summary
from ..results.side_by_side import side_by_side
from ..results.tables import NARROW, Rows, markdown_table, print_table
from ..results.terminal import PROGRAM

LLM = ("prefill", "generate")
"""The stages that the LLM takes."""
NOTE = (
    "The model is small, and we trained it on this generated world only: it shows how the methods work, not how good "
    "they are on real videos. Chance is 25 %. The paper reports that LLaVA-OneVision-7B keeps 99.6 % of its accuracy "
    "with VidCom² at 25 % of the tokens, and 95.1 % at 15 % (arXiv 2505.14454, table 2); that is not measured here."
)


def named(spec: str) -> str:
    """What a setting is called."""
    return "dense" if spec == "none" else spec


def summary_rows(runs: Mapping[str, Run]) -> Rows:
    """A row per setting: accuracy with its 95 % interval, percent of dense, visual tokens that the LLM saw, and its
    time.

    Args:
        runs: By spec, dense first.
    """
    dense = next(iter(runs.values())).summary
    rows: Rows = [("", "accuracy, %", "% of dense", "tokens", "LLM time")]
    for spec, run in runs.items():
        result, at = run.summary, point(run)
        share = f"{100 * at.accuracy / dense.scores.overall:.1f}" if dense.scores.overall else "-"
        milliseconds = f"{1000 * llm_seconds(result):.0f} ms ({100 * llm_seconds(result) / llm_seconds(dense):.0f} %)"
        accuracy = f"{at.accuracy:.1f} [{at.low:.1f}, {at.high:.1f}]"
        rows.append((named(spec), accuracy, share, f"{result.visual_tokens.after_per_sample:.0f}", milliseconds))
    return rows


def llm_seconds(result: Summary) -> float:
    """Mean seconds of a question in the LLM."""
    return sum(result.seconds[stage].mean for stage in LLM)


def task_rows(results: Mapping[str, Summary]) -> Rows:
    """A row per task: its accuracy under every setting."""
    rows = side_by_side(results)
    tasks = next(iter(results.values())).scores.categories
    return [rows[0], *(row for row in rows if row[0] in tasks)]


def demo_markdown(title: str, runs: Mapping[str, Run]) -> str:
    """Write the demo's table.md."""
    every = side_by_side({spec: run.summary for spec, run in runs.items()})
    return f"# {title}\n\n{markdown_table(summary_rows(runs))}\n{NOTE}\n\n{markdown_table(every)}"


def print_demo(console: Console, title: str, runs: Mapping[str, Run], output: Path, benchmark: str) -> None:
    """Print the tables, what they mean, and what to run next.

    Args:
        console: Where to print.
        title: Names questions and model.
        runs: By spec, dense first.
        output: The demo's directory.
        benchmark: The benchmark whose schema the questions have.
    """
    print_table(console, summary_rows(runs), title)
    console.print()
    print_table(console, task_rows({spec: run.summary for spec, run in runs.items()}), "accuracy per task, %")
    console.print()
    for spec, run in runs.items():
        for failure in run.summary.failures:
            text = f"FAILED {spec} {failure.task} question {failure.doc_id}: {failure.error}"
            console.print(text, style="red", markup=False, highlight=False)
    console.print(textwrap.fill(NOTE, NARROW - 1), markup=False, highlight=False)
    console.print(f"\nResults are in {output}. What to run next:", markup=False, highlight=False, soft_wrap=True)
    for command in (
        f"{PROGRAM} sweep --tasks {benchmark} --demo --compressors vidcom2@0.1,norm@0.1",
        f"{PROGRAM} compare {output}/vidcom2@0.25 {output}/random@0.25",
        f"bash scripts/eval_{benchmark}.sh   # LLaVA-OneVision-7B on the real benchmark",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
