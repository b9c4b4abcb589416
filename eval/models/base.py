"""`Engine`: a loaded model that answers questions about videos, and what the engines of all families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Protocol, TypeAlias

import torch
from transformers import LogitsProcessor

from llava.video import FrameSampling
from vidcom2 import Compressor, ImpossibleBudgets, NotFinite

from ..results.sample import Answer

Question: TypeAlias = "str | tuple[str, ...]"
"""What is asked about a video: a question, or a conversation: questions and answers in turn, a question last."""


def turns(question: Question) -> tuple[str, ...]:
    """Return the turns of a conversation. A question alone is one turn.

    Raises:
        ValueError: The last turn is no question, or an earlier one is empty: prompt templates write nothing for it, or
            take it for the turn that the model writes next.
    """
    said = (question,) if isinstance(question, str) else question
    if len(said) % 2 == 0:
        raise ValueError(f"a conversation of {len(said)} turns does not end with a question")
    if empty := [i + 1 for i, turn in enumerate(said[:-1]) if not turn]:
        raise ValueError(f"turn {empty[0]} of the conversation is empty: leave it out, with its question or answer")
    return said


class Unanswerable(Exception):
    """The model has no answer to this question. It may have one to others."""


class PromptTooLong(Unanswerable):
    """Video and question do not fit the model's context. The question would be cut off."""


class NoNumbers(Unanswerable):
    """The model computes NaN or infinity. The text that it generates means nothing then."""

    SAID = (
        "the model computes NaN or infinity: its weights are damaged, or numbers of --dtype are too small for it, as "
        "float16's may be; try --dtype bfloat16 or float32"
    )

    def __init__(self) -> None:
        super().__init__(self.SAID)


class Engine(Protocol):
    """A loaded model that answers questions about video files.

    A video passes through three steps: `read` (without the model, so that worker processes can do it ahead), `see`
    (the vision tower, once per video), and `answer_all` (once per batch of questions and compressor).

    Attributes:
        model: The model, of a transformers class.
        device: The device of its inputs.
        attention: The LLM's attention implementation in use.
        protocol: How videos are seen and asked about.
    """

    protocol: Any
    model: Any
    device: torch.device
    attention: str

    @property
    def identity(self) -> str:
        """A text that names all that an answer depends on, besides video, question and compressor."""

    @property
    def checkpoint(self) -> str:
        """The checkpoint directory or hub name that was loaded."""

    @property
    def read(self) -> Callable[[str], Any]:
        """A picklable function that decodes a video file and prepares it as far as is possible without the model.

        It raises `llava.video.VideoError` if the file cannot be read.
        """

    def sampled(self, sampling: FrameSampling) -> Engine:
        """Return an engine with the same loaded model that takes other frames.

        Raises:
            ValueError: The protocol cannot have this sampling.
        """

    def check(self, compressor: Compressor) -> None:
        """Try a compressor on the model.

        Raises:
            ValueError: The compressor's settings do not suit the model.
            TypeError: The compressor cannot serve a model of this family.
        """

    def see(self, read: Any) -> Any:
        """Return a video as `answer_all` takes it, any number of times, from what `read` returned."""

    def text(self, tokens: Any) -> str:
        """Return the answer in the tokens that a model has generated so far, int64 [n].

        A streamer among the generation arguments decodes with it. vLLM takes no streamer, and its engine lacks it.
        """

    def begin(self, seen: Any, question: Question, generation: dict[str, Any], compressor: Compressor) -> None:
        """Announce a question that `answer_all` will answer, so that work on it can begin while videos are read."""

    def work(self) -> bool:
        """Do a part of the work on announced questions; return False if there is none, or others do it."""

    def shown_at(self, seen: Any) -> tuple[Sequence[float], int]:
        """Return the seconds at which the frames of a video are shown, and how many the model merges into one."""

    def answer_all(
        self, asked: Sequence[tuple[Any, Question]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """Answer several questions as one batch.

        Args:
            asked: Pairs of a video from `see` and a question without an image slot. Videos may repeat.
            generation: transformers' generate arguments, as lmms-eval's tasks give them. For one question, a streamer
                may be among them.
            compressor: How the videos' tokens are compressed.

        Returns:
            An answer for each question, or the error of a question that has none. Seconds of what is done once per
            video count in full in each of its answers. Seconds of what the batch does together are divided equally.
        """

    def answer(self, seen: Any, question: Question, generation: dict[str, Any], compressor: Compressor) -> Answer:
        """Answer one question. Raises Unanswerable if the model has no answer."""

    def close(self) -> None:
        """Stop what the engine has started. It answers no more."""


class EngineBase:
    """What the engines of all families share; see `Engine`. `_loaded` holds checkpoint, dtype and attention."""

    protocol: Any
    model: Any
    _loaded: tuple[str, str, str]
    answer_all: Callable[..., list[Answer | Unanswerable]]
    text: Callable[[Any], str]
    shown_at: Callable[[Any], tuple[Sequence[float], int]]

    def by_hand(self, compressor: Compressor, seen: Any) -> Compressor:
        """Return a compressor with the budgets that the protocol's `keep` gives the frames of a video.

        It is unchanged if no frame is in a span, or if it drops nothing.

        Args:
            compressor: The compressor.
            seen: The video. `shown_at` tells at which seconds its frames are shown, and how many of them the model
                merges into one.

        Raises:
            ValueError: The method takes no budgets.
        """
        if self.protocol.keep is None or not compressor.drops:
            return compressor
        frames = self.protocol.keep.at(*self.shown_at(seen))
        return compressor.with_budgets(frames) if frames.matched else compressor

    @property
    def identity(self) -> str:
        """See `Engine.identity`."""
        model, dtype, attention = self._loaded
        return "|".join([model, str(self.protocol), dtype, attention])

    @property
    def checkpoint(self) -> str:
        """See `Engine.checkpoint`."""
        return self._loaded[0]

    def close(self) -> None:
        """See `Engine.close`."""

    def begin(self, seen: Any, question: Question, generation: dict[str, Any], compressor: Compressor) -> None:
        """See `Engine.begin`. A model that computes in batches waits for the whole batch."""

    def work(self) -> bool:
        """See `Engine.work`."""
        return False

    def check(self, compressor: Compressor) -> None:
        """See `Engine.check`."""
        compressor.attach(self.model).detach()

    def answer(self, seen: Any, question: Question, generation: dict[str, Any], compressor: Compressor) -> Answer:
        """See `Engine.answer`."""
        (answer,) = self.answer_all([(seen, question)], generation, compressor)
        if isinstance(answer, Unanswerable):
            raise answer
        return answer


def require_kept(engine: Engine, seen: Any, video: str) -> None:
    """Check that the seconds of the protocol's `keep` meet a frame of a video.

    Args:
        engine: The model.
        seen: The video, from `Engine.see`.
        video: Its path, for the message.

    Raises:
        ValueError: They meet none.
    """
    keep = engine.protocol.keep
    if keep is None:
        return
    times, together = engine.shown_at(seen)
    if not keep.at(times, together).matched:
        raise ValueError(
            f"--keep {keep}: none of the {len(times)} frames taken from {video} lies there; they are shown from "
            f"{times[0]:g}s to {times[-1]:g}s: name other seconds, or take more --frames"
        )


def one_by_one(answer_all: Callable[..., list[Answer | Unanswerable]]) -> Callable[..., list[Answer | Unanswerable]]:
    """Decorate an engine's answer_all: answer the questions of a batch one by one where that is needed.

    That is so if the caller keeps seconds of the videos by hand, which gives each video budgets of its own, and if a
    compressor meets NaN or budgets that a video cannot have. A question that meets them by itself has no answer.
    """

    @wraps(answer_all)
    def answered(
        self: Any, asked: Sequence[Any], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        if len(asked) == 1:
            try:
                return answer_all(self, asked, generation, self.by_hand(compressor, asked[0][0]))
            except NotFinite:
                return [NoNumbers()]
            except PromptTooLong as error:
                return [error]
            except ImpossibleBudgets as error:
                return [Unanswerable(str(error))]
        with suppress(NotFinite, ImpossibleBudgets):
            if self.protocol.keep is None or not compressor.drops:
                return answer_all(self, asked, generation, compressor)
        return [answer for one in asked for answer in self.answer_all([one], generation, compressor)]

    return answered


class Numbers(LogitsProcessor):
    """A logits processor that notes which prompts of a batch got NaN or infinite scores. It changes no score.

    Args:
        prompts: Number of prompts in the batch.
    """

    def __init__(self, prompts: int):
        self._prompts = prompts
        self._missing: torch.Tensor | None = None  # bool [prompts], on the model's device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Look at scores [prompts * beams, vocabulary] and return them."""
        missing = ~scores.amax(dim=-1).isfinite().view(self._prompts, -1).all(dim=1)
        self._missing = missing if self._missing is None else self._missing | missing
        return scores

    @property
    def errors(self) -> list[NoNumbers | None]:
        """By prompt: an error if its scores were not finite, else None. Waits for the device."""
        missing = [False] * self._prompts if self._missing is None else self._missing.tolist()
        return [NoNumbers() if one else None for one in missing]


def in_batch(seen: dict[str, float], together: dict[str, float], count: int) -> dict[str, float]:
    """Return the seconds per stage of one answer of a batch.

    Args:
        seen: Seconds of reading and encoding its video.
        together: Seconds of what the batch did together.
        count: Number of answers in the batch.
    """
    return {stage: seconds + together[stage] / count for stage, seconds in seen.items()}


def decoding(generation: dict[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Return how an answer is decoded, from lmms-eval's generation_kwargs, as its wrappers do.

    `until` is dropped, and so are sampling settings if decoding is greedy.

    Args:
        generation: lmms-eval's generation_kwargs.
        max_new_tokens: The default length of an answer.
    """
    arguments = {"max_new_tokens": max_new_tokens, **generation}
    arguments.pop("until", None)
    temperature = arguments.get("temperature") or 0
    arguments["do_sample"] = bool(arguments.get("do_sample", temperature > 0))
    if not arguments["do_sample"]:
        for knob in ("temperature", "top_p", "top_k"):
            arguments.pop(knob, None)
    return arguments


def generate_arguments(generation: dict[str, Any], max_new_tokens: int, numbers: Numbers) -> dict[str, Any]:
    """Return generate() arguments: `decoding`, and a logits processor.

    Args:
        generation: lmms-eval's generation_kwargs.
        max_new_tokens: The default length of an answer.
        numbers: Looks at the logits before the logits processors in `generation` do.
    """
    arguments = decoding(generation, max_new_tokens)
    arguments["logits_processor"] = [numbers, *arguments.get("logits_processor", ())]
    return arguments
