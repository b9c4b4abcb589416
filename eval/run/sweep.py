"""One pass over a benchmark's videos for many compressors, and their results side by side."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.table import Table

from vidcom2 import compressor

from ..results.files import markdown_table, write_whole
from ..results.load import read_results
from ..results.sample import LABELS
from ..results.terminal import stdout
from .config import RunConfig
from .distributed import Place
from .evaluate import run as run_together

COLUMNS = 6
"""As many settings stand side by side on a terminal."""
Rows = list[tuple[str, ...]]


def split_specs(text: str) -> list[str]:
    """Compressor specs separated by commas: "dense,pdrop@0.15:layers=(2,7,14)" is two.

    ValueError for one that is given twice, in whatever spelling, or for none at all.
    """
    specs = [canonical(spec) for spec in re.split(r",(?![^(]*\))", text) if spec.strip()]
    if twice := [spec for i, spec in enumerate(specs) if spec in specs[:i]]:
        raise ValueError(f"--compressors {text!r} has {', '.join(twice)} twice")
    if not specs:
        raise ValueError(f"--compressors {text!r} names no compressor; write dense,vidcom2@0.25")
    return specs


def canonical(spec: str, **settings: Any) -> str:
    """How results name it."""
    return compressor(spec, **settings).spec


def folder(spec: str) -> str:
    """The name of a setting's output directory."""
    return spec.replace(":", "_")


class Sweep:
    """`config` under each of the compressors `specs`, in directories below `config.output`, and a table in it.

    What is finished there already stays, unless config.overwrite.
    """

    def __init__(self, config: RunConfig, specs: Sequence[str]):
        self.config = config
        self.runs = [replace(config, compressor=spec, output=config.output / folder(spec)) for spec in specs]
        self.missing = [run for run in self.runs if not run.done]

    def check(self) -> None:
        """Raise what `RunConfig.check` raises."""
        for run in self.runs:
            run.check()
            if run not in self.missing:
                print(f"{run.output} is finished already", file=sys.stderr)

    def run(self, place: Place) -> int:
        """Answer what is missing, rank 0 prints and writes the table.

        Returns the number of failed questions, those of finished settings included; in other ranks without them.
        """
        failed = run_together(self.missing, place, quiet=True) if self.missing else 0
        if place.rank > 0:
            return failed
        results = {run.compressor: read_results(run.output) for run in self.runs}
        rows = side_by_side(results)
        title = f"{next(iter(results.values()))['benchmark']}, {self.config.model}"
        write_whole(self.config.output / "table.md", markdown(title, rows))
        console = stdout()
        wide = console.measure(rich_table(title, rows)).minimum > console.width
        if len(self.runs) > COLUMNS or wide:  # one line for each, with the most important
            shown = [row for row in rows if row[0].startswith(("overall", "% of", "tokens after", "prefill"))]
            rows = list(zip(rows[0], *shown, strict=True))
        console.print(rich_table(title, rows))
        for spec, result in results.items():
            for failure in result["failures"]:
                console.print(
                    f"FAILED {spec} {failure['task']} question {failure['doc_id']}: {failure['error']}",
                    style="red",
                    markup=False,
                    highlight=False,
                )
        console.print(f"results in {self.config.output}", highlight=False)
        return sum(len(result["failures"]) for result in results.values())


def side_by_side(results: Mapping[str, dict[str, Any]]) -> Rows:
    """Rows of text, the header first: accuracy per category and overall, share of the first setting's, visual tokens,
    mean milliseconds per stage.

    results: results.json by setting.
    """
    every, names = list(results.values()), ["dense" if spec == "none" else spec for spec in results]
    first = every[0]["scores"]["overall"]
    rows: Rows = [("", *names)]
    for category in every[0]["scores"]["categories"]:
        rows.append((category, *(f"{r['scores']['categories'][category]['accuracy']:.1f}" for r in every)))
    rows.append(("overall", *(f"{r['scores']['overall']:.1f}" for r in every)))
    share = [f"{100 * r['scores']['overall'] / first:.1f}" if first else "-" for r in every]
    rows.append((f"% of {names[0]}", *share))
    for when in ("before", "after"):
        tokens = [r["visual_tokens"][f"{when}_per_sample"] for r in every]
        rows.append((f"tokens {when}", *("-" if n is None else f"{n:.1f}" for n in tokens)))
    for stage in every[0]["seconds"]:
        rows.append((f"{LABELS[stage]}, ms", *(f"{1000 * r['seconds'][stage]['mean']:.1f}" for r in every)))
    return rows


def markdown(title: str, rows: Rows) -> str:
    return f"# {title}\n\n{markdown_table(rows)}"


def rich_table(title: str, rows: Rows) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(rows[0]):
        parts = re.sub("([@:=])", r"\n\1", column)  # a spec is long
        table.add_column(parts, justify="right" if i else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row, style="bold" if row[0] == "overall" or row[0].startswith("% of") else None)
    return table
