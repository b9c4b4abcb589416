"""A worker is a loaded model that answers: videos and their questions in, answers under each compressor out.

Videos are read and encoded once for all questions about them and all compressors. A *setting* is one of the compressors
of a run, given by its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from llava.video import VideoError
from vidcom2 import Compressor

from ..models.base import Engine
from ..results.sample import Key, Sample
from .prefetch import ReadAhead, ReadNow


@dataclass(frozen=True)
class Question:
    """A question that lacks answers.

    Attributes:
        key: lmms-eval's task and doc_id.
        text: The prompt's text, without a slot for the video.
        generation: lmms-eval's generation_kwargs.
        settings: Indices of the compressors under which it has no answer yet.
    """

    key: Key
    text: str
    generation: dict[str, Any]
    settings: tuple[int, ...]


@dataclass(frozen=True)
class VideoQuestions:
    """A video file and the questions about it that lack answers."""

    video: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class WorkItem:
    """What a worker reads, encodes and answers in one go: one video, or as many as give it questions for a batch."""

    videos: tuple[VideoQuestions, ...]

    @property
    def questions(self) -> list[Question]:
        """The questions about all its videos."""
        return [question for one in self.videos for question in one.questions]

    def __str__(self) -> str:
        return ", ".join(one.video for one in self.videos)

    def batches(self, size: int) -> Iterator[list[Question]]:
        """Yield batches of up to `size` questions, in order, that have the same generation arguments."""
        for _, alike in groupby(self.questions, key=lambda question: question.generation):
            questions = list(alike)
            for start in range(0, len(questions), size):
                yield questions[start : start + size]

    def remaining(self, lacking: Callable[[Question], tuple[int, ...]]) -> WorkItem:
        """Return the item with the settings that `lacking` gives for each question, without what lacks nothing."""
        videos = [
            VideoQuestions(one.video, tuple(replace(q, settings=left) for q in one.questions if (left := lacking(q))))
            for one in self.videos
        ]
        return WorkItem(tuple(one for one in videos if one.questions))

    def split(self, by_question: bool) -> list[WorkItem]:
        """Return an item for each of its questions, or for each of its videos."""
        return [
            WorkItem((VideoQuestions(one.video, questions),))
            for one in self.videos
            for questions in ([(q,) for q in one.questions] if by_question else [one.questions])
        ]


def work_items(videos: Iterable[VideoQuestions], batch_size: int) -> list[WorkItem]:
    """Group videos, in order, until each group has `batch_size` questions or more."""
    items: list[WorkItem] = []
    group: list[VideoQuestions] = []
    for one in videos:
        group.append(one)
        if sum(len(member.questions) for member in group) >= batch_size:
            items.append(WorkItem(tuple(group)))
            group = []
    return items + ([WorkItem(tuple(group))] if group else [])


def without_tensors(error: Exception) -> Exception:
    """Return the error without its traceback, which keeps the tensors of all functions it passed through alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Worker:
    """A loaded model with processes that read videos ahead for it.

    Args:
        engine: The loaded model.
        compressors: What to answer under; a setting is an index into it.
        workers: Number of processes that read videos ahead. 0: videos are read here, without a time limit.
        timeout: Seconds for reading one video.
        batch_size: Questions that are answered together.
        sharded: The model is spread over the processes of torch.distributed's group, which all do the same calls.

    Raises:
        ValueError: A compressor cannot serve the model. TypeError likewise.
    """

    def __init__(
        self,
        engine: Engine,
        compressors: Sequence[Compressor],
        workers: int,
        timeout: float,
        batch_size: int,
        sharded: bool = False,
    ):
        self.engine, self.compressors = engine, tuple(compressors)
        self.batch_size, self.sharded = batch_size, sharded
        for compressor in self.compressors:
            self.engine.check(compressor)
        self.reader: ReadNow | ReadAhead = ReadNow(engine.read)
        if workers:
            self.reader = ReadAhead(engine.read, workers, timeout, ahead=workers + batch_size - 1)
        # If one process of a sharded model runs out of memory, the others wait for it. Only its death frees them.
        self.survives: tuple[type[Exception], ...] = () if sharded else (torch.OutOfMemoryError,)
        self.encoded: dict[Key, tuple[str, Any]] = {}  # each question's video, and the encoded video or an error

    def plan(self, item: WorkItem) -> None:
        """Announce an item that will be worked on, after those planned before."""
        self.reader.plan([one.video for one in item.videos])

    def encode(self, item: WorkItem) -> None:
        """Read and encode the videos of the item planned next."""
        self.encoded.clear()  # before the next ones take memory
        for one in item.videos:
            encoded = self._encode(one.video)
            self.encoded |= {question.key: (one.video, encoded) for question in one.questions}
            if not isinstance(encoded, Exception):
                self._begin(encoded, one.questions)

    def answers(self, item: WorkItem) -> Iterator[tuple[int, Sample]]:
        """Answer the item that was encoded last, batch by batch; yields (setting, answer or failure)."""
        for batch in item.batches(self.batch_size):
            for setting in sorted({setting for question in batch for setting in question.settings}):
                for sample in self._answer([one for one in batch if setting in one.settings], setting):
                    yield setting, sample

    def _begin(self, encoded: Any, questions: Sequence[Question]) -> None:
        """Announce the questions about a video."""
        for question in questions:
            for setting in question.settings:
                self.engine.begin(encoded, question.text, question.generation, self.compressors[setting])

    def _encode(self, video: str) -> Any:
        """Return the video as the engine's `see` gives it, or the error."""
        read: Any = None
        failure: Exception | None = None
        try:
            read = self.reader.take(video, self.engine.work)
        except VideoError as error:
            failure = error
        if self.sharded:  # if one process cannot read the video, none may go on with it
            everyone: list[Exception | None] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, failure)
            failure = next((one for one in everyone if one is not None), None)
        if failure is not None:
            return failure
        try:
            return self.engine.see(read)
        except self.survives as error:
            return without_tensors(error)

    def _answer(self, batch: Sequence[Question], setting: int) -> Iterator[Sample]:
        asked = []
        for question in batch:
            video, encoded = self.encoded[question.key]
            if isinstance(encoded, Exception):
                yield Sample.failed(question.key, video, encoded)
            else:
                asked.append((question, video, encoded))
        if not asked:
            return
        generation, compressor = asked[0][0].generation, self.compressors[setting]
        answers: list[Any] = []
        try:
            answers = self.engine.answer_all(
                [(encoded, question.text) for question, _, encoded in asked], generation, compressor
            )
        except self.survives as error:
            if len(asked) == 1:
                answers = [without_tensors(error)]
        if not answers:
            # Try one question at a time, which needs less memory. Only here is the error gone, which held the batch's.
            for question, _, _ in asked:
                yield from self._answer([question], setting)
            return
        for (question, video, _), answer in zip(asked, answers, strict=True):
            failed = isinstance(answer, Exception)
            yield Sample.failed(question.key, video, answer) if failed else Sample.made(question.key, video, answer)

    def close(self) -> None:
        """Stop the processes that read, and the engine."""
        self.reader.close()
        self.engine.close()
