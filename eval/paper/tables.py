"""A table of the paper, measured again: from finished runs to numbers beside the published ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.mm_utils import get_model_name_from_path

from ..benchmarks import BENCHMARKS
from ..reports.compare import NOT_PROTOCOL, pair
from ..results.load import Run, load_run
from ..results.stats import paired_interval, resampled_accuracies
from ..results.summary import Parser
from ..run.sweep import folder
from .published import Column, PaperTable, Part, Row, average_pct, next_below

Runs = dict[str, Run]
"""Finished runs of one setting, by benchmark."""


@dataclass(frozen=True)
class Delta:
    """An accuracy less another one on the same questions, in percentage points.

    Attributes:
        difference: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
    """

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Cell:
    """A number of the table. None stands for what is not published or not measured yet.

    Attributes:
        published: As published, in percent, or in percent of dense.
        measured: In the same unit.
        dense: Difference to dense.
        below: Difference to the method that the paper ranks next below.
    """

    published: float | None
    measured: float | None
    dense: Delta | None = None
    below: Delta | None = None

    @property
    def difference(self) -> float | None:
        """measured - published."""
        return None if self.measured is None or self.published is None else self.measured - self.published


@dataclass(frozen=True)
class Measured:
    """A row of the table with what is measured so far.

    Attributes:
        row: The row as published.
        runs: Its finished runs.
        cells: By column.
        average: The paper's average over the columns, in percent of dense.
        below: The row that the cells' `below` compares with.
    """

    row: Row
    runs: Runs
    cells: dict[str, Cell]
    average: Cell
    below: Row | None


def measure(table: PaperTable, part: Part, runs: Path, parser: Parser = "current") -> list[Measured]:
    """Measure the rows of a part from the runs that are finished.

    Args:
        table: The table.
        part: The part of it about one model.
        runs: Directory of all runs, see `directory`.
        parser: The parser that counts.

    Raises:
        ValueError: A run is not what its directory says, or two runs do not answer the same questions.
    """
    finished = {
        row.spec: {name: run.read_by(parser) for name, run in finished_runs(table, part, row, runs).items()}
        for row in part.rows
    }
    dense_row = part.rows[0]
    dense_runs = finished[dense_row.spec]
    dense = scores(table, dense_runs)
    result = []
    for row in part.rows:
        own, below = finished[row.spec], next_below(row, part.rows)
        below_runs = finished[below.spec] if below else {}
        absolute = scores(table, own)
        share = {name: 100 * score / dense[name] for name, score in absolute.items() if dense.get(name)}
        measured = share if table.relative else absolute
        cells = {
            column.name: Cell(
                published=row.published[column.name],
                measured=measured.get(column.name),
                dense=None if row is dense_row else delta(column, dense_runs, own),
                below=delta(column, below_runs, own),
            )
            for column in table.columns
        }
        average = Cell(
            published=row.average,
            measured=average_of(table, dense_runs, own),
            dense=None if row is dense_row else average_delta(table, dense_runs, dense_runs, own),
            below=average_delta(table, dense_runs, below_runs, own),
        )
        result.append(Measured(row, own, cells, average, below))
    return result


# ---- runs


def directory(runs: Path, benchmark: str, checkpoint: str) -> Path:
    """Return the directory of all of a model's runs on a benchmark, the same as that of `run` and `sweep`."""
    return runs / benchmark / get_model_name_from_path(checkpoint)


def finished_runs(table: PaperTable, part: Part, row: Row, runs: Path) -> Runs:
    """Load the runs of a row that are finished.

    Raises:
        ValueError: A run is of another compressor or benchmark, or lacks some of the benchmark's tasks.
    """
    found = {}
    for benchmark in table.benchmarks:
        path = directory(runs, benchmark, part.checkpoint) / folder(row.spec)
        if not (path / "results.json").exists():  # it is written last
            continue
        run = load_run(path)
        said = run.summary.benchmark, run.summary.run.compressor
        if said != (benchmark, row.spec):
            raise ValueError(f"{path} holds a run of {said[1]} on {said[0]}, not of {row.spec} on {benchmark}")
        if lacking := set(BENCHMARKS[benchmark].tasks) - {sample.task for sample in run.samples}:
            raise ValueError(
                f"{path} lacks {', '.join(sorted(lacking))}, tasks of {benchmark}: run it again with --overwrite"
            )
        found[benchmark] = run
    return found


def fingerprint(run: Run) -> dict[str, str]:
    """Describe how a run was made, its compressor left out. Two runs are comparable where this is equal.

    "frames" are the fewest and the most that a question got. "prompts_sha256" is the digest of [task, doc_id, prompt]
    of every question, each as a line of JSON.
    """
    summary = run.summary
    asked = "".join(json.dumps([sample.task, sample.doc_id, sample.prompt]) + "\n" for sample in run.samples)
    frames = sorted({sample.frames for sample in run.samples if sample.error is None})
    settings = {name: value for name, value in summary.run.settings.items() if name not in NOT_PROTOCOL}
    return {
        **{name: plain(value) for name, value in settings.items()},
        "generation": " or ".join(dict.fromkeys(map(plain, summary.run.generation.values()))),
        "frames": " to ".join(map(str, dict.fromkeys((frames[0], frames[-1])))) if frames else "none",
        "questions": f"{len(run.samples)}, {summary.run.limit or 'all'} per task",
        "failed": str(len(summary.failures)),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "commit": str(summary.provenance.git_commit),
        "machine": str(summary.provenance.device),
    }


def plain(value: Any) -> str:
    """Write {"torch": "2.6", "av": None} as "torch 2.6"."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items() if part is not None)
    return str(value)


# ---- numbers


def scores(table: PaperTable, runs: Runs) -> dict[str, float]:
    """Return the accuracy in percent of each column that is measured."""
    found = {}
    for column in table.columns:
        if column.benchmark not in runs:
            continue
        every = runs[column.benchmark].summary.scores
        if column.category is None:
            found[column.name] = every.overall
        elif column.category in every.categories:
            found[column.name] = every.categories[column.category].accuracy
    return found


def delta(column: Column, other: Runs, own: Runs) -> Delta | None:
    """Compute own's accuracy less other's over a column's questions. None where one of them is not measured."""
    if column.benchmark not in own or column.benchmark not in other:
        return None
    run = own[column.benchmark]
    pairs = [
        (left, right) for left, right in pair(other[column.benchmark], run) if column.category in (None, left.category)
    ]
    if not pairs:
        return None
    a, b = [left.score for left, _ in pairs], [right.score for _, right in pairs]
    return Delta(*paired_interval(a, b, [left.category for left, _ in pairs], run.overall))


def average_of(table: PaperTable, dense: Runs, own: Runs) -> float | None:
    """Compute the paper's average in percent of dense, see `average_pct`.

    None where the table has no averages, a column is not measured, or dense has nothing right in one.
    """
    absolute, base = scores(table, own), scores(table, dense)
    complete = table.averaged and len(absolute) == len(table.columns) and all(base.get(name) for name in absolute)
    return average_pct(absolute, base) if complete else None


def average_delta(table: PaperTable, dense: Runs, other: Runs, own: Runs) -> Delta | None:
    """Compute own's average less other's, with its 95 % percentile bootstrap interval.

    A resample draws questions of each benchmark, the same for all columns and for all settings, dense included. One in
    which dense has nothing right in a column does not count.
    """
    averages = [average_of(table, dense, runs) for runs in (own, other)]
    if averages[0] is None or averages[1] is None:
        return None
    total = np.zeros(())
    for i, benchmark in enumerate(table.benchmarks):
        run = own[benchmark]
        by_setting = [[sample.score for _, sample in pair(run, runs[benchmark])] for runs in (own, other, dense)]
        drawn = resampled_accuracies(by_setting, run.categories, run.overall, seed=i)
        for column in table.columns:
            if column.benchmark == benchmark:
                mine, theirs, base = drawn[column.category].T
                with np.errstate(divide="ignore", invalid="ignore"):
                    total = total + 100 * (mine - theirs) / base
    low, high = np.percentile(total[np.isfinite(total)] / len(table.columns), (2.5, 97.5))
    return Delta(averages[0] - averages[1], float(low), float(high))
