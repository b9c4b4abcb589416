"""Check whether a benchmark's questions can be asked and scored.

A run checks before its first answer and refuses on a problem. The doctor lists everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..benchmarks import Benchmark
from ..benchmarks.any_task import averaging
from ..results.errors import UserError
from ..results.sample import NO_ANSWER
from ..results.terminal import PROGRAM
from .fields import malformed, short

HEAD = 512
"""Bytes at the start of a file that show whether it is something else than its name says, see `disguise`."""
LISTED = 20
"""Problems that a run lists before it says "and N more". The doctor lists all."""


class NoQuestions(UserError):
    """A task's questions cannot be loaded, asked or scored."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a task's questions or with one of its videos.

    Attributes:
        task: lmms-eval's task.
        kind: "questions" for a file of questions or a question in it, "missing" or "broken" for a video.
        file: The file, or "the hub".
        cause: What is wrong.
    """

    task: str
    kind: Literal["questions", "missing", "broken"]
    file: str
    cause: str

    def __str__(self) -> str:
        return f"{self.task}: {self.file}: {self.cause}"


@dataclass(frozen=True)
class Questions:
    """What was found out about a task's questions.

    Attributes:
        task: lmms-eval's task.
        count: Number of questions.
        videos: Paths of the distinct videos.
        problems: What makes a run refuse.
        doubts: Questions that a run answers and scores, although perhaps no answer counts as right.
        notes: Harmless findings, a sentence each.
    """

    task: str
    count: int
    videos: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()
    doubts: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def refuse(problems: Sequence[Problem], local: bool = True) -> None:
    """Refuse to run if there are problems.

    Args:
        problems: All problems.
        local: Whether the questions are those of --data, which the doctor can look into.

    Raises:
        NoQuestions: If there are any, with a line for each of the first LISTED.
    """
    if problems:
        lines = [str(problem) for problem in problems[:LISTED]]
        if len(problems) > LISTED:
            lines.append(f"and {len(problems) - LISTED} more")
        if local:
            lines.append(f"{PROGRAM} doctor, with that --data, says more")
        raise NoQuestions("\n".join(lines))


# ---- files


def files_of(benchmark: Benchmark, task: str, data: Path) -> list[str]:
    """Return a local task's files of questions.

    Args:
        benchmark: The benchmark.
        task: lmms-eval's task.
        data: Directory of the local copy.

    Raises:
        FileNotFoundError: If there are none.
    """
    (files,) = benchmark.local(task, data)["dataset_kwargs"]["data_files"].values()
    return [files] if isinstance(files, str) else files


def look_into(benchmark: Benchmark, task: str, data: Path) -> Questions:
    """Check the questions in a local task's files before lmms-eval reads them.

    Args:
        benchmark: The benchmark.
        task: lmms-eval's task.
        data: Directory of the local copy.

    Returns:
        The questions with their problems. Parquet files are not read here and count as 0 questions.
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
    """Recognise a git-lfs pointer or a web page in the place of a data file.

    Args:
        head: The first HEAD bytes of the file.

    Returns:
        A clause that says what the file is and what to do, or "".
    """
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` where it was cloned"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, probably an error of the download: download it again"
    return ""


def _read(file: Path) -> list[Any]:
    """Return the questions of a JSON file, which is a list of objects or has an object in each line.

    Of a parquet file only the first bytes are checked, and no questions are returned. Raises ValueError, which says
    what is wrong with the file. Some of these files would crash the reader that lmms-eval uses.
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


# ---- lmms-eval's own code


@dataclass(frozen=True)
class _Trial:
    """What came of asking and scoring one question with made-up answers. At most one of problem and doubt is set."""

    video: Path | None = None
    prompt: str | None = None
    logged: dict[str, Any] | None = None
    problem: str = ""
    doubt: str = ""


def _try(benchmark: Benchmark, task: Any, name: str, doc: Any) -> _Trial:
    """Ask and score one question as a run does, with made-up answers."""
    if cause := malformed(benchmark, doc):
        return _Trial(problem=cause)
    video = prompt = None
    try:
        with suppress(SystemExit):  # lmms-eval's tasks exit where a video of the hub is missing
            (file,) = task.doc_to_visual(doc)
            video = Path(file)
        prompt = task.doc_to_text(doc)
        if cause := benchmark.complaint(doc):
            return _Trial(video, prompt, problem=cause)
        task.doc_to_target(doc)
        _scored(task, doc, NO_ANSWER)
        target = benchmark.target(_scored(task, doc, "A"))
        logged = _scored(task, doc, target)
        right = benchmark.score(logged)
        benchmark.readings(logged)
        benchmark.category(name, logged)
        own = benchmark.doubt(logged)
    except Exception as error:  # lmms-eval's code on an unexpected question raises errors of any kind
        return _Trial(video, prompt, problem=because(error, doc))
    doubt = check_options(prompt, target)
    if not doubt and not right:
        doubt = f"lmms-eval scores its own right answer {target!r} as wrong"
    return _Trial(video, prompt, logged, doubt=doubt or own)


def check_questions(benchmark: Benchmark, task: Any, name: str, file: str) -> Questions:
    """Ask and score every question of a task as a run does, with made-up answers.

    A question that is asked twice about the same video is only noted. It disturbs no run, and published benchmarks
    have some.

    Args:
        benchmark: The benchmark.
        task: lmms-eval's task object, with its questions loaded.
        name: lmms-eval's name of the task.
        file: Where the questions come from, for messages.

    Returns:
        The task's questions, with all problems, doubts and notes.
    """
    docs = list(task.eval_docs)
    trials = [_try(benchmark, task, name, doc) for doc in docs]
    problems = [(number, trial.problem) for number, trial in enumerate(trials) if trial.problem]
    problems += _unaveraged(benchmark, task, docs, [trial.logged for trial in trials])
    doubts = [(number, trial.doubt) for number, trial in enumerate(trials) if trial.doubt]
    asked = [(trial.video, trial.prompt) for trial in trials if trial.prompt is not None]
    repeated = len(asked) - len(set(asked))
    return Questions(
        name,
        len(docs),
        tuple(dict.fromkeys(trial.video for trial in trials if trial.video is not None)),
        tuple(_problem(name, file, number, cause) for number, cause in problems),
        tuple(_problem(name, file, number, cause) for number, cause in doubts),
        (f"{name}: questions that repeat another about the same video: {repeated}",) if repeated else (),
    )


def _problem(task: str, file: str, number: int, cause: str) -> Problem:
    return Problem(task, "questions", file, f"question {number}: {cause}")


def _unaveraged(
    benchmark: Benchmark, task: Any, docs: Sequence[Any], logged: Sequence[dict[str, Any] | None]
) -> list[tuple[int, str]]:
    """Return the questions, by number, that lmms-eval scores one by one but cannot average, and why."""
    metric = benchmark.metric_of(task)
    average = averaging(task, metric)
    scores = {number: one[metric] for number, one in enumerate(logged) if one is not None}
    if _failure(average, scores.values()) is None:
        return []
    failures = {number: _failure(average, [score]) for number, score in scores.items()}
    return [(number, because(failure, docs[number])) for number, failure in failures.items() if failure]


def require_scorable(benchmark: Benchmark, tasks: Mapping[str, Any], data: Path | None) -> list[Problem]:
    """Check all questions of lmms-eval's tasks.

    Args:
        benchmark: The benchmark.
        tasks: lmms-eval's task objects by name.
        data: Directory of the local copy, None for the hub.

    Returns:
        The doubts, see `Questions`.

    Raises:
        NoQuestions: If a question cannot be asked or scored.
    """
    checked = [
        check_questions(benchmark, task, name, ", ".join(files_of(benchmark, name, data)) if data else "the hub")
        for name, task in tasks.items()
    ]
    refuse([problem for one in checked for problem in one.problems], local=data is not None)
    return [doubt for one in checked for doubt in one.doubts]


def because(error: Exception, doc: Mapping[str, Any]) -> str:
    """Describe an error of lmms-eval's code on a question.

    Args:
        error: The error.
        doc: The question. Fields with a value that appears in the error's message are named.
    """
    said = [f"{field} {short(value)}" for field, value in doc.items() if value and repr(value) in str(error)]
    named = f"its {', '.join(said)}: " if said else ""
    return f"{named}cannot be asked and scored ({type(error).__name__}: {error})"


def _scored(task: Any, doc: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return what lmms-eval logs of an answer."""
    # task.process_results would try five times with pauses.
    return {"doc": doc, "filtered_resps": [answer], **task.config.process_results(doc, [answer])}


def _failure(average: Callable[[list[Any]], Any], scores: Iterable[Any]) -> Exception | None:
    """Return the error that averaging these scores raises, if any."""
    scores = list(scores)
    try:
        if scores:
            average(scores)
    except Exception as error:
        return error
    return None


def check_options(prompt: str, target: str) -> str:
    """Check the options in a prompt, which are lines such as "(A) red" or "A. red".

    A prompt that writes its options in another way passes.

    Args:
        prompt: The text that lmms-eval makes of a question.
        target: The letter of the right option.

    Returns:
        A clause that says what is wrong, or "".
    """
    letters = re.findall(r"^\s*\(?([A-Z])[.):]", prompt, flags=re.MULTILINE)
    if letters and len(letters) < 2:
        return f"it has only the option {letters[0]}"
    if letters and target not in letters:
        return f"its answer {target!r} is none of its options {', '.join(letters)}"
    return ""
