"""lmms-eval as a library: its tasks, prompts and scoring around our answers.

With a benchmark's `harness_utils`, the only place that imports lmms_eval, and only inside functions: the import takes
half a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from llava.video import VideoError

from ..benchmarks import Benchmark
from ..results.sample import Key, Sample
from ..results.terminal import PROGRAM
from .questions import NoQuestions, look_into, refuse
from .store import Answers
from .worker import Part, Question


@contextmanager
def harness_log(file: Path) -> Iterator[None]:
    """Send what lmms-eval reports and its many progress bars to a file; its errors stay on the terminal."""
    from loguru import logger

    terminal = sys.stderr
    logger.remove()
    logger.add(terminal, level="ERROR")
    with file.open("a", encoding="utf-8") as log, redirect_stderr(log):
        logger.add(log, level="INFO")
        try:
            yield
        finally:
            logger.remove()  # all, since lmms-eval sets up its own; also after an exception, which closes the file


def load_tasks(benchmark: Benchmark, names: tuple[str, ...], data: Path | None, model_name: str) -> dict[str, Any]:
    """lmms-eval's task objects by name, with questions and videos from `data` where it is given, else the hub.

    Raises NoQuestions where they cannot be loaded, or local ones cannot be asked.
    """
    if data is not None:
        refuse([problem for name in names for problem in look_into(benchmark, name, data).problems])
    import lmms_eval
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    declared = Path(lmms_eval.__file__).parent / "tasks" / benchmark.folder
    # Indexing this one folder instead of lmms-eval's two thousand tasks saves ten seconds.
    manager = TaskManager(include_path=str(declared), include_defaults=False, model_name=model_name)
    tasks: dict[str, Any] = {}
    for name in names:
        if data is not None:
            overrides = benchmark.local(name, data)
        else:  # the tasks ask for the user's token, and without one fail on public data, too
            declaration = load_yaml_config(manager.task_index[name]["yaml_path"], mode="simple")
            overrides = {"dataset_kwargs": {**declaration["dataset_kwargs"], "token": None}}
        try:  # lmms-eval also asks the first question here, which shows those of another benchmark
            (task,) = manager.load_config({"task": name, **overrides}).values()
        except Exception as error:  # datasets has many kinds for a bad file, and lmms-eval wraps them in its retries'
            more = "--data takes a local copy" if data is None else f"{PROGRAM} doctor, with that --data, says more"
            raise NoQuestions(f"{name}: no questions from {data or 'the hub'} ({root_cause(error)}); {more}") from error
        if data is not None:
            task.config.doc_to_visual = _local_visual(benchmark, name, data)
        tasks[name] = task
    return tasks


def root_cause(error: BaseException) -> str:
    """What an exception comes from in the end."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _local_visual(benchmark: Benchmark, name: str, data: Path) -> Callable[..., list[str]]:
    def doc_to_visual(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> list[str]:
        return [str(benchmark.local_video(name, data, doc))]

    return doc_to_visual


def asked(root: Path, task: str, video: str, text: str, generation: dict[str, Any], target: Any) -> str:
    """A digest of a question: the same where the same is asked, whatever the question's number.

    Of the video, its path below `root` counts, and how many bytes it has.
    """
    size = os.path.getsize(video) if os.path.exists(video) else None
    told = [task, os.path.relpath(video, root), size, text, generation, target]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def build_model(
    settings: Sequence[Answers], answer: Callable[[list[Part]], None], tasks: dict[str, Any], root: Path
) -> Any:
    """An lmms-eval model whose answers come from elsewhere, under several settings.

    When it is first asked, it has everything answered that any of the settings lacks, by `answer`, which adds to them
    all. Which setting lmms-eval is told is the model's `setting`, an index. No model is loaded in this process: here
    lmms-eval prepares the questions and scores. tasks: lmms-eval's, by name. root: the directory of all videos.
    """
    from lmms_eval.api.model import lmms

    class AnsweredElsewhere(lmms):
        is_simple = True

        def __init__(self) -> None:
            super().__init__()
            self.accelerator = None  # lmms-eval would make one, and that takes memory of a GPU
            self.device = torch.device("cpu")
            self.setting = 0

        def generate_until(self, requests: list[Any]) -> list[str]:
            if self.setting == 0:
                answer(self._parts(requests))
            samples = settings[self.setting].samples
            return [samples[self._key(request)].answer for request in requests]

        def _parts(self, requests: list[Any]) -> list[Part]:
            """What has no answer yet, video by video."""
            by_video: dict[str, dict[Key, Question]] = {}
            for request in requests:
                text, generation, *_ = request.args
                key = self._key(request)
                failure: VideoError | None = None
                try:
                    video = self._video(request)
                except VideoError as error:
                    failure, video = error, error.path
                target = tasks[key[0]].doc_to_target(self._doc(request))
                digest = asked(root, key[0], video, text, generation, target)
                missing = tuple(i for i, answers in enumerate(settings) if not answers.ask(key, digest, video))
                if failure is not None:
                    for i in missing:
                        settings[i].add(Sample.failed(key, video, failure))
                elif missing:
                    by_video.setdefault(video, {})[key] = Question(key, text, generation, missing)
            return [Part(video, tuple(questions.values())) for video, questions in by_video.items()]

        def _key(self, request: Any) -> Key:
            *_, doc_id, task, _ = request.args
            return task, int(doc_id)

        def _doc(self, request: Any) -> dict[str, Any]:
            *_, doc_id, task, split = request.args
            return self.task_dict[task][split][doc_id]

        def _video(self, request: Any) -> str:
            _, _, doc_to_visual, doc_id, task, _ = request.args
            try:
                visuals = doc_to_visual(self._doc(request))
            except SystemExit as exit:  # how lmms-eval's tasks say that a file of the hub's is not there
                raise VideoError(f"{task} question {doc_id}", f"lmms-eval finds no video ({exit})") from exit
            if len(visuals) != 1 or not isinstance(visuals[0], str):
                raise TypeError(f"{task} question {doc_id} has {visuals!r} for a video; one file's path is supported")
            return visuals[0]

        def clean(self) -> None:
            """There is nothing to clean up."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("tasks scored by likelihood are not supported")

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("multi-round tasks are not supported")

    return AnsweredElsewhere()


def evaluate(
    model: Any, tasks: dict[str, Any], limit: int | None, settings: Sequence[Answers]
) -> Iterator[dict[str, Any]]:
    """Have all tasks answered, and score them under each setting in turn; lmms-eval's results."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)  # else it indexes two thousand tasks, each time
    for model.setting, _ in enumerate(settings):
        yield simple_evaluate(
            model=model,
            tasks=list(tasks.values()),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            task_manager=manager,
        )
