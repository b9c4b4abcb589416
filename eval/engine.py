"""One question about one video file, through a model: what all models' engines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from llava.video import FrameSampling, OpenVideo
from llava.video.against_decord import against_decord
from vidcom2 import Compressor, Record


class PromptTooLong(Exception):
    """Video and question together do not fit the model, which would cut the question off."""


@dataclass(frozen=True)
class Reading:
    """How a video was read. reader, why: see llava.video.OpenVideo. decord_differs, decord: see
    llava.video.against_decord.AgainstDecord."""

    reader: str
    why: str
    decord_differs: int | None
    decord: str

    @classmethod
    def of(cls, file: str, video: OpenVideo, choose: Callable[[int, float], list[int]], frames: np.ndarray) -> Reading:
        """Of `frames`, which the opened `video` gave for `choose`."""
        against = against_decord(file, video, choose, frames)
        return cls(video.name, video.why, against.differ, against.why)


@dataclass(frozen=True)
class Answer:
    """text: the raw answer. prompt: what was asked, video as one slot. frames, duration: what was seen of the video.
    records: what the video cost the LLM. seconds: per stage (eval.timing.STAGES). reading: how the video was read."""

    text: str
    prompt: str
    frames: int
    duration: float
    records: list[Record]
    seconds: dict[str, float]
    reading: Reading


class Engine(Protocol):
    """A loaded model that answers questions about video files.

    model: of a transformers class. attention: the implementation in use. identity: names everything that an answer
    depends on besides video, question and compressor.
    """

    model: Any
    device: torch.device
    attention: str

    @property
    def identity(self) -> str: ...

    @property
    def read(self) -> Callable[[str], Any]:
        """Decodes a video file, and prepares it as far as is possible without the model.

        Picklable, for other processes to do it. Raises llava.video.VideoError for one that cannot be read.
        """

    def sampled(self, sampling: FrameSampling) -> Engine:
        """The same loaded model on other frames; ValueError for a sampling that it cannot have."""

    def check(self, compressor: Compressor | None) -> None:
        """Raise ValueError, TypeError where the compressor cannot serve this model."""

    def see(self, read: Any) -> Any:
        """What was read of a video, as `answer` takes it, any number of times."""

    def answer_all(
        self, asked: Sequence[tuple[Any, str]], generation: dict[str, Any], compressor: Compressor | None
    ) -> list[Answer | PromptTooLong]:
        """Answers, as one batch and compressed, to pairs of a video from `see` and a question, without image slot.

        Videos may repeat. A prompt that is too long has its error in the list and costs the others nothing.
        generation: transformers' generate arguments, as lmms-eval's tasks give them. Seconds of what is done once for
        a video count in full in each of its answers; those of what a batch does together are divided equally.
        """

    def answer(self, seen: Any, question: str, generation: dict[str, Any], compressor: Compressor | None) -> Answer:
        """The same for one question; raises PromptTooLong."""


class EngineBase:
    """What the engines of all families do alike; see Engine. _loaded: checkpoint, dtype and attention."""

    protocol: Any
    model: Any
    _loaded: tuple[str, str, str]
    answer_all: Callable[..., list[Answer | PromptTooLong]]

    @property
    def identity(self) -> str:
        model, dtype, attention = self._loaded
        return "|".join([model, str(self.protocol), dtype, attention])

    def check(self, compressor: Compressor | None) -> None:
        if compressor is not None:
            compressor.attach(self.model).detach()

    def answer(self, seen: Any, question: str, generation: dict[str, Any], compressor: Compressor | None) -> Answer:
        (answer,) = self.answer_all([(seen, question)], generation, compressor)
        if isinstance(answer, PromptTooLong):
            raise answer
        return answer


def in_batch(seen: dict[str, float], together: dict[str, float], count: int) -> dict[str, float]:
    """Seconds per stage of one of `count` answers: of seeing its video, and its part of what they did together."""
    return {stage: seconds + together[stage] / count for stage, seconds in seen.items()}


def generate_arguments(generation: dict[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """lmms-eval's generation_kwargs as its wrappers pass them on: no `until`, no sampling knobs when greedy."""
    arguments = {"max_new_tokens": max_new_tokens, **generation}
    arguments.pop("until", None)
    temperature = arguments.get("temperature") or 0
    arguments["do_sample"] = bool(arguments.get("do_sample", temperature > 0))
    if not arguments["do_sample"]:
        for knob in ("temperature", "top_p", "top_k"):
            arguments.pop(knob, None)
    return arguments
