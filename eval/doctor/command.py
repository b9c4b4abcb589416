"""vidcom2 doctor: check a local benchmark's questions and videos before hours of GPU time depend on them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import track

from llava.video import FrameSampling

from ..benchmarks import AnyTask, Benchmark, select_tasks
from ..benchmarks.edition import edition
from ..models import canary
from ..models.doubts import of_libraries
from ..results.files import prepare_file, prepare_json, write_json
from ..results.terminal import stdout
from ..run.lmms import harness_log, load_tasks, root_cause
from ..run.process import require_seconds
from ..run.questions import Problem, Questions, check_questions, files_of, look_into
from .checksums import compare_checksums, read_checksums, write_checksums
from .download import download_steps
from .flags import PROBLEMS_FOUND
from .report import print_report, summarise
from .videos import check_video, check_videos


def prepare_doctor(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments.

    Returns:
        A function that does the work and returns the exit status.

    Raises:
        ValueError: A bad argument, or no --data.
        OSError: A file or directory that is missing or cannot be written.
        ImportError: A package is missing.
    """
    benchmark, names = select_tasks(arguments.tasks)
    if isinstance(benchmark, AnyTask):
        raise ValueError(
            f"the doctor knows no layout of {', '.join(names)}: a run, which takes its files from where lmms-eval "
            "looks, checks its questions before the first answer"
        )
    for package, extra in (("lmms_eval", ".[eval]"), ("av", "av")):
        if find_spec(package) is None:
            raise ImportError(f"the doctor needs {package}: pip install {extra}")
    if arguments.data is None:
        steps = "\n  ".join(download_steps(benchmark, names, Path("DIR")))
        raise ValueError(
            "the doctor checks local data: name its directory with --data. (A run without --data gets the data from "
            f"the hub through lmms-eval.) To get {benchmark.name} into a directory DIR:\n  {steps}"
        )
    if not arguments.data.is_dir():
        raise NotADirectoryError(f"--data {arguments.data} is not a directory")
    FrameSampling.parse(arguments.sampling)  # raises ValueError
    edition(arguments.data)  # raises ValueError
    if arguments.workers < 1:
        raise ValueError(f"--workers must be at least 1, not {arguments.workers}")
    require_seconds("--timeout", arguments.timeout)
    if (file := arguments.checksums) and not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no directory {file.parent} to write {file.name} in")
    if file:
        prepare_file("--checksums", file)
    prepare_json(arguments.json)
    known = read_checksums(arguments.checksums) if arguments.checksums else None
    return partial(run_doctor, benchmark, names, arguments, known)


def run_doctor(
    benchmark: Benchmark, names: tuple[str, ...], arguments: argparse.Namespace, known: dict[str, str] | None
) -> int:
    """Check questions and videos, then print and write the report.

    Args:
        benchmark: The benchmark.
        names: lmms-eval's names of the tasks.
        arguments: The command line.
        known: The checksums in the file of --checksums; None without that flag.

    Returns:
        The exit status: 0 or PROBLEMS_FOUND.
    """
    data = arguments.data.absolute()
    print("checking that the installed libraries compress right in every model family", file=sys.stderr)
    canary.require_all()
    print(f"reading the questions of {len(names)} {benchmark.name} tasks", file=sys.stderr)
    tasks = read_questions(benchmark, names, data)
    videos = list(dict.fromkeys(video for task in tasks for video in task.videos))
    check = partial(
        check_video,
        frames=32 if arguments.deep else 3,
        checksum=known is not None,
        sampling=FrameSampling.parse(arguments.sampling),
        # Only part of the time, so that decord's hanging does not make the video count as broken.
        decord_seconds=arguments.timeout / 2,
    )
    checked = track(
        check_videos(videos, check, arguments.workers, arguments.timeout),
        "checking videos",
        total=len(videos),
        console=Console(file=sys.stderr),
    )
    findings = dict(checked)
    console = stdout()
    if known is not None:
        findings, sums = compare_checksums(findings, known, data)
        added = len(sums) - len(known)
        if added:
            write_checksums(arguments.checksums, sums)
    report = summarise(benchmark, data, tasks, findings, of_libraries())
    print_report(console, report)
    if known is not None:
        compared = sum(finding.sha256 is not None for finding in findings.values()) - added
        line = f"checksums: {compared} videos compared with {arguments.checksums}, {added} added"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if arguments.json:
        write_json(arguments.json, asdict(report))
    return PROBLEMS_FOUND if report.problems else 0


def read_questions(benchmark: Benchmark, names: tuple[str, ...], data: Path) -> list[Questions]:
    """Read every task's questions as a run reads them. What cannot be read is a problem of its task."""
    with harness_log(Path(os.devnull)):
        return [read_task(benchmark, name, data) for name in names]


def read_task(benchmark: Benchmark, name: str, data: Path) -> Questions:
    """Read one task's questions: first as they stand in the files, then through lmms-eval."""
    in_files = look_into(benchmark, name, data)
    if in_files.problems:
        return in_files
    listed = ", ".join(files_of(benchmark, name, data))
    try:
        task = load_tasks(benchmark, (name,), data, "llava_onevision")[name]
        checked = check_questions(benchmark, task, name, listed)
    # `datasets` raises many kinds of exceptions for a bad file, and lmms-eval's retries wrap them in others.
    except Exception as error:
        return Questions(name, 0, (), (Problem(name, "questions", listed, f"cannot be read ({root_cause(error)})"),))
    if not checked.count:
        return Questions(name, 0, (), (Problem(name, "questions", listed, "holds no questions"),))
    return checked
