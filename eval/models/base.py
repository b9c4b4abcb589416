"""One question about one video file, through a model: what all models' engines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor

from llava.video import FrameSampling
from vidcom2 import Compressor, NotFinite

from ..results.sample import Answer


class Unanswerable(Exception):
    """A question that the model has no answer to; another one may have."""


class PromptTooLong(Unanswerable):
    """Video and question together do not fit the model, which would cut the question off."""


class NoNumbers(Unanswerable):
    """What the model computes is NaN or infinite, of which any text would be made."""

    SAID = (
        "the model computes NaN or infinity: its weights are damaged, or numbers of --dtype are too small for it, as "
        "float16's may be; try --dtype bfloat16 or float32"
    )

    def __init__(self) -> None:
        super().__init__(self.SAID)


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

    def check(self, compressor: Compressor) -> None:
        """Raise ValueError, TypeError where the compressor cannot serve this model."""

    def see(self, read: Any) -> Any:
        """What was read of a video, as `answer` takes it, any number of times."""

    def answer_all(
        self, asked: Sequence[tuple[Any, str]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """Answers, as one batch and compressed, to pairs of a video from `see` and a question, without image slot.

        Videos may repeat. A question without an answer has its error in the list and costs the others nothing.
        generation: transformers' generate arguments, as lmms-eval's tasks give them. Seconds of what is done once for
        a video count in full in each of its answers; those of what a batch does together are divided equally.
        """

    def answer(self, seen: Any, question: str, generation: dict[str, Any], compressor: Compressor) -> Answer:
        """The same for one question; raises Unanswerable."""


class EngineBase:
    """What the engines of all families do alike; see Engine. _loaded: checkpoint, dtype and attention."""

    protocol: Any
    model: Any
    _loaded: tuple[str, str, str]
    answer_all: Callable[..., list[Answer | Unanswerable]]

    @property
    def identity(self) -> str:
        model, dtype, attention = self._loaded
        return "|".join([model, str(self.protocol), dtype, attention])

    def check(self, compressor: Compressor) -> None:
        compressor.attach(self.model).detach()

    def answer(self, seen: Any, question: str, generation: dict[str, Any], compressor: Compressor) -> Answer:
        (answer,) = self.answer_all([(seen, question)], generation, compressor)
        if isinstance(answer, Unanswerable):
            raise answer
        return answer


def one_by_one(answer_all: Callable[..., list[Answer | Unanswerable]]) -> Callable[..., list[Answer | Unanswerable]]:
    """An engine's answer_all, which then does not fail where a compressor finds a video of a batch to be no numbers."""

    @wraps(answer_all)
    def answered(self: Any, asked: Sequence[Any], *arguments: Any) -> list[Answer | Unanswerable]:
        try:
            return answer_all(self, asked, *arguments)
        except NotFinite:
            if len(asked) == 1:
                return [NoNumbers()]
        return [answer for one in asked for answer in self.answer_all([one], *arguments)]

    return answered


class Numbers(LogitsProcessor):
    """Watches the scores of a batch of `prompts` while answers are generated, and leaves them as they are."""

    def __init__(self, prompts: int):
        self._prompts = prompts
        self._missing: torch.Tensor | None = None  # bool [prompts], on the model's device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: [prompts * beams, vocabulary]."""
        missing = ~scores.amax(dim=-1).isfinite().view(self._prompts, -1).all(dim=1)
        self._missing = missing if self._missing is None else self._missing | missing
        return scores

    @property
    def errors(self) -> list[NoNumbers | None]:
        """Of each prompt, where its scores were no numbers."""
        missing = [False] * self._prompts if self._missing is None else self._missing.tolist()
        return [NoNumbers() if one else None for one in missing]


def in_batch(seen: dict[str, float], together: dict[str, float], count: int) -> dict[str, float]:
    """Seconds per stage of one of `count` answers: of seeing its video, and its part of what they did together."""
    return {stage: seconds + together[stage] / count for stage, seconds in seen.items()}


def generate_arguments(generation: dict[str, Any], max_new_tokens: int, numbers: Numbers) -> dict[str, Any]:
    """lmms-eval's generation_kwargs as its wrappers pass them on: no `until`, no sampling knobs when greedy.

    numbers: looks at the logits before the logits processors of `generation`, if any.
    """
    arguments = {"max_new_tokens": max_new_tokens, **generation}
    arguments["logits_processor"] = [numbers, *arguments.get("logits_processor", ())]
    arguments.pop("until", None)
    temperature = arguments.get("temperature") or 0
    arguments["do_sample"] = bool(arguments.get("do_sample", temperature > 0))
    if not arguments["do_sample"]:
        for knob in ("temperature", "top_p", "top_k"):
            arguments.pop(knob, None)
    return arguments
