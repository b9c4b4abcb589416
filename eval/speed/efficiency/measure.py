"""Time and memory from video file to answer, under several compressors that take turns."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
LLM = ("prefill", "tokens")
SPANS: dict[str, tuple[str, ...]] = {
    "first token": STEPS[:-1],
    "LLM generation": LLM,
    "model generation": ("vision", "assemble", "compress", *LLM),
}
DEFINITIONS = {
    "decode": "the video file to frames",
    "preprocess": "frames to the tower's input, resized and normalised",
    "vision": "tower and projector",
    "assemble": "pooling, separators, splicing into the text, and what generate() does before it calls the LLM",
    "compress": "the compressor's selection before the LLM, without gathering what is kept (assemble); methods inside "
    "the LLM have none, their ranking and dropping is in prefill",
    "prefill": "the LLM's first pass with its head: gives the first token",
    "tokens": "all later tokens; their number is fixed, answers do not end early",
    "first token": "time to first token: from decode to prefill",
    "LLM generation": "prefill + tokens",
    "model generation": "vision + assemble + compress + LLM generation",
    "total": "wall clock from file to text: all steps, and what is between them, such as tokenising and putting the "
    "compressor on the model",
    "throughput": "samples per second: rounds / sum of their total; one sample at a time, nothing overlaps",
    "peak memory": "the most that torch had allocated on the device between the frames and the text, weights included; "
    "of one round more, whose times do not count",
    "visual tokens": "that the LLM saw, separators included; for methods inside the LLM the mean over its layers",
    "against dense": "median over the rounds of the ratio to dense at the same frames in the same round, less 1",
    "growth": "log(ratio of medians) / log(ratio of frames): 1 is linear, 2 quadratic",
    "clock": "the wall's, until the device was done; on GPUs, for all steps but decode and what of preprocess the CPU "
    "does, CUDA events at each step's borders: a step ends when what it launched is done, and the host launches ahead",
}
FPS = 8
FRAMES_OF_SCENE = 2 * UNITS
ZOOM = 8  # 448x448 pixels


@dataclass(frozen=True)
class Setting:
    """frames: of the video. compressor: its spec, or "none". attention: the LLM's implementation."""

    frames: int
    compressor: str
    attention: str


@dataclass(frozen=True)
class Question:
    """What is asked of the video in every round, and how many tokens the answer has."""

    video: str
    text: str
    new_tokens: int


@dataclass(frozen=True)
class Sample:
    """One answer. seconds: by step. total: wall clock, file to text. tokens_before, tokens_after: visual ones, without
    compression and in the LLM. layers: of methods inside the LLM, visual rows in each of its layers."""

    seconds: dict[str, float]
    total: float
    tokens_before: int
    tokens_after: float
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """A setting's samples, one per round, and its memory in bytes: in use before (the weights), and the peak of what
    came on top."""

    setting: Setting
    samples: list[Sample]
    memory_before: int
    memory_extra: int

    @property
    def compresses(self) -> bool:
        """Whether the step "compress" is there."""
        chosen = compressor(self.setting.compressor)
        return chosen.drops and chosen.stage == "before LLM"

    def seconds(self, name: str) -> list[float]:
        """A step's, a span's or the total's, round by round."""
        if name == "total":
            return [sample.total for sample in self.samples]
        return [sum(sample.seconds[step] for step in SPANS.get(name, (name,))) for sample in self.samples]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds(name))

    def p90(self, name: str) -> float:
        return float(np.percentile(self.seconds(name), 90))

    def ratio(self, other: Measured, name: str) -> float:
        """Median over the rounds of this one's seconds / the other's in the same round."""
        pairs = zip(self.seconds(name), other.seconds(name), strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    @property
    def throughput(self) -> float:
        return len(self.samples) / sum(self.seconds("total"))

    @property
    def tokens_after(self) -> float:
        """Of random weights on a GPU, the last bits may differ from round to round, and so may what is kept."""
        return statistics.fmean(sample.tokens_after for sample in self.samples)

    @property
    def peak(self) -> int:
        return self.memory_before + self.memory_extra

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Measured:
        """The inverse of `dataclasses.asdict`; further entries are left out."""
        samples = [Sample(**{**sample, "layers": tuple(sample["layers"])}) for sample in entry["samples"]]
        return cls(Setting(**entry["setting"]), samples, entry["memory_before"], entry["memory_extra"])


def measure(
    engine: Engine, settings: Sequence[Setting], question: Question, rounds: int, warmup: int, seed: int
) -> tuple[list[Measured], list[list[int]]]:
    """All settings in turns, in an order drawn anew for each round, so that a slow moment of the machine meets all of
    them alike; after rounds of warm-up and one for memory, which do not count.

    Returns what was measured, by setting, and of each round the settings' numbers in their order. Raises ValueError for
    a video with too few frames, RuntimeError for an answer that ended early.
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
    """The whole way, once."""
    engine.model.get_decoder().set_attn_implementation(setting.attention)
    chosen = compressor(setting.compressor)
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
    """The answer, and how many tokens were made for it."""
    counter = Counter()
    generation = {
        "max_new_tokens": question.new_tokens,
        "min_new_tokens": question.new_tokens,
        "do_sample": False,
        "logits_processor": LogitsProcessorList([counter]),
    }
    return engine.answer(seen, question.text, generation, chosen), counter.tokens


class Counter(LogitsProcessor):
    """Counts the tokens that generate() makes, without a wait for the device."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.tokens += 1
        return scores


def timing_selection(chosen: Compressor, spent: list[tuple[Moment, Moment]]) -> Compressor:
    """The same compressor, which adds begin and end of each selection to `spent`, if it is one before the LLM."""
    if not chosen.drops or chosen.stage == "inside LLM":
        return chosen
    method = type(chosen)

    class Timed(method):  # type: ignore[misc, valid-type]
        def select(self, x: Tensor) -> Kept:
            begin = moment(x.device)
            kept = super().select(x)
            spent.append((begin, moment(x.device)))
            return kept

    return Timed(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen) if f.init})


def now(device: torch.device) -> float:
    """The wall clock's seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(engine: Engine, setting: Setting, question: Question) -> tuple[int, int]:
    """Bytes in use before, and the peak of what came on top, from frames to text."""
    engine.model.get_decoder().set_attn_implementation(setting.attention)
    read, chosen = engine.read(question.video), compressor(setting.compressor)
    if engine.device.type == "cuda":
        before = torch.cuda.memory_allocated(engine.device)
    else:
        before = sum(tensor.nbytes for tensor in (*engine.model.parameters(), *engine.model.buffers()))
    here = torch.empty(0, device=engine.device)
    return before, peak_bytes(lambda _: ask(engine, engine.see(read), question, chosen), here)


def make_video(path: Path, frames: int, seed: int = 0) -> Path:
    """A video of moving and changing scenes, 448x448 at 8 frames per second; returns path.

    At least 8 seconds, and long enough for protocols that look at two frames per second to get `frames` of them.
    """
    length = FPS * max(8, frames // 2 + 1)
    rng = np.random.default_rng(seed)
    pictures = [render(draw_scene(rng)) for _ in range(math.ceil(length / FRAMES_OF_SCENE))]
    units = np.concatenate(pictures).repeat(FRAMES_OF_SCENE // UNITS, axis=0)[:length]
    write_video(path, units.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2), FPS)
    return path
