"""vidcom2 bench pipeline: questions per second from video files to answers, in several modes of work."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from llava.model.builder import resolve_dtype
from llava.video import FrameSampling
from vidcom2 import Compressor, Dense, compressor

from ..demo.minibench import HELD_OUT, questions, save
from ..demo.prompts import mvbench_prompt
from ..demo.world import TASKS, UNITS
from ..models import Protocol, canary, load_engine, protocol_for
from ..models.base import Engine
from ..models.cores import suit_threads
from ..models.packaged import DEMO_MODEL
from ..models.random_weights import random_engine, write_files
from ..models.served import VllmEngine, in_flight, require_vllm, served
from ..results.files import prepare_json, write_json
from ..results.sample import Key, Sample
from ..results.terminal import stdout
from ..run.flags import require_at_least
from ..run.setup import InProcess, fitting, loading
from ..run.worker import Question, VideoQuestions, Worker, work_items
from .arguments import choose_device, dtype_of, numbers, require_drops
from .rounds import in_turns, machine
from .tables import new_table, print_table

ONE_BY_ONE = "one by one"
VLLM = {"vLLM, dense": True, "vLLM": False}
"""The lines of vLLM, and whether they are dense."""
TIMEOUT = 300.0
"""Seconds in which a video must be read."""
NOTES = (
    "questions/s is the number of questions divided by the median time of a round, from video files to answers. "
    "Loading the model and starting processes does not count. All lines take turns in one run.",
    f"faster is questions/s divided by that of {ONE_BY_ONE}. differ is the number of answers that differ from its "
    "answers.",
    f"{ONE_BY_ONE}: every question reads and encodes its video again, and nothing runs at the same time. dense: the "
    "same without compression.",
    "shared: a video is read and encoded once for all its questions. ahead: in addition, worker processes read the "
    "next videos while the model computes. batches: in addition, several questions are answered together.",
    "vLLM: --engine vllm, with empty caches at the beginning of a round.",
)


@dataclass(frozen=True)
class Mode:
    """How questions are answered.

    Attributes:
        name: The mode's line in the table.
        dense: Whether to answer without compression.
        shared: Whether a video is read and encoded once for all its questions.
        workers: Number of processes that read videos ahead.
        batch: How many questions are answered together.
        vllm: Whether vLLM answers.
    """

    name: str
    dense: bool = False
    shared: bool = True
    workers: int = 0
    batch: int = 1
    vllm: bool = False


def prepare_pipeline(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that makes videos, measures, prints and writes."""
    require_at_least(1, arguments, "videos", "zoom", "workers", "new_tokens")
    require_at_least(2, arguments, "repeats")
    per_video = numbers("--per-video", arguments.per_video, 1, "1,3")
    sizes = numbers("--batch-size", arguments.batch_size, 2, "4,8")
    if arguments.vllm:
        require_vllm()
    require_drops(arguments.compressor)
    if arguments.dtype is not None:
        resolve_dtype(arguments.dtype)
    with TemporaryDirectory() as folder:
        _, protocol = choose_model(arguments, Path(folder))
        if arguments.vllm:
            served(compressor(arguments.compressor), protocol)
    device = choose_device(arguments.device)
    prepare_json(arguments.json)
    return partial(run_pipeline, arguments, per_video, sizes, device)


def run_pipeline(arguments: argparse.Namespace, per_video: list[int], sizes: list[int], device: torch.device) -> int:
    """Make videos, measure every mode, print the table and write the JSON file, if one is named."""
    modes = (
        Mode(f"dense, {ONE_BY_ONE}", dense=True, shared=False),
        Mode(ONE_BY_ONE, shared=False),
        Mode("shared"),
        Mode("ahead", workers=arguments.workers),
        *(Mode(f"batches of {size}", workers=arguments.workers, batch=size) for size in sizes),
    )
    if arguments.vllm:
        modes += tuple(
            Mode(name, dense, workers=arguments.workers, batch=in_flight(device.type), vllm=True)
            for name, dense in VLLM.items()
        )
    if arguments.brief:
        modes = tuple(mode for mode in modes if mode.name == ONE_BY_ONE or mode.batch > 1)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        path, protocol = choose_model(arguments, Path(folder))
        chosen = compressor(arguments.compressor)
        if arguments.vllm:
            chosen = served(chosen, protocol)
        dtype = dtype_of(arguments, protocol, device)
        flag = f"--random-weights {arguments.random_weights}" if arguments.random_weights else f"--model {path}"
        canary.require_for(path, [chosen])
        load = random_engine if arguments.random_weights else load_engine
        with loading(flag):
            engine = load(path, protocol, "cuda:0" if device.type == "cuda" else "cpu", dtype, None)
        if device.type == "cpu":
            suit_threads(engine.model)
        in_vllm: dict[str, VllmEngine] = {}
        if arguments.vllm:
            if arguments.random_weights:
                engine.model.save_pretrained(path)
            with loading(flag):
                in_vllm = vllm_engines(path, protocol, device, dtype, chosen)
        videos = list(write_videos(Path(folder), arguments.videos, arguments.duration, arguments.zoom))
        with fitting(flag):
            answerers = {
                mode: stack.enter_context(closing(answerer(in_vllm[mode.name] if mode.vllm else engine, mode, chosen)))
                for mode in modes
            }
        results = {
            number: measure(answerers, ask_about(videos, number, arguments.new_tokens), arguments.repeats, device)
            for number in per_video
        }
    print_results(stdout(), results, f"{len(videos)} videos, {arguments.compressor}, {device}")
    if arguments.json is not None:
        names = ("compressor", "duration", "zoom", "workers", "batch_size", "new_tokens")
        model = {"model": Path(path).name, "random_weights": bool(arguments.random_weights), "dtype": dtype}
        settings = {**model, **protocol.describe(), **{name: getattr(arguments, name) for name in names}}
        counts = {"videos": len(videos), "repeats": arguments.repeats, "notes": NOTES}
        write_json(arguments.json, {**machine(device), **settings, **counts, "questions_per_video": results})
    return 0


def choose_model(arguments: argparse.Namespace, directory: Path) -> tuple[str, Protocol]:
    """Choose the model and its protocol, with --sampling.

    Args:
        arguments: The command line.
        directory: Where to write the config of a model with random weights.

    Returns:
        The model's directory or hub name, and the protocol.

    Raises:
        ValueError: The model or the sampling is not known, or they do not go together.
        OSError: There is no such model.
    """
    if arguments.random_weights:
        path = str(write_files(arguments.random_weights, directory))
    else:
        path = arguments.model or str(DEMO_MODEL)
    sampling = arguments.sampling or (f"uniform:{UNITS}" if path == str(DEMO_MODEL) else None)
    protocol = protocol_for(path)
    return path, protocol.sampled(FrameSampling.parse(sampling)) if sampling else protocol


def vllm_engines(
    path: str, protocol: Protocol, device: torch.device, dtype: str, chosen: Compressor
) -> dict[str, VllmEngine]:
    """Start vLLM twice, dense and with the compressor, beside the engine that they are compared with."""
    on = "cpu" if device.type == "cpu" else "cuda:0"
    return {
        name: VllmEngine(path, protocol, on, dtype, Dense() if dense else chosen, memory=0.35)
        for name, dense in VLLM.items()
    }


def write_videos(root: Path, per_task: int, duration: str, zoom: int) -> Iterator[tuple[str, str]]:
    """Write MiniBench's videos of all tasks; yield each file with the prompt of its question."""
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, HELD_OUT):
            path = root / f"{task}_{number}.mp4"
            save(path, pictures, duration, zoom)
            yield str(path), mvbench_prompt(question)


def ask_about(videos: Sequence[tuple[str, str]], per_video: int, new_tokens: int) -> list[VideoQuestions]:
    """Ask each video its own question, and those of the videos after it until there are `per_video` questions.

    Args:
        videos: Files with the prompts of their questions.
        per_video: Number of questions on each video.
        new_tokens: Longest answer, in tokens.
    """
    generation = {"max_new_tokens": new_tokens, "do_sample": False}
    asked = []
    for i, (video, _) in enumerate(videos):
        texts = [videos[(i + k) % len(videos)][1] for k in range(per_video)]
        questions = tuple(Question((video, k), text, generation, (0,)) for k, text in enumerate(texts))
        asked.append(VideoQuestions(video, questions))
    return asked


def answerer(engine: Engine, mode: Mode, chosen: Compressor) -> InProcess:
    """What answers questions in a mode, in this process, as a run does."""
    worker = Worker(engine, (Dense() if mode.dense else chosen,), mode.workers, TIMEOUT, mode.batch)
    return InProcess(worker, ahead=mode.workers + 1)


def measure(
    answerers: dict[Mode, InProcess], asked: Sequence[VideoQuestions], repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Time all modes on the same questions.

    Args:
        answerers: What answers, by mode.
        asked: The videos with their questions.
        repeats: How many rounds to time.
        device: The model's device.

    Returns:
        Times, questions per second and differences from ONE_BY_ONE, by the mode's name. NOTES says what they are.

    Raises:
        RuntimeError: A question could not be answered.
    """
    answers: dict[str, dict[Key, str]] = {}

    def answer_all(mode: Mode) -> Callable[[], None]:
        items = work_items(asked, mode.batch)
        if not mode.shared:
            items = [single for item in items for single in item.split(by_question=True)]
        engine = answerers[mode].engine
        given = answers.setdefault(mode.name, {})

        def note(_: int, sample: Sample) -> None:
            if sample.error is not None:
                raise RuntimeError(sample.error)
            given[sample.key] = sample.answer

        def run() -> None:
            if isinstance(engine, VllmEngine):
                engine.forget()  # what it cached in the round before
            answerers[mode].answer(iter(items), note)

        return run

    times = in_turns({mode.name: answer_all(mode) for mode in answerers}, repeats, device)
    slowest = statistics.median(times[ONE_BY_ONE])
    count = sum(len(one.questions) for one in asked)
    return {
        name: {
            "milliseconds": milliseconds,
            "questions_per_second": 1000 * count / statistics.median(milliseconds),
            "faster": slowest / statistics.median(milliseconds),
            "differ": sum(answers[name][key] != answer for key, answer in answers[ONE_BY_ONE].items()),
        }
        for name, milliseconds in times.items()
    }


def print_results(console: Console, results: dict[int, dict[str, dict[str, Any]]], title: str) -> None:
    """Print the table and its notes. results: by number of questions per video and mode."""
    table = new_table(title, "questions per video", ("questions/s", "faster", "differ"))
    for number, lines in results.items():
        for name, line in lines.items():
            cells = f"{line['questions_per_second']:.2f}", f"{line['faster']:.2f}", str(line["differ"])
            table.add_row(str(number), name, *cells)
        table.add_section()
    print_table(console, table, NOTES)
