"""lmms-eval as a library: its tasks, prompts and scoring around our engine.

With a benchmark's `harness_utils`, the only place that imports lmms_eval, and only inside functions: the import takes
half a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from eval.answers import Answers, Key, Sample
from eval.benchmarks import Benchmark
from eval.engine import Engine, PromptTooLong
from eval.readahead import ReadAhead, ReadNow
from llava.video import VideoError


@contextmanager
def harness_log(file: Path) -> Iterator[None]:
    """Send what lmms-eval reports and its many progress bars to a file; its errors stay on the terminal."""
    from loguru import logger

    terminal = sys.stderr
    logger.remove()
    logger.add(terminal, level="ERROR")
    with file.open("a") as log, redirect_stderr(log):
        logger.add(log, level="INFO")
        try:
            yield
        finally:
            logger.remove()  # all, since lmms-eval sets up its own; also after an exception, which closes the file


def load_tasks(benchmark: Benchmark, names: tuple[str, ...], data: Path | None, model_name: str) -> dict[str, Any]:
    """lmms-eval's task objects by name, with questions and videos from `data` where it is given, else the hub."""
    import lmms_eval
    from lmms_eval.tasks import TaskManager

    declared = Path(lmms_eval.__file__).parent / "tasks" / benchmark.folder
    # Indexing this one folder instead of lmms-eval's two thousand tasks saves ten seconds.
    manager = TaskManager(include_path=str(declared), include_defaults=False, model_name=model_name)
    tasks: dict[str, Any] = {}
    for name in names:
        overrides = benchmark.local(name, data) if data is not None else {}
        (task,) = manager.load_config({"task": name, **overrides}).values()
        if data is not None:
            task.config.doc_to_visual = _local_visual(benchmark, name, data)
        tasks[name] = task
    return tasks


def _local_visual(benchmark: Benchmark, name: str, data: Path) -> Callable[..., list[str]]:
    def doc_to_visual(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> list[str]:
        return [str(benchmark.local_video(name, data, doc))]

    return doc_to_visual


def build_model(
    engine: Engine,
    accelerator: Accelerator,
    settings: Sequence[Answers],
    reader: ReadNow | ReadAhead,
    advance: Callable[[int], None],
) -> Any:
    """An lmms-eval model that answers with `engine`, under several settings at once.

    The first request for a question gets its answers under all of them that have none yet, its video decoded and
    encoded once. Which one lmms-eval is told is the model's `setting`, an index. Every question is reported by
    `advance(how many there are in all)`.
    """
    from lmms_eval.api.model import lmms

    class EngineModel(lmms):
        is_simple = True

        def __init__(self) -> None:
            super().__init__()
            self.accelerator = accelerator
            self.device = engine.device
            self.setting = 0
            self.reported: set[Key] = set()
            self.seen: tuple[str, Any] = ("", None)  # the latest video, and the error where it could not be read

        def __str__(self) -> str:
            chosen = settings[self.setting].compressor
            return f"{engine.identity}|{chosen.spec if chosen else 'none'}"  # for lmms-eval's caches

        __repr__ = __str__

        def generate_until(self, requests: list[Any]) -> Iterator[str]:
            total = len({self._key(request) for request in requests})
            videos = {
                self._key(request): self._video(request)
                for request in requests
                if any(self._key(request) not in answers.samples for answers in settings)
            }
            reader.plan(video for video, _ in groupby(videos.values()))  # several in a row may be about one
            for request in requests:
                key = self._key(request)
                missing = [answers for answers in settings if key not in answers.samples]
                if missing:
                    self._answer(key, request, videos[key], missing)
                if key not in self.reported:  # lmms-eval repeats a request to give every rank as many
                    self.reported.add(key)
                    advance(total)
                yield settings[self.setting].samples[key].answer

        def _key(self, request: Any) -> Key:
            *_, doc_id, task, _ = request.args
            return task, int(doc_id)

        def _video(self, request: Any) -> str:
            _, _, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            if len(visuals) != 1 or not isinstance(visuals[0], str):
                raise TypeError(f"{task} question {doc_id} has {visuals!r} for a video; one file's path is supported")
            return visuals[0]

        def _answer(self, key: Key, request: Any, video: str, missing: list[Answers]) -> None:
            question, generation, *_ = request.args
            if self.seen[0] != video:
                self.seen = ("", None)  # before the next one takes memory
                try:
                    self.seen = (video, engine.see(reader.take(video)))
                except VideoError as error:
                    self.seen = (video, error)
            if isinstance(self.seen[1], VideoError):
                for answers in missing:
                    answers.add(Sample.failed(key, video, self.seen[1]))
                return
            for answers in missing:
                try:
                    answer = engine.answer(self.seen[1], question, generation, answers.compressor)
                except PromptTooLong as error:
                    answers.add(Sample.failed(key, video, error))
                    continue
                answers.add(
                    Sample(
                        *key,
                        video=video,
                        prompt=answer.prompt,
                        answer=answer.text,
                        error=None,
                        frames=answer.frames,
                        duration_s=answer.duration,
                        tokens_before=sum(record.tokens_before for record in answer.records),
                        tokens_after=sum(record.tokens_after for record in answer.records),
                        seconds=answer.seconds,
                        positions=next((record.positions for record in answer.records), None),
                    )
                )

        def clean(self) -> None:
            """Keep the model: lmms-eval would delete it, but it may be asked again."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("tasks scored by likelihood are not supported")

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("multi-round tasks are not supported")

    return EngineModel()


def evaluate(
    model: Any, tasks: dict[str, Any], limit: int | None, settings: Sequence[Answers]
) -> Iterator[tuple[dict[str, Any], list[Sample]] | None]:
    """Run and score all tasks under each setting in turn; on rank 0 (lmms-eval's results, all ranks' samples), on the
    others None."""
    from lmms_eval.evaluator import simple_evaluate

    for model.setting, answers in enumerate(settings):
        results = simple_evaluate(
            model=model, tasks=list(tasks.values()), limit=limit, bootstrap_iters=0, log_samples=True
        )
        samples = list(answers.samples.values())
        if model.world_size > 1:
            gathered: list[Any] = [None] * model.world_size
            torch.distributed.all_gather_object(gathered, samples)
            samples = [sample for part in gathered for sample in part]
        yield (results, samples) if model.rank == 0 else None
