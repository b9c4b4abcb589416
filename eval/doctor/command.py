"""python -m eval doctor: are a local benchmark's questions and videos all there and readable, before hours of GPU?"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from llava.video import FrameSampling, VideoError, open_video, sample_video
from llava.video.against_decord import against_decord, why_in_doubt
from llava.video.exact import ExactVideo

from ..benchmarks import Benchmark, select_tasks
from ..benchmarks.mvbench import MVBENCH
from ..models import canary
from ..results.files import prepare_file, prepare_json, write_json, write_whole
from ..results.terminal import stdout
from ..run.process import Child, dismiss_all, require_seconds
from ..run.questions import HEAD, Problem, Questions, check_questions, disguise, files_of, look_into
from .flags import PROBLEMS_FOUND

ELSEWHERE = {
    "mvbench_fine_grained_pose": "if the download lacks them: for their licence, NTU RGB+D's videos are given out by "
    "NTU's ROSE Lab only, on request",
}
"""Tasks whose videos the benchmark's hub dataset may lack, and where those are."""


def prepare_doctor(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; returns what does the rest. Raises ValueError, OSError or ImportError."""
    benchmark, names = select_tasks(arguments.tasks)
    for package, extra in (("lmms_eval", ".[eval]"), ("av", "av")):
        if find_spec(package) is None:
            raise ImportError(f"the doctor needs {package}: pip install {extra}")
    if arguments.data is None:
        steps = "\n  ".join(how_to_get(benchmark, names, Path("DIR")))
        raise ValueError(
            "the doctor checks local data: say where with --data (without it, a run lets lmms-eval use the hub). "
            f"To have {benchmark.name} in a directory DIR:\n  {steps}"
        )
    if not arguments.data.is_dir():
        raise NotADirectoryError(f"--data {arguments.data} is not a directory")
    FrameSampling.parse(arguments.sampling)  # ValueError for a bad one
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
    """Check, print and write; returns the exit status. known: what --checksums holds, None without that flag."""
    data = arguments.data.absolute()
    print("trying every family's compression with the libraries that are installed", file=sys.stderr)
    canary.require_all()
    print(f"reading the questions of {len(names)} {benchmark.name} tasks", file=sys.stderr)
    tasks = read_questions(benchmark, names, data)
    videos = list(dict.fromkeys(video for task in tasks for video in task.videos))
    # decord gets a part of the time, so that one that hangs does not make the video count as broken.
    patience = arguments.timeout / 2
    check = partial(
        check_video,
        frames=32 if arguments.deep else 3,
        checksum=known is not None,
        sampling=FrameSampling.parse(arguments.sampling),
        patience=patience,
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
    report = summarise(benchmark, data, tasks, findings)
    print_report(console, report)
    if known is not None:
        compared = sum(finding.sha256 is not None for finding in findings.values()) - added
        line = f"checksums: {compared} videos compared with {arguments.checksums}, {added} added"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if arguments.json:
        write_json(arguments.json, asdict(report))
    return PROBLEMS_FOUND if report.problems else 0


# Questions


def read_questions(benchmark: Benchmark, names: tuple[str, ...], data: Path) -> list[Questions]:
    """Every task's questions, read as a run reads them; what cannot be read is a problem of that task."""
    from ..run.lmms import harness_log

    with harness_log(Path(os.devnull)):
        return [_read_task(benchmark, name, data) for name in names]


def _read_task(benchmark: Benchmark, name: str, data: Path) -> Questions:
    from ..run.lmms import load_tasks, root_cause

    looked = look_into(benchmark, name, data)
    if looked.problems:
        return looked
    listed = ", ".join(files_of(benchmark, name, data))
    try:
        task = load_tasks(benchmark, (name,), data, "llava_onevision")[name]
        checked = check_questions(benchmark, task, name, listed)
    except Exception as error:  # datasets has many kinds for a bad file, and lmms-eval wraps them in its retries'
        return Questions(name, 0, (), (Problem(name, "questions", listed, f"cannot be read ({root_cause(error)})"),))
    if not checked.count:
        return Questions(name, 0, (), (Problem(name, "questions", listed, "holds no questions"),))
    return checked


# Videos

TEXT = bytes({*b"\t\n\r\f", *range(32, 256)} - {127})
"""The bytes of text, in whatever encoding; containers begin with others too."""


@dataclass(frozen=True)
class Finding:
    """How a video is; cause says what is wrong with it. sha256 is None where it was not asked for or not ok.
    misread: what raw decord makes of it, "" where it gives the frames that are asked for."""

    state: Literal["ok", "missing", "broken"]
    cause: str = ""
    sha256: str | None = None
    misread: str = ""


def check_video(path: Path, frames: int, checksum: bool, sampling: FrameSampling, patience: float) -> Finding:
    """Decode `frames` frames as a run does, from the first to the last one; where raw decord may give others, compare
    those of `sampling` with its, for `patience` seconds at most."""
    if not path.exists():
        return Finding("missing", "no such file")
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(HEAD)
            if cause := disguise(head) or (head and not head.translate(None, TEXT) and "is text, not a video"):
                return Finding("broken", cause)
        with open_video(path) as video:
            video.sample(FrameSampling("uniform", max_frames=frames).distinct)
            misread = misread_by_decord(path, video, sampling, patience) if isinstance(video, ExactVideo) else ""
        return Finding("ok", sha256=sha256(path) if checksum else None, misread=misread)
    except VideoError as error:
        return Finding("broken", error.cause)
    except OSError as error:
        return Finding("broken", f"cannot be read ({error.strerror})")


def misread_by_decord(path: Path, video: ExactVideo, sampling: FrameSampling, patience: float) -> str:
    """In how many of the sampled frames raw decord errs, and why; "" where in none."""
    if why_in_doubt(video) is None:
        return ""
    sampled = sample_video(video, sampling)
    against = against_decord(str(path), video, sampling.indices, sampled.distinct, sampled.rows, patience)
    if against.differ is None:
        return against.why
    return f"{against.differ} of {len(sampled.rows)} frames differ; {against.why}" if against.differ else ""


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_videos(
    videos: Iterable[Path], check: Callable[[Path], Finding], workers: int, timeout: float
) -> Generator[tuple[Path, Finding], None, None]:
    """`check` every video, `workers` at a time, in the order in which they get done.

    Every check has a process of its own, so that a decoder that hangs (for more than `timeout` seconds) or crashes
    costs that video only. `check` must be picklable.
    """
    # A fork server imports torch, the decoder and, where it is a script, __main__ once; then a process costs little.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "av"])
    waiting = deque(videos)
    running: list[_Check] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path = waiting.popleft()
                child = Child.start(context, _report, check, path, daemon=True)
                running.append(_Check(path, child, time.monotonic() + timeout))
            first = min(current.deadline for current in running)
            wait([current.child.connection for current in running], max(0.0, first - time.monotonic()))
            for current in list(running):
                if current.child.connection.poll():  # a finding, or the end of the process
                    finding = current.finding()
                elif time.monotonic() > current.deadline:
                    finding = Finding("broken", f"does not decode within {timeout:g} s")
                else:
                    continue
                running.remove(current)
                current.child.dismiss(0.0)
                yield current.path, finding
    finally:  # also where the caller stops early
        dismiss_all([current.child for current in running], 0.0)


@dataclass(frozen=True, eq=False)
class _Check:
    path: Path
    child: Child
    deadline: float  # on time.monotonic's clock

    def finding(self) -> Finding:
        try:
            return self.child.hear()
        except (EOFError, OSError):  # OSError where it died in the middle of its report
            return Finding("broken", f"the process that decoded it died ({self.child.end()})")


def _report(connection: Connection, check: Callable[[Path], Finding], path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends it
    connection.send(check(path))


# Checksums, in sha256sum's format


def read_checksums(file: Path) -> dict[str, str]:
    """sha256 by path below DATA; none where the file does not exist. ValueError for a line of another format."""
    sums = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else (), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise ValueError(f"{file} line {number} is {line!r}, not a sha256 sum, two spaces and a path")
        sums[match[2]] = match[1]
    return sums


def write_checksums(file: Path, sums: Mapping[str, str]) -> None:
    write_whole(file, "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())))


def compare_checksums(
    findings: Mapping[Path, Finding], known: Mapping[str, str], data: Path
) -> tuple[dict[Path, Finding], dict[str, str]]:
    """The findings, where a video that differs from its known sum is broken; and the known sums with the new ones."""
    compared, sums = dict(findings), dict(known)
    for video, finding in findings.items():
        if finding.sha256 is None:
            continue
        expected = sums.setdefault(os.path.relpath(video, data), finding.sha256)
        if finding.sha256 != expected:
            compared[video] = replace(finding, state="broken", cause=f"has sha256 {finding.sha256}, not {expected}")
    return compared, sums


# The report


@dataclass(frozen=True)
class Counts:
    questions: int
    videos: int
    ok: int
    missing: int
    broken: int
    misread: int


@dataclass(frozen=True)
class Report:
    """All that was found. total counts a video of several tasks once; misread are the videos of which raw decord, which
    other harnesses read with, gives other frames than asked for; remedy is how to get what is wrong."""

    benchmark: str
    data: str
    tasks: dict[str, Counts]
    total: Counts
    problems: list[Problem]
    misread: dict[str, str]
    notes: list[str]
    remedy: list[str]


def summarise(benchmark: Benchmark, data: Path, tasks: list[Questions], findings: Mapping[Path, Finding]) -> Report:
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
        data=str(data),
        tasks={task.task: count(task.count, task.videos) for task in tasks},
        total=count(sum(task.count for task in tasks), findings),
        problems=problems,
        misread={str(video): finding.misread for video, finding in findings.items() if finding.misread},
        notes=[note for task in tasks for note in task.notes],
        remedy=how_to_get(benchmark, affected, data) if affected else [],
    )


def how_to_get(benchmark: Benchmark, names: tuple[str, ...], data: Path) -> list[str]:
    """Steps to the data of some tasks, from what lmms-eval's own task files say of the hub."""
    config = _declared(benchmark, names[0])
    revision = config["dataset_kwargs"].get("revision")
    flags = f"--revision {revision} " if revision else ""
    target = shlex.quote(str(data))
    layout = " ".join((type(benchmark).__doc__ or "").split())
    steps = [
        f"hf download --repo-type dataset {config['dataset_path']} {flags}--local-dir {target}",
        # As lmms-eval unpacks them, wherever in the dataset they are.
        f"unpack every zip and tar of it into {target} itself (one in parts: cat NAME.tar.* | tar x), again where "
        f"files are broken. {layout}",
    ]
    if benchmark is MVBENCH:
        for name in names:
            place = f"{name}: {benchmark.local_video(name, data, {'video': ''})}"
            steps.append(place + (f" ({ELSEWHERE[name]})" if name in ELSEWHERE else ""))
    return steps


def _declared(benchmark: Benchmark, name: str) -> dict[str, Any]:
    """A task's settings as lmms-eval declares them; read from its files, since importing it takes half a minute."""

    class Loader(yaml.SafeLoader):
        """Leaves functions out."""

    Loader.add_constructor("!function", lambda loader, node: None)
    spec = find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "tasks" / benchmark.folder
    configs = (yaml.load(file.read_text(encoding="utf-8"), Loader) for file in sorted(folder.glob("*.yaml")))
    config = next(config for config in configs if config.get("task") == name)
    included = (
        yaml.load((folder / config["include"]).read_text(encoding="utf-8"), Loader) if "include" in config else {}
    )
    return {**included, **config}


def print_report(console: Console, report: Report) -> None:
    """Problems first, so that however many there are, the table and the remedy stay in view."""
    plain = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for problem in report.problems:
        plain(f"{problem.kind.upper()} {problem.task}: {problem.file}: {problem.cause}", style="red")
    for video, how in report.misread.items():
        plain(f"MISREAD BY RAW DECORD {video}: {how}", style="yellow")
    for note in report.notes:
        plain(f"note: {note}")
    table = Table(title=report.benchmark)
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
            "(listed above the table); results of harnesses that read with it are of those frames"
        )
    if report.problems:
        plain(f"problems: {len(report.problems)}, listed above the table. To get {report.benchmark}:")
        for step in report.remedy:
            plain(f"  {step}")
    else:
        plain(f"all questions and videos in {report.data} are fine")
