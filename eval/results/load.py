"""Finished runs, read back: what tables, figures and comparisons are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks import BENCHMARKS
from .stats import Overall
from .summary import Line, Parser, read_by, scores


@dataclass(frozen=True)
class Run:
    """summary: results.json. lines: samples.jsonl, by task and question."""

    directory: Path
    summary: dict[str, Any]
    lines: list[Line]

    @property
    def overall(self) -> Overall:
        """What the benchmark's overall accuracy is."""
        return BENCHMARKS[self.summary["benchmark"]].overall

    @property
    def scores(self) -> list[float]:
        return [line["score"] for line in self.lines]

    @property
    def categories(self) -> list[str]:
        return [line["category"] for line in self.lines]

    def read_by(self, parser: Parser) -> Run:
        """The same answers, scored as this parser reads them; as the current one does where a benchmark has no such."""
        lines = read_by(self.lines, parser)
        summary = {
            **self.summary,
            "scores": scores(BENCHMARKS[self.summary["benchmark"]], lines),
            "run": {**self.summary["run"], "parser": parser},
        }
        return Run(self.directory, summary, lines)


def load_run(directory: Path) -> Run:
    """Read what `eval.results.summary.write_results` wrote.

    Raises FileNotFoundError for a directory that is missing or holds no finished run, ValueError where its files do
    not fit together or are of no known benchmark.
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
    if summary.get("benchmark") not in BENCHMARKS:
        raise ValueError(
            f"{results} is of the benchmark {summary.get('benchmark')!r}, which is none of {', '.join(BENCHMARKS)}"
        )
    lines = [_parse(text, samples) for text in samples.read_bytes().split(b"\n") if text]
    if len(lines) != summary["samples"]:
        raise ValueError(
            f"{samples} has {len(lines)} questions, results.json beside it {summary['samples']}: they are not of the "
            "same run, run again with --overwrite"
        )
    return Run(directory, summary, lines)


def read_results(directory: Path) -> dict[str, Any]:
    """results.json; ValueError where it is damaged."""
    path = directory / "results.json"
    return _parse(path.read_bytes(), path)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
        if not isinstance(parsed, dict):
            raise ValueError(f"{text[:20].decode()!r} is no JSON object")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run again with --overwrite") from error
    return parsed
