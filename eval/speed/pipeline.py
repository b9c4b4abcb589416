"""python -m eval bench pipeline: questions per second from video files to answers, saving time in several ways."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from llava.model.builder import resolve_dtype
from llava.video import FrameSampling
from vidcom2 import compressor

from ..demo.minibench import HELD_OUT, questions, save
from ..demo.show import MODEL
from ..demo.train import mvbench_prompt
from ..demo.world import TASKS, UNITS
from ..models import Protocol, canary, load_engine, protocol_for
from ..models.base import Engine
from ..models.cores import suit_threads
from ..models.random_weights import random_engine, write_files
from ..results.files import prepare_json, write_json
from ..results.sample import Key, Sample
from ..results.terminal import stdout
from ..run.pool import Alone, fitting, loading
from ..run.worker import Answering, Part, Question, jobs_of
from .rounds import bench_device, in_turns, machine, require_repeats
from .video import new_table, show

ALONE = "one by one"
TIMEOUT = 300.0  # seconds for a video
NOTES = (
    "questions/s: of all questions, from video files to answers, median of the rounds; all lines take turns in one run",
    "faster: questions/s / those of one by one with the compressor; differ: answers that are not that line's",
    "one by one: each question has its video read and encoded, with nothing else going on; dense: without compressor",
    "shared: a video is read and encoded once for its questions; ahead: and by worker processes, while the model is at "
    "work; batches: and several questions are answered together. Loading and starting processes do not count",
)


@dataclass(frozen=True)
class Way:
    """dense: without the compressor. shared: a video's questions share what is seen. workers: that read ahead."""

    name: str
    dense: bool = False
    shared: bool = True
    workers: int = 0
    batch: int = 1


def prepare_pipeline(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything; returns what makes videos, measures, prints and writes."""
    for name in ("videos", "zoom", "workers", "new_tokens"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)} must be at least 1")
    if arguments.batch_size < 2:
        raise ValueError(f"--batch-size {arguments.batch_size} must be at least 2")
    per_video = [int(part) if part.strip().isdecimal() else 0 for part in arguments.per_video.split(",")]
    if min(per_video) < 1:
        raise ValueError(f"--per-video {arguments.per_video!r} are not numbers of questions, such as 1,3")
    if not compressor(arguments.compressor).drops:
        raise ValueError(f"--compressor {arguments.compressor} compresses nothing; dense is measured anyway")
    if arguments.dtype is not None:
        resolve_dtype(arguments.dtype)
    with TemporaryDirectory() as folder:
        choose(arguments, Path(folder))
    device = bench_device(arguments.device)
    repeats = require_repeats(arguments.repeats)
    prepare_json(arguments.json)
    ways = (
        Way(f"dense, {ALONE}", dense=True, shared=False),
        Way(ALONE, shared=False),
        Way("shared"),
        Way("ahead", workers=arguments.workers),
        Way("batches", workers=arguments.workers, batch=arguments.batch_size),
    )

    def finish() -> int:
        with TemporaryDirectory() as folder, ExitStack() as stack:
            path, protocol = choose(arguments, Path(folder))
            usual = "bfloat16" if arguments.random_weights else protocol.default_dtype
            dtype = arguments.dtype or ("float32" if device.type == "cpu" else usual)
            make = random_engine if arguments.random_weights else load_engine
            canary.require_for(path, [arguments.compressor])
            flag = f"--random-weights {arguments.random_weights}" if arguments.random_weights else f"--model {path}"
            with loading(flag):
                engine = make(path, protocol, "cuda:0" if device.type == "cuda" else "cpu", dtype, None)
            if device.type == "cpu":
                suit_threads(engine.model)
            videos = list(write_videos(Path(folder), arguments.videos, arguments.duration, arguments.zoom))
            with fitting(flag):
                working = {way: stack.enter_context(closing(alone(engine, way, arguments.compressor))) for way in ways}
            results = {
                number: measure(working, ask_about(videos, number, arguments.new_tokens), repeats, device)
                for number in per_video
            }
        table = new_table(
            f"{len(videos)} videos, {arguments.compressor}, {device}",
            "questions per video",
            ("questions/s", "faster", "differ"),
        )
        for number, lines in results.items():
            for name, line in lines.items():
                cells = f"{line['questions_per_second']:.2f}", f"{line['faster']:.2f}", str(line["differ"])
                table.add_row(str(number), name, *cells)
            table.add_section()
        show(stdout(), table, NOTES)
        if arguments.json is not None:
            names = ("compressor", "duration", "zoom", "workers", "batch_size", "new_tokens")
            model = {"model": Path(path).name, "random_weights": bool(arguments.random_weights), "dtype": dtype}
            settings = {**model, **protocol.describe(), **{name: getattr(arguments, name) for name in names}}
            counts = {"videos": len(videos), "repeats": repeats, "notes": NOTES}
            write_json(arguments.json, {**machine(device), **settings, **counts, "questions_per_video": results})
        return 0

    return finish


def choose(arguments: argparse.Namespace, directory: Path) -> tuple[str, Protocol]:
    """The model, and how it sees videos. directory: for a config without weights. Raises what is wrong with them."""
    if arguments.random_weights:
        path = str(write_files(arguments.random_weights, directory))
    else:
        path = arguments.model or str(MODEL)
    sampling = arguments.sampling or (f"uniform:{UNITS}" if path == str(MODEL) else None)
    protocol = protocol_for(path)
    return path, protocol.sampled(FrameSampling.parse(sampling)) if sampling else protocol


def write_videos(root: Path, per_task: int, duration: str, zoom: int) -> Iterator[tuple[str, str]]:
    """MiniBench's videos of all tasks, and a question about each."""
    for task in TASKS:
        for number, question, units in questions(task, per_task, HELD_OUT):
            path = root / f"{task}_{number}.mp4"
            save(path, units, duration, zoom)
            yield str(path), mvbench_prompt(question)


def ask_about(videos: Sequence[tuple[str, str]], per_video: int, new_tokens: int) -> list[Part]:
    """Every video with its own question, and those of the ones after it."""
    generation = {"max_new_tokens": new_tokens, "do_sample": False}
    parts = []
    for i, (video, _) in enumerate(videos):
        texts = [videos[(i + k) % len(videos)][1] for k in range(per_video)]
        parts.append(Part(video, tuple(Question((video, k), text, generation, (0,)) for k, text in enumerate(texts))))
    return parts


def alone(engine: Engine, way: Way, spec: str) -> Alone:
    """What answers this way, as a run does."""
    answering = Answering(engine, ("none" if way.dense else spec,), way.workers, TIMEOUT, way.batch)
    return Alone(answering, ahead=way.workers + 1)


def measure(
    working: dict[Way, Alone], parts: Sequence[Part], repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """By way; raises RuntimeError where a question has no answer."""
    answers: dict[str, dict[Key, str]] = {}

    def all_of(way: Way) -> Callable[[], None]:
        jobs = jobs_of(parts, way.batch)
        if not way.shared:
            jobs = [single for job in jobs for single in job.apart(by_question=True)]
        made = answers.setdefault(way.name, {})

        def note(_: int, sample: Sample) -> None:
            if sample.error is not None:
                raise RuntimeError(sample.error)
            made[sample.key] = sample.answer

        return lambda: working[way].answer(iter(jobs), note)

    times = in_turns({way.name: all_of(way) for way in working}, repeats, device)
    slowest = statistics.median(times[ALONE])
    count = sum(len(part.questions) for part in parts)
    return {
        name: {
            "milliseconds": milliseconds,
            "questions_per_second": 1000 * count / statistics.median(milliseconds),
            "faster": slowest / statistics.median(milliseconds),
            "differ": sum(answers[name][key] != answer for key, answer in answers[ALONE].items()),
        }
        for name, milliseconds in times.items()
    }
