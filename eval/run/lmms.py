"""lmms-eval as a library: its tasks, prompts and scoring around our answers.

Besides a benchmark's `harness_utils`, this is the only place that imports lmms_eval. It does so inside functions,
because the import takes up to half a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from llava.video import VideoError

from ..benchmarks import AnyTask, Benchmark
from ..models.environment import prepare_hub
from ..results.sample import Key, Sample
from ..results.terminal import PROGRAM
from .questions import NoQuestions, look_into, refuse
from .store import Answers
from .supported import require_supported, video_of
from .worker import Question, VideoQuestions


@contextmanager
def harness_log(file: Path) -> Iterator[None]:
    """Send lmms-eval's reports and progress bars to a file while the block runs. Its errors stay on the terminal."""
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
    """Load lmms-eval's tasks.

    Args:
        benchmark: The benchmark that they belong to.
        names: lmms-eval's names of the tasks.
        data: Local copy of the benchmark, for questions and videos. None: from the hub.
        model_name: lmms-eval's name of the model's wrapper. A task may have a prompt of its own for it.

    Returns:
        lmms-eval's task objects by name.

    Raises:
        NoQuestions: The questions cannot be loaded, or local ones cannot be asked.
    """
    if data is not None:
        refuse([problem for name in names for problem in look_into(benchmark, name, data).problems])
    declared = _declared(benchmark, names)
    tasks: dict[str, Any] = {}
    for name in names:
        try:  # lmms-eval asks the first question here, so questions of another benchmark fail
            tasks[name] = _loaded(declared[name], benchmark.local(name, data) if data else None, name, model_name)
        except Exception as error:  # datasets raises many kinds, and lmms-eval's retries wrap them
            more = "--data takes a local copy" if data is None else f"{PROGRAM} doctor, with that --data, says more"
            if isinstance(benchmark, AnyTask):
                more = f"{benchmark.files[name]} declares them, and lmms-eval looks for data below HF_HOME"
            raise NoQuestions(f"{name}: no questions from {data or 'the hub'} ({root_cause(error)}); {more}") from error
    for name, task in tasks.items():
        if data is not None:
            task.config.doc_to_visual = _local_visual(benchmark, name, data)
        if isinstance(benchmark, AnyTask):
            require_supported(name, task)
        task = tasks[name] = benchmark.adjusted(name, task, data)
        if task.config.process_results is not None:
            task.config.process_results = GuessesAlone(task.config.process_results)
    return tasks


def _declared(benchmark: Benchmark, names: Sequence[str]) -> dict[str, Path]:
    """Return the files that declare some tasks of a benchmark."""
    if isinstance(benchmark, AnyTask):
        return benchmark.files
    import lmms_eval
    from lmms_eval.tasks import TaskManager

    # Only this folder is indexed. All of lmms-eval's two thousand tasks would take ten seconds.
    folder = Path(lmms_eval.__file__).parent / "tasks" / benchmark.folder
    index = TaskManager(include_path=str(folder), include_defaults=False).task_index
    return {name: Path(index[name]["yaml_path"]) for name in names}


def _loaded(declared: Path, local: dict[str, Any] | None, name: str, model_name: str) -> Any:
    """Load a task.

    Args:
        declared: The file that declares it.
        local: Its settings that differ, for a local copy. None: as declared.
        name: lmms-eval's name of it.
        model_name: lmms-eval's name of the model's wrapper.
    """
    import_module("lmms_eval.api.metrics")  # it registers lmms-eval's averages, such as mean
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.utils import load_yaml_config

    prepare_hub()  # some of the tasks' modules fail without HF_HOME
    settings = load_yaml_config(str(declared), mode="full")
    if "class" in settings:
        raise ValueError("it is a class of its own, and only tasks that a task file describes are supported")
    if local is None and "token" in settings.get("dataset_kwargs", {}):
        # the tasks demand the user's token, without which they fail even on public data
        local = {"dataset_kwargs": {**settings["dataset_kwargs"], "token": None}}
    return ConfigurableTask(config={**settings, "task": name, **(local or {})}, model_name=model_name)


class GuessesAlone:
    """A task's process_results with random numbers of its own.

    Some scorers guess where they read no option. Their guesses are those of a process that scores nothing else.

    Args:
        score: The task's process_results.
    """

    def __init__(self, score: Callable[..., dict[str, Any]]) -> None:
        self._score = score
        self.begin()

    def begin(self) -> None:
        """Start as lmms-eval does: from seed 0."""
        self._state = random.Random(0).getstate()

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Score an answer."""
        others = random.getstate()
        random.setstate(self._state)
        try:
            return self._score(*args, **kwargs)
        finally:
            self._state = random.getstate()
            random.setstate(others)


def root_cause(error: BaseException) -> str:
    """Return the first of the exceptions that led to this one, as text."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _local_visual(benchmark: Benchmark, name: str, data: Path) -> Callable[..., list[str]]:
    """Return a task's `doc_to_visual` that finds videos below `data`."""

    def doc_to_visual(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> list[str]:
        return [str(benchmark.local_video(name, data, doc))]

    return doc_to_visual


def question_digest(root: Path, task: str, video: str, text: str, generation: dict[str, Any], target: Any) -> str:
    """Return a digest that is the same for the same question, whatever its number (doc_id) is.

    Args:
        root: Directory of all videos. A video counts by its path below it and by its size.
        task: lmms-eval's name of the task.
        video: Path of the video.
        text: The prompt.
        generation: The generation arguments.
        target: The right answer.
    """
    size = os.path.getsize(video) if os.path.exists(video) else None
    content = [task, os.path.relpath(video, root), size, text, generation, target]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def stand_in(
    answers: Sequence[Answers],
    answer: Callable[[list[VideoQuestions]], None],
    tasks: Mapping[str, Any],
    root: Path,
) -> Any:
    """Return a model for lmms-eval that loads nothing: its answers come from our workers.

    Args:
        answers: The answers of each setting (compressor).
        answer: Called once, with the questions that lack an answer under any setting. It adds to `answers`.
        tasks: lmms-eval's tasks by name.
        root: Directory of all videos.
    """
    from lmms_eval.api.model import lmms

    model = type("StandIn", (_StandIn, lmms), {})()
    model.answers, model.answer, model.tasks, model.root = answers, answer, tasks, root
    return model


class _StandIn:
    """The methods of lmms-eval's model interface (`lmms_eval.api.model.lmms`) that its tasks call.

    Attributes:
        setting: Index of the compressor whose answers lmms-eval gets.
    """

    is_simple = True
    answers: Sequence[Answers]
    answer: Callable[[list[VideoQuestions]], None]
    tasks: Mapping[str, Any]
    root: Path
    task_dict: Any  # set by lmms-eval: questions by task and split

    def __init__(self) -> None:
        super().__init__()
        self.accelerator = None  # lmms-eval would make one, which takes memory of a GPU
        self.device = torch.device("cpu")
        self.setting = 0

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the answers to lmms-eval's requests. The first call has them made, for all settings."""
        if self.setting == 0:
            self.answer(self._unanswered(requests))
        samples = self.answers[self.setting].samples
        return [samples[self._key(request)].answer for request in requests]

    def _unanswered(self, requests: list[Any]) -> list[VideoQuestions]:
        """Return what has no answer yet, video by video. A video that is not there fails its questions at once."""
        by_video: dict[str, dict[Key, Question]] = {}
        for request in requests:
            text, generation, *_ = request.args
            key = self._key(request)
            failure: VideoError | None = None
            try:
                video = self._video(request)
            except VideoError as error:
                failure, video = error, error.path
            target = self.tasks[key[0]].doc_to_target(self._doc(request))
            digest = question_digest(self.root, key[0], video, text, generation, target)
            lacking = tuple(i for i, own in enumerate(self.answers) if not own.ask(key, digest, video))
            if failure is not None:
                for i in lacking:
                    self.answers[i].add(Sample.failed(key, video, failure))
            elif lacking:
                by_video.setdefault(video, {})[key] = Question(key, text, generation, lacking)
        return [VideoQuestions(video, tuple(questions.values())) for video, questions in by_video.items()]

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
        except SystemExit as exit:  # lmms-eval's tasks exit if a file from the hub is not there
            raise VideoError(f"{task} question {doc_id}", f"lmms-eval finds no video ({exit})") from exit
        if visuals == []:  # some of lmms-eval's tasks would ask without the video then
            raise VideoError(f"{task} question {doc_id}", "lmms-eval finds no video")
        return video_of(visuals, f"{task} question {doc_id}")

    def clean(self) -> None:
        """Do nothing: no model is loaded here."""

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse tasks that are scored by likelihood."""
        raise NotImplementedError("tasks scored by likelihood are not supported")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse tasks of several rounds."""
        raise NotImplementedError("multi-round tasks are not supported")


def score(
    model: Any, tasks: Mapping[str, Any], limit: int | None, answers: Sequence[Answers]
) -> Iterator[dict[str, Any]]:
    """Have all tasks answered, and score them under each setting in turn.

    Args:
        model: From `stand_in`.
        tasks: lmms-eval's tasks by name.
        limit: Questions per task. None for all.
        answers: The answers of each setting.

    Yields:
        What lmms-eval's `simple_evaluate` returns.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)  # else each call indexes two thousand tasks
    for model.setting, _ in enumerate(answers):
        for task in tasks.values():
            if isinstance(task.config.process_results, GuessesAlone):
                task.config.process_results.begin()
        yield simple_evaluate(
            model=model,
            tasks=list(tasks.values()),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            task_manager=manager,
            process_docs_parallel=1,  # else scorers that guess do so in the order of threads
        )
