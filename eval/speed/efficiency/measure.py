"""Measure time and memory from video file to answer, under several compressors that take turns."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from llava.video import FrameSampling
from vidcom2 import Compressor, Kept, compressor

from ...demo.encode import write_video
from ...demo.world import UNITS, draw_scene, render
from ...models.base import Engine
from ...models.timing import Moment, moment, seconds_between
from ...results.sample import Answer
from ..memory import peak_bytes

STEPS = ("decode", "preprocess", "vision", "assemble", "compress", "prefill", "tokens")
"""The steps of an answer, in order of time. DEFINITIONS says what they are."""
LLM = ("prefill", "tokens")
SPANS: dict[str, tuple[str, ...]] = {
    "first token": STEPS[:-1],
    "LLM generation": LLM,
    "model generation": ("vision", "assemble", "compress", *LLM),
}
"""Sums of steps that are reported, by name."""
DEFINITIONS = {
    "decode": "Reading the frames from the video file.",
    "preprocess": "Resizing and normalising the frames for the vision tower.",
    "vision": "Vision tower and projector.",
    "assemble": "Pooling, gathering the kept tokens, separators, splicing the visual tokens into the text, and what "
    "generate() does before it calls the LLM.",
    "compress": "The compressor's selection before the LLM. Methods inside the LLM have no such step: they rank and "
    "drop tokens during prefill.",
    "prefill": "The LLM's first forward pass, with its head. It gives the first token.",
    "tokens": "All later tokens. Their number is fixed: answers do not end early.",
    "first token": "Time to first token: all steps from decode to prefill.",
    "LLM generation": "prefill + tokens.",
    "model generation": "vision + assemble + compress + LLM generation.",
    "total": "Wall clock time from file to text: all steps, and what happens between them, such as tokenising and "
    "attaching the compressor to the model.",
    "throughput": "Samples per second: the number of rounds divided by the sum of their totals. There is one sample at "
    "a time, and nothing overlaps.",
    "peak memory": "The most memory that torch had allocated on the device between frames and text, with the weights. "
    "It is measured in a separate round that is not timed.",
    "visual tokens": "The number of visual tokens that the LLM sees, with separators. For methods inside the LLM, the "
    "mean over its layers.",
    "against dense": "Median over the rounds of (time / time of dense in the same round at the same frames) - 1.",
    "growth": "log(ratio of medians) / log(ratio of frames). 1 is linear, 2 is quadratic.",
    "clock": "Wall clock until the device is done. On a GPU, CUDA events time all steps but decode and the part of "
    "preprocess that runs on the CPU. A step ends when the work that it launched is done; the host launches ahead.",
}
"""What the names in tables, figures and JSON files mean."""
FPS = 8
FRAMES_OF_SCENE = 2 * UNITS
"""Frames for which a scene of the made video lasts."""
ZOOM = 6
"""The made video has 432x432 pixels: scenes have 72x72, and each pixel becomes 6x6."""


@dataclass(frozen=True)
class Setting:
    """One setting to measure.

    Attributes:
        frames: Number of frames T.
        compressor: Spec of the compressor; "none" for dense.
        attention: Implementation of the LLM's attention, such as "sdpa".
    """

    frames: int
    compressor: str
    attention: str

    @cached_property
    def method(self) -> Compressor:
        """The compressor."""
        return compressor(self.compressor)


@dataclass(frozen=True)
class Question:
    """The question that every round answers.

    Attributes:
        video: The video file.
        text: The question.
        new_tokens: Number of tokens of the answer.
    """

    video: str
    text: str
    new_tokens: int


@dataclass(frozen=True)
class Sample:
    """What was measured of one answer.

    Attributes:
        seconds: Seconds by step.
        total: Wall clock seconds from file to text.
        tokens_before: Number of visual tokens without compression.
        tokens_after: Number of visual tokens that the LLM sees; for methods inside the LLM, the mean over its layers.
        layers: For methods inside the LLM, the number of visual tokens in each of its layers; else empty.
    """

    seconds: dict[str, float]
    total: float
    tokens_before: int
    tokens_after: float
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """What was measured of one setting.

    Attributes:
        setting: The setting.
        samples: One per round.
        memory_before: Bytes in use before the answer: the weights.
        memory_extra: Bytes at the peak beyond that.
    """

    setting: Setting
    samples: list[Sample]
    memory_before: int
    memory_extra: int

    @property
    def compresses(self) -> bool:
        """Whether the compressor works before the LLM, so that there is a step "compress"."""
        method = self.setting.method
        return method.drops and method.stage == "before LLM"

    def seconds(self, name: str) -> list[float]:
        """Seconds of a step, of a span or in total, one number per round."""
        if name == "total":
            return [sample.total for sample in self.samples]
        return [sum(sample.seconds[step] for step in SPANS.get(name, (name,))) for sample in self.samples]

    def median(self, name: str) -> float:
        """Median of `seconds`."""
        return statistics.median(self.seconds(name))

    def p90(self, name: str) -> float:
        """90th percentile of `seconds`."""
        return float(np.percentile(self.seconds(name), 90))

    def ratio(self, other: Measured, name: str) -> float:
        """Median over the rounds of this setting's seconds divided by the other's in the same round."""
        pairs = zip(self.seconds(name), other.seconds(name), strict=True)
        return statistics.median(own / others for own, others in pairs)

    @property
    def throughput(self) -> float:
        """Samples per second."""
        return len(self.samples) / sum(self.seconds("total"))

    @property
    def tokens_after(self) -> float:
        """Mean number of visual tokens that the LLM sees.

        Rounds may differ: with random weights on a GPU, the last bits of the features vary, and so may what is kept.
        """
        return statistics.fmean(sample.tokens_after for sample in self.samples)

    @property
    def peak(self) -> int:
        """Bytes at the peak, with the weights."""
        return self.memory_before + self.memory_extra

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Measured:
        """The inverse of `dataclasses.asdict`. Other entries are ignored."""
        samples = [Sample(**{**sample, "layers": tuple(sample["layers"])}) for sample in entry["samples"]]
        return cls(Setting(**entry["setting"]), samples, entry["memory_before"], entry["memory_extra"])


def measure(
    engine: Engine, settings: Sequence[Setting], question: Question, rounds: int, warmup: int, seed: int
) -> tuple[list[Measured], list[list[int]]]:
    """Measure settings in turns, so that a slow moment of the machine affects all of them alike.

    Every round has its own random order. Rounds of warm-up and a round for memory come first and are not timed.

    Args:
        engine: The model.
        settings: What to measure.
        question: The question to answer.
        rounds: How many rounds to time.
        warmup: How many rounds of warm-up.
        seed: Seed of the orders.

    Returns:
        What was measured of each setting; and for each timed round, the order in which the settings ran, as indices.

    Raises:
        ValueError: The video has too few frames.
        RuntimeError: An answer ended early.
    """
    engines = {
        setting.frames: engine.sampled(FrameSampling("uniform", max_frames=setting.frames)) for setting in settings
    }
    rng = random.Random(seed)
    orders = [rng.sample(range(len(settings)), len(settings)) for _ in range(warmup + rounds)]
    samples: list[list[Sample]] = [[] for _ in settings]
    console = Console(stderr=True)
    for order in track(orders[:warmup], "warm-up", console=console):
        for i in order:
            answer(engines[settings[i].frames], settings[i], question)
    memory = [
        peak_memory(engines[setting.frames], setting, question)
        for setting in track(settings, "memory", console=console)
    ]
    for order in track(orders[warmup:], "rounds", console=console):
        for i in order:
            samples[i].append(answer(engines[settings[i].frames], settings[i], question))
    found = [Measured(*line) for line in zip(settings, samples, *zip(*memory, strict=True), strict=True)]
    return found, orders[warmup:]


def answer(engine: Engine, setting: Setting, question: Question) -> Sample:
    """Answer once, from file to text, and time every step. Raises as `measure`."""
    engine.model.get_decoder().set_attn_implementation(setting.attention)
    chosen = setting.method
    selections: list[tuple[Moment, Moment]] = []
    timed = timing_selection(chosen, selections)
    begin = now(engine.device)
    read = engine.read(question.video)
    result, made = ask(engine, engine.see(read), question, timed)
    total = now(engine.device) - begin
    if result.frames != setting.frames:
        raise ValueError(
            f"{question.video} gives {result.frames} frames instead of {setting.frames}: take a longer video, or fewer "
            "--frames"
        )
    if made != question.new_tokens:
        raise RuntimeError(f"{setting.compressor} ended its answer after {made} of {question.new_tokens} tokens")
    spent = result.seconds
    selection = sum(seconds_between(*ends) for ends in selections)
    seconds = {
        **{step: spent[step] for step in ("decode", "preprocess", "vision")},
        "assemble": spent["compress"] - selection,
        "compress": selection,
        "prefill": spent["prefill"],
        "tokens": spent["generate"],
    }
    (record,) = result.records
    return Sample(seconds, total, record.tokens_before, record.tokens_after, record.layers)


def ask(engine: Engine, seen: Any, question: Question, chosen: Compressor) -> tuple[Answer, int]:
    """Answer the question about an encoded video.

    Args:
        engine: The model.
        seen: What the engine's `see` gave.
        question: The question.
        chosen: The compressor.

    Returns:
        The answer, and how many tokens were generated.
    """
    counter = Counter()
    generation = {
        "max_new_tokens": question.new_tokens,
        "min_new_tokens": question.new_tokens,
        "do_sample": False,
        "logits_processor": LogitsProcessorList([counter]),
    }
    return engine.answer(seen, question.text, generation, chosen), counter.tokens


class Counter(LogitsProcessor):
    """Counts the tokens that generate() makes, without waiting for the device.

    Attributes:
        tokens: Their number so far.
    """

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Count a token and leave the scores as they are."""
        self.tokens += 1
        return scores


def timing_selection(chosen: Compressor, spent: list[tuple[Moment, Moment]]) -> Compressor:
    """Copy a compressor so that each selection adds its begin and end to `spent`.

    A compressor that drops nothing, or works inside the LLM, has no such selection and is returned as it is.
    """
    if not chosen.drops or chosen.stage == "inside LLM":
        return chosen
    method = type(chosen)

    class Timed(method):  # type: ignore[misc, valid-type]
        def select(self, x: Tensor, grid: tuple[int, int] | None = None) -> Kept:
            begin = moment(x.device)
            kept = super().select(x, grid)
            spent.append((begin, moment(x.device)))
            return kept

    return Timed(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen) if f.init})


def now(device: torch.device) -> float:
    """Seconds on the wall clock, after the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(engine: Engine, setting: Setting, question: Question) -> tuple[int, int]:
    """Measure the memory of one answer, from frames to text.

    Returns:
        Bytes in use before, and bytes at the peak beyond that.
    """
    engine.model.get_decoder().set_attn_implementation(setting.attention)
    read, chosen = engine.read(question.video), setting.method
    if engine.device.type == "cuda":
        before = torch.cuda.memory_allocated(engine.device)
    else:
        before = sum(tensor.nbytes for tensor in (*engine.model.parameters(), *engine.model.buffers()))
    here = torch.empty(0, device=engine.device)
    return before, peak_bytes(lambda _: ask(engine, engine.see(read), question, chosen), here)


def make_video(path: Path, frames: int, seed: int = 0) -> Path:
    """Write a video of moving and changing scenes, 432x432 pixels at 8 frames per second.

    Args:
        path: The file to write.
        frames: How many frames a protocol must be able to take at two frames per second. The video has at least 8 s.
        seed: Seed of the scenes.

    Returns:
        `path`.
    """
    length = FPS * max(8, frames // 2 + 1)
    rng = np.random.default_rng(seed)
    pictures = [render(draw_scene(rng)) for _ in range(math.ceil(length / FRAMES_OF_SCENE))]
    units = np.concatenate(pictures).repeat(FRAMES_OF_SCENE // UNITS, axis=0)[:length]
    write_video(path, units.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2), FPS)
    return path
