"""Out of memory costs what does not fit, and nothing of what failed is alive when it is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest
import torch

from eval.models.base import EngineBase
from eval.results.sample import Answer, Reading
from eval.run.worker import Question, VideoQuestions, Worker, WorkItem
from vidcom2 import Dense


class Activations:
    """Stands for the tensors of a batch."""


class Engine(EngineBase):
    """Has memory for `fits` questions at a time, and for the videos that are not called large."""

    def __init__(self, fits: int):
        self.fits = fits
        self.begun: list[str] = []  # questions announced
        self.in_memory: list[ref[Activations]] = []
        self.alive: list[int] = []  # of earlier calls' activations, whenever something is begun

    def read(self, video: str) -> str:
        return video

    def check(self, compressor: Any) -> None:
        pass

    def begin(self, seen: Any, *question: Any) -> None:
        self.begun.append(question[0])

    def compute(self, fits: bool) -> None:
        self.alive.append(sum(one() is not None for one in self.in_memory))
        activations = Activations()
        self.in_memory.append(ref(activations))
        try:
            raise KeyError("the context of the error holds tensors too")
        except KeyError:
            if not fits:
                raise torch.OutOfMemoryError("CUDA out of memory") from None

    def see(self, read: str) -> str:
        self.compute("large" not in read)
        return read

    def answer_all(self, asked: Sequence[Any], generation: Any, compressor: Any) -> list[Answer]:
        self.compute(len(asked) <= self.fits)
        reading = Reading("reader", "why", 0, "decord")
        return [Answer(text, text, 1, 1.0, [], {}, reading) for _, text in asked]


@pytest.mark.parametrize(("fits", "error"), [(1, None), (0, "CUDA out of memory")])
def test_one_at_a_time(fits, error):
    engine = Engine(fits)
    worker = Worker(engine, [Dense()], workers=0, timeout=1.0, batch_size=3)  # type: ignore[arg-type]
    item = WorkItem(
        (VideoQuestions("video", tuple(Question(("task", i), f"question {i}", {}, (0,)) for i in range(3))),)
    )
    worker.encode(item)
    assert engine.begun == [f"question {i}" for i in range(3)]
    samples = [sample for _, sample in worker.answers(item)]
    assert [sample.error for sample in samples] == [error] * 3
    assert error or [sample.answer for sample in samples] == [f"question {i}" for i in range(3)]
    assert engine.alive == [0] * 5  # the video, all three questions, and each


def test_what_does_not_fit_when_it_is_seen():
    engine = Engine(2)
    worker = Worker(engine, [Dense()], workers=0, timeout=1.0, batch_size=2)  # type: ignore[arg-type]
    videos = ("large", "small")
    item = WorkItem(tuple(VideoQuestions(video, (Question((video, 0), "question", {}, (0,)),)) for video in videos))
    worker.encode(item)
    assert engine.begun == ["question"]  # of the small one
    assert [sample.error for _, sample in worker.answers(item)] == ["CUDA out of memory", None]
    assert engine.alive == [0] * 3
