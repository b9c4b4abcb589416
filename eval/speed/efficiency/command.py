"""vidcom2 efficiency: latency, throughput and memory of a model, step by step, under compressors."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from llava.model.builder import resolve_attention, resolve_dtype
from llava.video import FrameSampling, VideoError, open_video

from ...models import Protocol, canary, load_engine, protocol_for
from ...models.base import Unanswerable
from ...models.cores import Waiting, suit_threads
from ...models.qwen_protocol import QwenProtocol, Reader
from ...models.random_weights import random_engine, random_model, require_source, write_files
from ...results.files import prepare_directory, prepare_json, write_json, write_whole
from ...results.provenance import provenance
from ...results.terminal import stdout
from ...run.flags import require_at_least
from ...run.setup import loading
from ...run.sweep import split_specs
from ..arguments import choose_device, numbers
from . import table4
from .measure import DEFINITIONS, Measured, Question, Setting, make_video, measure
from .report import entry, figures, markdown, print_report

NEW_TOKENS = 16
VERSION = 1
"""Version of the JSON file's layout."""


@dataclass(frozen=True)
class Plan:
    """The checked arguments.

    Attributes:
        model: Checkpoint directory or hub name.
        random_weights: Whether the model has only a config, and random weights are drawn.
        protocol: How the model sees videos.
        settings: What to measure.
        video: The video file; None generates one.
        question: The question.
        new_tokens: Length of the answers.
        rounds: Number of timed rounds.
        warmup: Number of rounds before them.
        seed: Seed of the orders, of random weights and of the generated video.
        dtype: Dtype of the model.
        device: "cuda" or "cpu".
        attention: Attention with which the model is loaded. The settings name the LLM's attention for each answer.
    """

    model: str
    random_weights: bool
    protocol: Protocol
    settings: list[Setting]
    video: Path | None
    question: str
    new_tokens: int
    rounds: int
    warmup: int
    seed: int
    dtype: str
    device: str
    attention: str


def prepare_efficiency(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments before the model is loaded; return a function that measures, prints and writes."""
    if arguments.random_weights is not None:
        require_source(arguments.random_weights)
    prepare_directory("--output", arguments.output)
    if arguments.render is not None:
        raw = load(arguments.render)
        return lambda: write(raw, arguments.output, arguments.table4)
    file: Path = arguments.json or arguments.output / "efficiency.json"
    prepare_json(file)
    with TemporaryDirectory() as directory:
        make_plan(arguments, Path(directory))

    def finish() -> int:
        with TemporaryDirectory() as directory:
            try:
                raw = run(make_plan(arguments, Path(directory)), Path(directory))
            except (VideoError, Unanswerable) as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        write_json(file, raw)
        return write(raw, arguments.output, arguments.table4)

    return finish


def make_plan(arguments: argparse.Namespace, directory: Path) -> Plan:
    """Check the arguments.

    Args:
        arguments: The command line.
        directory: Where to write the config of a model with random weights.

    Raises:
        ValueError: A bad argument.
        TypeError: A compressor does not suit the model.
        OSError: There is no such file or model.
    """
    require_at_least(0, arguments, "warmup")
    require_at_least(2, arguments, "rounds", "new_tokens")
    device = choose_device(arguments.device).type
    best = "sdpa" if device == "cpu" else resolve_attention(None)
    attentions = [resolve_attention(name.strip()) for name in (arguments.attn or best).split(",")]
    frames = numbers("--frames", arguments.frames, 1, "16,32,64")
    settings = chosen_settings(arguments, frames, attentions)
    if arguments.random_weights:
        model = str(write_files(arguments.random_weights, directory))
    else:
        model = arguments.model
    protocol = protocol_for(model)
    for count in frames:
        try:
            protocol.sampled(FrameSampling("uniform", max_frames=count))
        except ValueError as error:
            raise ValueError(f"--frames {count}: {error}") from error
    if arguments.video is not None:
        check_video(arguments.video, protocol, frames)
    usual = "bfloat16" if arguments.random_weights else protocol.default_dtype
    plan = Plan(
        model=model,
        random_weights=bool(arguments.random_weights),
        protocol=protocol,
        settings=settings,
        video=arguments.video,
        question=arguments.question,
        new_tokens=arguments.new_tokens or (table4.NEW_TOKENS if arguments.table4 else NEW_TOKENS),
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        seed=arguments.seed,
        dtype=arguments.dtype or ("float32" if device == "cpu" else usual),
        device=device,
        attention=best,
    )
    resolve_dtype(plan.dtype)
    check_compressors(plan)
    return plan


def chosen_settings(arguments: argparse.Namespace, frames: list[int], attentions: list[str]) -> list[Setting]:
    """The settings that --compressors or --table4 ask for, without duplicates."""
    if arguments.table4:
        if frames != [table4.FRAMES]:
            raise ValueError(
                f"--frames {arguments.frames} with --table4: that is at {table4.FRAMES} frames. Leave out --frames"
            )
        return list(dict.fromkeys(setting for attention in attentions for setting in table4.grid(attention)))
    found = []
    for count in frames:
        for chosen in split_specs(arguments.compressors):
            eager = getattr(chosen, "attention", None) == "eager"
            found += [Setting(count, chosen.spec, attention) for attention in (["eager"] if eager else attentions)]
    return list(dict.fromkeys(found))


def check_video(video: Path, protocol: Protocol, frames: list[int]) -> None:
    """Check that a video can be read and has enough frames. (LLaVA's protocols repeat frames of short videos.)

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or has too few frames.
    """
    if not video.is_file():
        raise FileNotFoundError(f"--video {video} is no file")
    try:
        with open_video(str(video)):
            pass
        if isinstance(protocol, QwenProtocol):
            for count in frames:
                found = len(Reader(protocol.sampled(FrameSampling("uniform", max_frames=count)))(str(video)).frames)
                if found != count:
                    raise ValueError(f"--video {video} gives {found} frames instead of {count}: take a longer one")
    except VideoError as error:
        raise ValueError(f"--video {error}") from error


def check_compressors(plan: Plan) -> None:
    """Try every compressor on a model without weights. Raises ValueError or TypeError if one does not suit it."""
    overwrite = getattr(plan.protocol, "overwrite_config", None)
    model = random_model(plan.model, "meta", resolve_dtype(plan.dtype), overwrite=overwrite)
    for setting in plan.settings:
        model.get_decoder().set_attn_implementation(setting.attention)
        setting.method.attach(model).detach()


def run(plan: Plan, directory: Path) -> dict[str, Any]:
    """Load the model and measure.

    Args:
        plan: The checked arguments.
        directory: Where to write the generated video.

    Returns:
        The content of the JSON file.

    Raises:
        CanaryError: The installed libraries do not compress right.
    """
    canary.require_for(plan.model, [setting.method for setting in plan.settings])
    device = "cuda:0" if plan.device == "cuda" else plan.device
    if plan.video is None:
        most = max(setting.frames for setting in plan.settings)
        video = make_video(directory / "video.mp4", most, plan.seed)
    else:
        video = plan.video
    if plan.random_weights:
        engine = random_engine(plan.model, plan.protocol, device, plan.dtype, plan.attention, plan.seed)
    else:
        with loading(f"--model {plan.model}"):
            engine = load_engine(plan.model, plan.protocol, device, plan.dtype, plan.attention)
    if device == "cpu":
        suit_threads(engine.model)
    question = Question(str(video), plan.question, plan.new_tokens)
    waiting = Waiting()
    measured, orders = measure(engine, plan.settings, question, plan.rounds, plan.warmup, plan.seed)
    waited = waiting.share
    origin = asdict(provenance())
    del origin["command"]  # It names directories of this machine. The settings are stored below.
    return {
        "version": VERSION,
        "provenance": origin,
        "model": Path(plan.model).name if plan.random_weights else plan.model,
        "random_weights": plan.random_weights,
        "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
        "protocol": {k: v for k, v in plan.protocol.describe().items() if k != "sampling"},  # the settings have it
        "dtype": plan.dtype,
        "device": torch.cuda.get_device_name(device) if plan.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "waited_for_cpu": waited,
        "video": described(video, made=plan.video is None),
        "question": plan.question,
        "new_tokens": plan.new_tokens,
        "rounds": plan.rounds,
        "warmup": plan.warmup,
        "seed": plan.seed,
        "definitions": DEFINITIONS,
        "measured": [entry(line, measured) for line in measured],
        "orders": orders,
    }


def described(video: Path, made: bool) -> str:
    """Describe a video by its name, size and length. made: whether this command generated it."""
    with open_video(str(video)) as reader:
        height, width = reader.frames([0]).shape[1:3]
        length = f"{len(reader)} frames at {reader.fps:g} per second"
    return f"{'made here' if made else video.name}, {width}x{height}, {length}"


def load(file: Path) -> dict[str, Any]:
    """Read a JSON file of this command. Raises ValueError if it is something else."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        version = raw["version"]
        found = [Measured.from_json(line) for line in raw["measured"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--render {file} is no efficiency.json of this command: {error!r}") from error
    if version != VERSION or not found:
        raise ValueError(f"--render {file} has layout {version}, not {VERSION}, or nothing was measured: measure again")
    return raw


def write(raw: dict[str, Any], output: Path, with_table4: bool) -> int:
    """Print the report and write tables and figures; returns the exit status."""
    console = stdout()
    print_report(console, raw)
    files = {"efficiency.md": markdown(raw), **(table4.render(raw) if with_table4 else {})}
    for name, content in files.items():
        write_whole(output / name, content)
    for path in (*(output / name for name in files), *figures(raw, output)):
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0
