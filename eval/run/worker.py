"""A loaded model at work: videos and their questions in, answers under one or several settings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from llava.video import VideoError
from vidcom2 import compressor

from ..models.base import Engine
from ..results.sample import Key, Sample
from .prefetch import ReadAhead, ReadNow


@dataclass(frozen=True)
class Question:
    """text: without image slot. generation: lmms-eval's generation_kwargs. settings: indices of those it has no answer
    under yet."""

    key: Key
    text: str
    generation: dict[str, Any]
    settings: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A video, and all questions about it that wait for an answer."""

    video: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Job:
    """What is read, encoded and answered together: a video, or for a batch as many as give it enough questions."""

    parts: tuple[Part, ...]

    @property
    def questions(self) -> list[Question]:
        return [question for part in self.parts for question in part.questions]

    def __str__(self) -> str:
        return ", ".join(part.video for part in self.parts)

    def batches(self, size: int) -> Iterator[list[Question]]:
        """Up to `size` questions in a row with the same generation arguments."""
        for _, alike in groupby(self.questions, key=lambda question: question.generation):
            questions = list(alike)
            for start in range(0, len(questions), size):
                yield questions[start : start + size]

    def left(self, unanswered: Callable[[Question], tuple[int, ...]]) -> Job:
        """What remains, given the settings that each question still has."""
        parts = [
            Part(part.video, tuple(replace(one, settings=left) for one in part.questions if (left := unanswered(one))))
            for part in self.parts
        ]
        return Job(tuple(part for part in parts if part.questions))

    def apart(self, by_question: bool) -> list[Job]:
        """In single questions, or videos."""
        return [
            Job((Part(part.video, questions),))
            for part in self.parts
            for questions in ([(one,) for one in part.questions] if by_question else [part.questions])
        ]


def jobs_of(parts: Iterable[Part], batch: int) -> list[Job]:
    """Videos in order, until there are questions enough for a batch."""
    jobs: list[Job] = []
    together: list[Part] = []
    for part in parts:
        together.append(part)
        if sum(len(one.questions) for one in together) >= batch:
            jobs.append(Job(tuple(together)))
            together = []
    return jobs + ([Job(tuple(together))] if together else [])


def without_tensors(error: Exception) -> Exception:
    """The error, which would keep everything alive that the functions had that it went through."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Answering:
    """A loaded model, and `workers` processes that read videos ahead for it.

    specs: of the compressors; a setting is an index of it. timeout: seconds for one video. batch: questions that are
    answered together. together: it has a part of the model only, and the others of torch.distributed's group do the
    same things at the same time. Raises ValueError, TypeError for a compressor that cannot serve the model.
    """

    def __init__(
        self,
        engine: Engine,
        specs: Sequence[str],
        workers: int,
        timeout: float,
        batch: int,
        together: bool = False,
    ):
        self.engine, self.batch, self.together = engine, batch, together
        self.compressors = [compressor(spec) for spec in specs]
        for one in self.compressors:
            self.engine.check(one)
        self.reader: ReadNow | ReadAhead = ReadNow(engine.read)
        if workers:
            self.reader = ReadAhead(engine.read, workers, timeout, ahead=workers + batch - 1)
        # Where one of several runs out of memory, the others wait for it: only their end can end that.
        self.excused = () if together else (torch.OutOfMemoryError,)
        self.seen: dict[Key, tuple[str, Any]] = {}  # a question's video and what was seen of it

    def plan(self, job: Job) -> None:
        """It is going to be worked on, after those planned before."""
        self.reader.plan([part.video for part in job.parts])

    def see(self, job: Job) -> None:
        """Read and encode the videos of the job planned next."""
        self.seen.clear()  # before the next ones take memory
        for part in job.parts:
            seen = self._see(part.video)
            self.seen |= {question.key: (part.video, seen) for question in part.questions}

    def answers(self, job: Job) -> Iterator[tuple[int, Sample]]:
        """Of the job that was seen last: (setting, answer or failure), batch by batch."""
        for batch in job.batches(self.batch):
            for setting in sorted({setting for question in batch for setting in question.settings}):
                for sample in self._answer([one for one in batch if setting in one.settings], setting):
                    yield setting, sample

    def _see(self, video: str) -> Any:
        """As the engine's `see` gives it, or what has gone wrong."""
        read: Any = None
        failure: Exception | None = None
        try:
            read = self.reader.take(video)
        except VideoError as error:
            failure = error
        if self.together:  # one that could not read it would leave the others waiting
            everyone: list[Exception | None] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, failure)
            failure = next((one for one in everyone if one is not None), None)
        if failure is not None:
            return failure
        try:
            return self.engine.see(read)
        except self.excused as error:
            return without_tensors(error)

    def _answer(self, batch: Sequence[Question], setting: int) -> Iterator[Sample]:
        asked = []
        for question in batch:
            video, seen = self.seen[question.key]
            if isinstance(seen, Exception):
                yield Sample.failed(question.key, video, seen)
            else:
                asked.append((question, video, seen))
        if not asked:
            return
        generation, compressor = asked[0][0].generation, self.compressors[setting]
        answers: list[Any] = []
        try:
            answers = self.engine.answer_all(
                [(seen, question.text) for question, _, seen in asked], generation, compressor
            )
        except self.excused as error:
            if len(asked) == 1:
                answers = [without_tensors(error)]
        if not answers:  # The memory may do for one at a time; not before the error is gone, which holds the batch's.
            for question, _, _ in asked:
                yield from self._answer([question], setting)
            return
        for (question, video, _), answer in zip(asked, answers, strict=True):
            failed = isinstance(answer, Exception)
            yield Sample.failed(question.key, video, answer) if failed else Sample.made(question.key, video, answer)

    def close(self) -> None:
        self.reader.close()
