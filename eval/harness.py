"""lmms-eval as a library: its tasks, prompts and scoring around our engine.

With a benchmark's `harness_utils`, the only place that imports lmms_eval, and only inside functions: the import takes
half a minute.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator

from eval.benchmarks import Benchmark
from eval.engine import Engine, PromptTooLong
from llava.video import VideoError

# Stands for the answer to a video that could not be read. No option letter can be parsed from it, and it is not
# empty, because lmms-eval's MVBench drops empty answers from the denominator.
NO_ANSWER = "unreadable_video"


@dataclass(frozen=True)
class Sample:
    """What our side knows of one question; lmms-eval's side is joined by (task, doc_id)."""

    task: str
    doc_id: int
    video: str
    prompt: str | None
    answer: str
    error: str | None
    frames: int
    duration_s: float
    tokens_before: int
    tokens_after: float
    seconds: dict[str, float]
    positions: str | None = None  # of the kept tokens: "original" or "repack"


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


def build_model(engine: Engine, accelerator: Accelerator, answers: TextIO, advance: Callable[[int], None]) -> Any:
    """An lmms-eval model that answers with `engine`.

    Every answer is at once appended to `answers` as a JSON line, so that a crash loses none, and reported by
    `advance(how many there are in all)`. The model's `samples` holds them all afterwards.
    """
    from lmms_eval.api.model import lmms

    class EngineModel(lmms):
        is_simple = True

        def __init__(self) -> None:
            super().__init__()
            self.accelerator = accelerator
            self.device = engine.device
            self.samples: dict[tuple[str, int], Sample] = {}

        def __str__(self) -> str:
            return engine.identity  # lmms-eval's caches take this for the model's identity

        __repr__ = __str__

        def generate_until(self, requests: list[Any]) -> Iterator[str]:
            total = len({(request.args[4], request.args[3]) for request in requests})
            for request in requests:
                question, generation, doc_to_visual, doc_id, task, split = request.args
                key = (task, int(doc_id))
                if key not in self.samples:  # lmms-eval repeats a request to give every rank as many
                    doc = self.task_dict[task][split][doc_id]
                    self.samples[key] = self._answer(key, question, generation, doc_to_visual(doc))
                    answers.write(json.dumps(asdict(self.samples[key])) + "\n")
                    answers.flush()
                    advance(total)
                yield self.samples[key].answer

        def _answer(
            self, key: tuple[str, int], question: str, generation: dict[str, Any], visuals: list[Any]
        ) -> Sample:
            if len(visuals) != 1 or not isinstance(visuals[0], str):
                raise TypeError(f"{key[0]} question {key[1]} has {visuals!r} for a video; one file's path is supported")
            try:
                answer = engine.answer(visuals[0], question, generation)
            except (VideoError, PromptTooLong) as error:
                return Sample(*key, visuals[0], None, NO_ANSWER, str(error), 0, 0.0, 0, 0, {})
            return Sample(
                *key,
                video=visuals[0],
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

        def clean(self) -> None:
            """Keep the model: lmms-eval would delete it, but it may be asked again."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("tasks scored by likelihood are not supported")

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("multi-round tasks are not supported")

    return EngineModel()


def evaluate(model: Any, tasks: dict[str, Any], limit: int | None) -> tuple[dict[str, Any], list[Sample]] | None:
    """Run and score all tasks; on rank 0 (lmms-eval's results, all ranks' samples), on the others None."""
    from lmms_eval.evaluator import simple_evaluate

    results = simple_evaluate(model=model, tasks=list(tasks.values()), limit=limit, bootstrap_iters=0, log_samples=True)
    samples = list(model.samples.values())
    if model.world_size > 1:
        gathered: list[Any] = [None] * model.world_size
        torch.distributed.all_gather_object(gathered, samples)
        samples = [sample for part in gathered for sample in part]
    return (results, samples) if model.rank == 0 else None
