"""Finished runs, read back. Tables, figures and comparisons are made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..benchmarks import BENCHMARKS, Benchmark, benchmark_named
from .records import record
from .schema import ScoredSample, Summary
from .stats import Overall
from .summary import Parser, read_by, scores_of

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: The directory of the run.
        summary: results.json.
        samples: samples.jsonl, by task and question.
    """

    directory: Path
    summary: Summary
    samples: list[ScoredSample]

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark. `load_run` has checked that it is known."""
        benchmark = benchmark_named(self.summary.benchmark)
        assert benchmark is not None
        return benchmark

    @property
    def overall(self) -> Overall:
        """What the benchmark's overall accuracy is, "macro" or "micro"."""
        return self.benchmark.overall

    @property
    def scores(self) -> list[float]:
        """The score of each question, 1 for right and 0 for wrong."""
        return [sample.score for sample in self.samples]

    @property
    def categories(self) -> list[str]:
        """The category of each question."""
        return [sample.category for sample in self.samples]

    def read_by(self, parser: Parser) -> Run:
        """Return the same answers, scored by `parser`, or by the current one where the benchmark does not have it."""
        samples = read_by(self.samples, parser)
        run = replace(self.summary.run, settings={**self.summary.run.settings, "parser": parser})
        scores = scores_of(self.benchmark, samples)
        return Run(self.directory, replace(self.summary, scores=scores, run=run), samples)


def load_run(directory: Path) -> Run:
    """Read what `summary.write_results` wrote.

    Args:
        directory: The directory of the run.

    Raises:
        FileNotFoundError: The directory is missing or holds no finished run.
        ValueError: A file is damaged, the files do not fit together, or the benchmark is unknown.
    """
    results, samples = directory / "results.json", directory / "samples.jsonl"
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is no directory: give the --output of a finished run")
    if not results.exists():
        advice = "give the --output of a finished run"
        if any(directory.glob("answers*.jsonl")):
            advice = "its run is unfinished, start it again to complete it"
        raise FileNotFoundError(f"{directory} holds no results.json: {advice}")
    if not samples.exists():
        raise FileNotFoundError(f"{directory} holds results.json but no samples.jsonl: run again with --overwrite")
    summary = read_results(directory)
    lines = [
        _parse(text, samples, lambda content: record(ScoredSample, content))
        for text in samples.read_bytes().split(b"\n")
        if text
    ]
    if len(lines) != summary.samples:
        raise ValueError(
            f"{samples} has {len(lines)} questions, results.json beside it {summary.samples}: they are not of the "
            "same run, run again with --overwrite"
        )
    return Run(directory, summary, lines)


def read_results(directory: Path) -> Summary:
    """Read results.json.

    Raises:
        ValueError: The file is damaged, or the benchmark is unknown.
    """
    path = directory / "results.json"
    summary = _parse(path.read_bytes(), path, Summary.from_json)
    if benchmark_named(summary.benchmark) is None:
        raise ValueError(f"{path} is of the benchmark {summary.benchmark!r}, which is none of {', '.join(BENCHMARKS)}")
    return summary


def _parse(text: bytes, path: Path, read: Callable[[dict[str, Any]], T]) -> T:
    try:
        parsed = json.loads(text)
        if not isinstance(parsed, dict):
            raise ValueError(f"{text[:20].decode()!r} is no JSON object")
        return read(parsed)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run again with --overwrite") from error
