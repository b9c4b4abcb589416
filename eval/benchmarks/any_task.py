"""Any multiple-choice task of lmms-eval about single videos, by its name: its own questions, prompts and scores."""

from __future__ import annotations

import inspect
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import Benchmark, Kind
from .declared import declaration, leaves, sources, task_folder

PREFIX = "lmms_eval/"
"""What the name of such a benchmark begins with. It is a directory in the default --output."""
OURS = "vidcom2"
"""Under this name, a logged sample has what `AnyTask` found out when the task scored it."""
LONGEST = 100
"""Characters of the longest name that lists its tasks."""


class AnyTask(Benchmark):
    """Tasks of lmms-eval that no other benchmark here has.

    Nothing is known of such a task but what its own code does. A question counts as right where the task's own average
    of this one answer is that of the right answer.

    Args:
        files: The files that declare the tasks, by the tasks' names.
        called: What the user called them.
    """

    layout: ClassVar[str] = ""
    metric: ClassVar[str] = ""
    overall: ClassVar[Literal["macro", "micro"]] = "micro"
    fields: ClassVar[dict[str, Kind]] = {}

    def __init__(self, files: Mapping[str, Path], called: str) -> None:
        self.files, self.tasks = dict(files), tuple(files)
        self.name = PREFIX + called.replace("/", "_")
        self.folder = ""

    @classmethod
    def named(cls, names: Sequence[str]) -> AnyTask | None:
        """Return the tasks of these names. A name is a task or a group of lmms-eval, or the path of a task file.

        Returns:
            None if there is no task of one of the names.

        Raises:
            ValueError: A task file cannot be read, or names no task, or two files declare one task.
        """
        files: dict[str, Path] = {}
        for name in names:
            found = _own(Path(name)) if is_file_name(name) else leaves(name)
            if not found:
                return None
            for task, file in found.items():
                if files.setdefault(task, file) != file:
                    raise ValueError(f"--tasks: {files[task]} and {file} both declare the task {task}: rename one")
        names = list(dict.fromkeys(names))
        called = "+".join(Path(name).stem for name in names)
        return (
            cls(files, called if len(called) <= LONGEST else f"{Path(names[0]).stem}+{len(names) - 1}")
            if files
            else None
        )

    def own_sources(self) -> list[Path]:
        """Return the files that the user's task files rest on. Those of lmms-eval are known by its version."""
        folder = task_folder()
        own = (file for file in self.files.values() if folder is None or folder not in file.parents)
        return [path for file in own for path in sources(file)]

    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Refuse: only a benchmark with a file here knows the layout of a local copy."""
        raise ValueError(
            f"--data {data} has no meaning for {task}, which is known by its name only: lmms-eval's own folder of its "
            f"videos is below HF_HOME. For questions of your own, write a task file that includes {self.files[task]} "
            "and has your data_files, and give --tasks its path"
        )

    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Refuse, as `local`."""
        raise NotImplementedError(f"{task} has no local copy")

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Let the task's scoring tell what the methods below return."""
        task.config.process_results = _Scorer(task, self.metric_of(task))
        return task

    def metric_of(self, task: Any) -> str:
        """Return the first of the task's metrics."""
        return next(iter(task.aggregation()))

    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the task."""
        return task

    def score(self, sample: dict[str, Any]) -> float:
        """Return the task's average of this one answer, as a share of that of the right answer."""
        return sample[OURS]["score"]

    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the right option if the answer is right, else the answer itself: not all tasks tell what they read."""
        return self.target(sample) if self.score(sample) == 1 else sample["filtered_resps"][0].strip() or None

    def target(self, sample: dict[str, Any]) -> str:
        """Return an answer that the task scores as right."""
        return sample[OURS]["target"]


def is_file_name(name: str) -> bool:
    """Return whether --tasks means a task file by this, and not the name of a task."""
    return name.endswith((".yaml", ".yml"))


def _own(file: Path) -> dict[str, Path]:
    """Return the task of a task file of the user's.

    Raises:
        ValueError: The file is missing, or names no task.
    """
    if not file.is_file():
        raise ValueError(f"--tasks {file} is no file: give the path of a task file of lmms-eval, or a task's name")
    name = declaration(file).get("task")
    if not isinstance(name, str):
        raise ValueError(f"--tasks {file} declares no task: it must say `task: NAME`")
    return {name: file.absolute()}


def averaging(task: Any, metric: str) -> Callable[[list[Any]], Any]:
    """Return a task's function from the values of its questions to its score."""
    average = task.aggregation()[metric]
    if "args" in inspect.signature(average).parameters:
        return partial(average, args=None)  # lmms-eval's command line, which no benchmark here reads
    return average


@contextmanager
def same_guesses() -> Iterator[None]:
    """Leave Python's random numbers as they were: scorers that guess draw from them."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


class _Scorer:
    """A task's process_results that also says, under OURS, whether the answer is right, and what would be.

    Args:
        task: lmms-eval's task.
        metric: The metric that counts.
    """

    def __init__(self, task: Any, metric: str) -> None:
        self.metric, self.average, self.target = metric, averaging(task, metric), task.doc_to_target
        self.score = task.config.process_results
        if self.score is None:  # the task is scored by a metric of lmms-eval's, such as exact_match
            plain = copy(task)
            plain._config = copy(task.config)  # task.config is about to get this scorer
            self.score = partial(inspect.unwrap(type(task).process_results), plain)

    def __call__(self, doc: dict[str, Any], results: list[str], **more: Any) -> dict[str, Any]:
        """Score an answer. Raises ValueError for a question that no answer is right for."""
        scored = self.score(doc, results, **more)
        with same_guesses():
            right, best = self._right(doc)
            return {**scored, OURS: {"score": self._alone(scored) / best, "target": right}}

    def _alone(self, scored: Mapping[str, Any]) -> float:
        """Return the task's score if this were its only question."""
        if self.metric not in scored:
            raise ValueError(f"it has no {self.metric}, only {', '.join(scored)}")
        value = self.average([scored[self.metric]])
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"its {self.metric} is {value!r}, no number")
        return float(value)

    def _right(self, doc: dict[str, Any]) -> tuple[str, float]:
        """Return an answer that scores, and its score: the target if it does, else a letter, else yes or no."""
        target = self.target(doc)
        likely = [target] if isinstance(target, str) else []
        if isinstance(target, int) and 0 <= target < 26:
            likely.append(string.ascii_uppercase[target])
        for answer in (*likely, *string.ascii_uppercase, "yes", "no"):
            if (alone := self._alone(self.score(doc, [answer]))) > 0:
                return answer, alone
        raise ValueError(f"lmms-eval scores no letter, nor {target!r}, as right")
