"""A loaded model at work: videos and their questions in, answers under one or several settings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eval.answers import Key, Sample
from eval.config import RunConfig
from eval.engine import PromptTooLong
from eval.models import Protocol, load_engine
from eval.readahead import ReadAhead, ReadNow
from llava.video import VideoError
from vidcom2 import compressor


@dataclass(frozen=True)
class Question:
    """text: without image slot. generation: lmms-eval's generation_kwargs. settings: indices of those it has no answer
    under yet."""

    key: Key
    text: str
    generation: dict[str, Any]
    settings: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """A video, and all questions about it."""

    video: str
    questions: tuple[Question, ...]


class Answering:
    """A model, loaded here, and processes that read videos ahead for it.

    specs: of the compressors; a setting is an index of it. device: "cpu", "cuda:0" or "auto". With config.zero3 it has
    a part of the model only, and the others of torch.distributed's group must do the same things at the same time.
    Raises what loading the model raises; ValueError, TypeError for a compressor that cannot serve it.
    """

    def __init__(self, config: RunConfig, protocol: Protocol, specs: Sequence[str], device: str):
        self.engine = load_engine(config.model, protocol, device, config.dtype, config.attn, config.zero3)
        self.compressors = [compressor(spec) for spec in specs]
        for one in self.compressors:
            self.engine.check(one)
        self.reader: ReadNow | ReadAhead = (
            ReadAhead(self.engine.read, config.workers, config.timeout) if config.workers else ReadNow(self.engine.read)
        )
        self.together = config.zero3 is not None
        # Where one of several runs out of memory, the others wait for it: only their end can end that.
        self.excused = (PromptTooLong,) if self.together else (PromptTooLong, torch.OutOfMemoryError)
        self.seen: Any = None

    def plan(self, job: Job) -> None:
        """It is going to be worked on, after those planned before."""
        self.reader.plan([job.video])

    def see(self, job: Job) -> None:
        """Read and encode the video of the job planned next."""
        self.seen = None  # before the next one takes memory
        read: Any = None
        try:
            read = self.reader.take(job.video)
        except VideoError as error:
            self.seen = error
        if self.together:  # one that could not read it would leave the others waiting
            everyone = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, self.seen)
            self.seen = next((error for error in everyone if error is not None), None)
        if self.seen is None:
            try:
                self.seen = self.engine.see(read)
            except self.excused as error:
                self.seen = error

    def answers(self, job: Job) -> Iterator[tuple[int, Sample]]:
        """Of the job that was seen last: (setting, answer or failure), question by question."""
        for question in job.questions:
            for setting in question.settings:
                yield setting, self._answer(job.video, question, setting)

    def _answer(self, video: str, question: Question, setting: int) -> Sample:
        if isinstance(self.seen, Exception):
            return Sample.failed(question.key, video, self.seen)
        try:
            answer = self.engine.answer(self.seen, question.text, question.generation, self.compressors[setting])
        except self.excused as error:
            return Sample.failed(question.key, video, error)
        return Sample.made(question.key, video, answer)

    def close(self) -> None:
        self.reader.close()
