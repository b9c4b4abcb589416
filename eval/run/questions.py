"""Checks whether questions can be asked and scored: for a run before its first answer, and for the doctor."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..benchmarks import Benchmark
from ..benchmarks.base import Kind
from ..results.errors import UserError
from ..results.sample import NO_ANSWER
from ..results.terminal import PROGRAM

HEAD = 512
"""Bytes at the start of a file that show whether it is what its name says."""
NAME = 250
"""A video's name may have this many bytes. File systems take 255, and some benchmarks leave out the ending."""
PATH = 900
"""A video's path below the folder of videos may have this many characters. The system's limit includes the folder."""
LETTERS = 26
"""Options that can have a letter."""
LISTED = 20
"""A run prints at most this many problems. The doctor prints all."""


class NoQuestions(UserError):
    """A task's questions cannot be loaded, asked or scored."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a task's questions or with one of its videos.

    Attributes:
        task: lmms-eval's name of the task.
        kind: What is wrong: the questions, or a video that is missing or broken.
        file: The file of questions, or the video.
        cause: What is wrong, in words.
    """

    task: str
    kind: Literal["questions", "missing", "broken"]
    file: str
    cause: str

    def __str__(self) -> str:
        return f"{self.task}: {self.file}: {self.cause}"


@dataclass(frozen=True)
class Questions:
    """The questions of a task.

    Attributes:
        task: lmms-eval's name of the task.
        count: Number of questions.
        videos: The videos, each once.
        problems: What a run refuses.
        doubts: What a run answers and scores, though no answer may count as right.
        notes: What is odd but disturbs no run.
    """

    task: str
    count: int
    videos: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()
    doubts: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def refuse(problems: Sequence[Problem]) -> None:
    """Raise NoQuestions if there are problems.

    Args:
        problems: Each becomes a line of the message, up to `LISTED` lines.
    """
    if problems:
        lines = [str(problem) for problem in problems[:LISTED]]
        if len(problems) > LISTED:
            lines.append(f"and {len(problems) - LISTED} more")
        raise NoQuestions("\n".join([*lines, f"{PROGRAM} doctor, with that --data, says more"]))


# Files


def files_of(benchmark: Benchmark, task: str, data: Path) -> list[str]:
    """Return the files of questions of a local task. Raises FileNotFoundError if there are none."""
    (files,) = benchmark.local(task, data)["dataset_kwargs"]["data_files"].values()
    return [files] if isinstance(files, str) else files


def look_into(benchmark: Benchmark, task: str, data: Path) -> Questions:
    """Check the files of questions of a local task, before lmms-eval reads them.

    Args:
        benchmark: The benchmark.
        task: lmms-eval's name of the task.
        data: Local copy of the benchmark.

    Returns:
        What is found. Questions in parquet files are not looked at, and not counted.
    """
    problems: list[Problem] = []
    videos: dict[Path, None] = {}
    count = 0
    try:
        files = files_of(benchmark, task, data)
    except FileNotFoundError as error:
        return Questions(task, 0, (), (Problem(task, "questions", str(data), str(error)),))
    for file in files:
        try:
            docs = _read(Path(file))
        except ValueError as error:
            problems.append(Problem(task, "questions", file, str(error)))
            continue
        for number, doc in enumerate(docs, start=count):
            if cause := malformed(benchmark, doc):
                problems.append(Problem(task, "questions", file, f"question {number}: {cause}"))
            else:
                videos[benchmark.local_video(task, data, doc)] = None
        count += len(docs)
    return Questions(task, count, tuple(videos), tuple(problems))


def disguise(head: bytes) -> str:
    """Return what a file's first bytes show it to be instead of data (a git-lfs pointer, a web page), or ""."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` where it was cloned"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, probably an error of the download: download it again"
    return ""


def _read(file: Path) -> list[Any]:
    """Return the questions of a JSON file: a list of objects, or one object per line. A parquet file gives none.

    Raises:
        ValueError: The file is something else. The reader that lmms-eval uses crashes on some such files.
    """
    try:
        with file.open("rb") as opened:
            if cause := disguise(opened.read(HEAD)):
                raise ValueError(cause)
            if file.suffix == ".parquet":
                return []
            opened.seek(0)
            content = opened.read()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error})") from error
    in_lines = not text.lstrip().startswith("[")
    docs: list[Any] = []
    for number, part in enumerate(text.split("\n") if in_lines else [text], start=1):
        try:
            if part.strip():
                docs.append(json.loads(part))
        except (ValueError, RecursionError) as error:
            where = f", line {number}" if in_lines else ""
            raise ValueError(
                f"is neither a JSON list of questions nor a JSON object in each line ({error}{where})"
            ) from error
    docs = docs if in_lines else docs[0]
    if not docs:
        raise ValueError("holds no questions")
    return docs


# Single questions


def malformed(benchmark: Benchmark, doc: Any) -> str:
    """Return what is wrong with the fields of a question that the benchmark needs, or ""."""
    if not isinstance(doc, dict):
        return f"{short(doc)} is no JSON object"
    for field, kind in benchmark.fields.items():
        if doc.get(field) is None:
            return f"it has no {field}"
        if wrong := KINDS[kind](doc[field]):
            return f"its {field} {short(doc[field])} {wrong}"
    return ""


def short(value: Any) -> str:
    """Return a value as Python writes it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return "is not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half a character (a surrogate), which is no text"
    return "" if value.strip() else "is empty"


def _video(value: Any) -> str:
    if wrong := _text(value):
        return wrong
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "is no path below the folder of videos"
    if "\0" in value:
        return "has a zero byte"
    too_long = len(value) > PATH or max(len(os.fsencode(part)) for part in path.parts) > NAME
    return "is too long for a file's name" if too_long else ""


def _options(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        return "is no list of texts"
    return "" if 1 <= len(value) <= LETTERS else f"is a list of {len(value)}; 1 to {LETTERS} options can have letters"


def _number(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else "is no whole number"


KINDS: dict[Kind, Callable[[Any], str]] = {"text": _text, "video": _video, "options": _options, "number": _number}
"""By kind of field: a function that returns what is wrong with a value, or ""."""


# lmms-eval's own code


def check_questions(benchmark: Benchmark, task: Any, name: str, file: str) -> Questions:
    """Ask and score every question as a run would, with made-up answers.

    A repeated question is only noted. It disturbs no run, and published benchmarks have some.

    Args:
        benchmark: The benchmark.
        task: lmms-eval's task object.
        name: lmms-eval's name of the task.
        file: The file of questions, for messages.
    """
    videos: dict[Path, None] = {}
    seen: set[tuple[str | None, str]] = set()
    problems: list[Problem] = []
    doubts: list[Problem] = []
    scored: dict[int, Any] = {}
    repeated = 0

    def problem(number: int, cause: str) -> Problem:
        return Problem(name, "questions", file, f"question {number}: {cause}")

    docs = list(task.eval_docs)
    for number, doc in enumerate(docs):
        if cause := malformed(benchmark, doc):
            problems.append(problem(number, cause))
            continue
        video = right = None
        try:
            with suppress(SystemExit):  # lmms-eval's tasks exit if a video from the hub is not there
                (video,) = task.doc_to_visual(doc)
                videos[Path(video)] = None
            prompt = task.doc_to_text(doc)
            repeated += (video, prompt) in seen
            seen.add((video, prompt))
            if cause := benchmark.complaint(doc):
                problems.append(problem(number, cause))
                continue
            task.doc_to_target(doc)
            _scored(task, doc, NO_ANSWER)
            target = benchmark.target(_scored(task, doc, "A"))
            logged = _scored(task, doc, target)
            right = benchmark.score(logged)
            benchmark.readings(logged)
            benchmark.category(name, logged)
        except Exception as error:  # lmms-eval's code meets a question that it does not expect
            problems.append(problem(number, because(error, doc)))
            continue
        scored[number] = logged
        cause = check_options(prompt, target)
        if not cause and not right:
            cause = f"lmms-eval scores its own right answer {target!r} as wrong"
        if cause:
            doubts.append(problem(number, cause))
    average = task.aggregation()[benchmark.metric]
    if "args" in inspect.signature(average).parameters:
        average = partial(average, args=None)  # lmms-eval's command line; none of them uses it
    if _failure(average, [one[benchmark.metric] for one in scored.values()]):
        for number, one in scored.items():
            if failure := _failure(average, [one[benchmark.metric]]):
                problems.append(problem(number, because(failure, docs[number])))
    notes = (f"{name}: questions that repeat another about the same video: {repeated}",) if repeated else ()
    return Questions(name, len(docs), tuple(videos), tuple(problems), tuple(doubts), notes)


def require_scorable(benchmark: Benchmark, tasks: Mapping[str, Any], data: Path | None) -> list[Problem]:
    """Check all questions of lmms-eval's tasks.

    Returns:
        The doubts: what can be asked and scored, though no answer may count as right.

    Raises:
        NoQuestions: Some questions cannot be asked or scored.
    """
    checked = [
        check_questions(benchmark, task, name, ", ".join(files_of(benchmark, name, data)) if data else "the hub")
        for name, task in tasks.items()
    ]
    refuse([problem for one in checked for problem in one.problems])
    return [doubt for one in checked for doubt in one.doubts]


def because(error: Exception, doc: Mapping[str, Any]) -> str:
    """Describe an error of lmms-eval's code, with the field that it mentions, if any."""
    said = [f"{field} {short(value)}" for field, value in doc.items() if value and repr(value) in str(error)]
    named = f"its {', '.join(said)}: " if said else ""
    return f"{named}cannot be asked and scored ({type(error).__name__}: {error})"


def _scored(task: Any, doc: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return what lmms-eval logs for an answer."""
    # Not task.process_results, which tries five times with pauses.
    return {"doc": doc, "filtered_resps": [answer], **task.config.process_results(doc, [answer])}


def _failure(average: Callable[[list[Any]], Any], scores: Iterable[Any]) -> Exception | None:
    scores = list(scores)
    try:
        if scores:
            average(scores)
    except Exception as error:
        return error
    return None


def check_options(prompt: str, target: str) -> str:
    """Return what is wrong with the options in a prompt, or "".

    Args:
        prompt: Options are lines such as "(A) red" or "A. red". A prompt without such lines is not checked.
        target: The letter of the right option.
    """
    letters = re.findall(r"^\s*\(?([A-Z])[.):]", prompt, flags=re.MULTILINE)
    if letters and len(letters) < 2:
        return f"it has only the option {letters[0]}"
    if letters and target not in letters:
        return f"its answer {target!r} is none of its options {', '.join(letters)}"
    return ""
