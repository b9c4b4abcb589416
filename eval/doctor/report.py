"""The doctor's report: what was found, counted per task, and how to repair it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..benchmarks import Benchmark
from ..benchmarks.edition import edition
from ..run.questions import Problem, Questions
from .download import download_steps
from .videos import Finding


@dataclass(frozen=True)
class Counts:
    """How many questions and videos there are, and how the videos are.

    Attributes:
        questions: Number of questions.
        videos: Number of different videos.
        ok: Videos that decode.
        missing: Videos whose file does not exist.
        broken: Videos that do not decode, or whose checksum changed.
        misread: Videos that decode, but of which raw decord gives other frames than asked for.
    """

    questions: int
    videos: int
    ok: int
    missing: int
    broken: int
    misread: int


@dataclass(frozen=True)
class Report:
    """All that the doctor found. The JSON file has the same fields.

    Attributes:
        benchmark: Name of the benchmark.
        title: What a person reads instead: the name of an edition, or the benchmark's.
        data: The data directory.
        tasks: Counts by task.
        total: Counts over all tasks. A video of several tasks counts once.
        problems: What has to be repaired.
        misread: For videos of which raw decord gives other frames than asked for: which, and why.
        notes: Oddities that need no repair.
        remedy: Steps to get the data of the affected tasks; empty if there are no problems.
    """

    benchmark: str
    title: str
    data: str
    tasks: dict[str, Counts]
    total: Counts
    problems: list[Problem]
    misread: dict[str, str]
    notes: list[str]
    remedy: list[str]


def summarise(
    benchmark: Benchmark,
    data: Path,
    tasks: list[Questions],
    findings: Mapping[Path, Finding],
    of_libraries: Iterable[str] = (),
) -> Report:
    """Make the report from each task's questions and each video's finding. of_libraries: notes on what is installed."""

    def count(questions: int, videos: Iterable[Path]) -> Counts:
        states = [findings[video].state for video in videos]
        misread = sum(bool(findings[video].misread) for video in videos)
        ok, missing, broken = (states.count(state) for state in ("ok", "missing", "broken"))
        return Counts(questions, len(states), ok, missing, broken, misread)

    problems: list[Problem] = []
    for task in tasks:
        problems += (*task.problems, *task.doubts)
        for video in task.videos:
            finding = findings[video]
            if finding.state != "ok":
                problems.append(Problem(task.task, finding.state, str(video), finding.cause))
    affected = tuple(dict.fromkeys(problem.task for problem in problems))
    return Report(
        benchmark=benchmark.name,
        title=edition(data) or benchmark.name,
        data=str(data),
        tasks={task.task: count(task.count, task.videos) for task in tasks},
        total=count(sum(task.count for task in tasks), findings),
        problems=problems,
        misread={str(video): finding.misread for video, finding in findings.items() if finding.misread},
        notes=[*of_libraries, *(note for task in tasks for note in task.notes)],
        remedy=download_steps(benchmark, affected, data) if affected else [],
    )


def print_report(console: Console, report: Report) -> None:
    """Print the problems first. So the table and the remedy stay in view, however many problems there are."""
    plain = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for problem in report.problems:
        plain(f"{problem.kind.upper()} {problem.task}: {problem.file}: {problem.cause}", style="red")
    for video, how in report.misread.items():
        plain(f"MISREAD BY RAW DECORD {video}: {how}", style="yellow")
    for note in report.notes:
        plain(f"note: {note}")
    table = Table(title=report.title)
    table.add_column("task", overflow="fold")
    for column in Counts.__dataclass_fields__:
        table.add_column(column, justify="right")
    for name, counts in report.tasks.items():
        table.add_row(name, *map(str, asdict(counts).values()))
    table.add_row("all", *map(str, asdict(report.total).values()), style="bold")
    console.print(table)
    if report.misread:
        plain(
            f"misread: {len(report.misread)} videos are fine, but raw decord gives other frames of them than asked for "
            "(listed above the table). Harnesses that read with raw decord score those frames"
        )
    if report.problems:
        plain(f"problems: {len(report.problems)}, listed above the table. To get {report.benchmark}:")
        for step in report.remedy:
            plain(f"  {step}")
    else:
        plain(f"all questions and videos in {report.data} are fine")
