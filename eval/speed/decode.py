"""vidcom2 bench decode: how fast each reader reads frames of video files, and whether they agree."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console

from llava.video import FrameSampling, open_video, read_video, require

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from ..run.flags import require_at_least
from .made_videos import FPS, GRAIN, SEGMENT, join, parse_sizes, pictures, source_pictures, write_segment
from .memory import peak_of_reading
from .rounds import installed_version, machine, with_mark
from .tables import new_table, print_table

CPU = torch.device("cpu")
SEGMENTS = 3
"""Number of different segments. Longer videos repeat them."""
COMPARED = ("exact", "decord", "torchcodec")
"""The readers to measure. Raw pyav is left out: it decodes all frames before the last one, minutes for an hour."""
NOTES = (
    "ms is the median of the wall clock time in milliseconds, CPU ms that of the CPU time, of opening the file and "
    "reading the frames. All readers take turns.",
    "of decord is a reader's CPU time divided by decord's.",
    "MiB is how far the memory of a new process rises while it reads the frames. The frames count.",
    "same is the number of frames that equal decord's in every pixel. max is the largest difference from decord, in "
    "levels of 255.",
    f"The videos are H.264 with x264's defaults, {FPS} frames per second and a key frame at least every {SEGMENT} s.",
)


@dataclass(frozen=True)
class Plan:
    """The checked arguments.

    Attributes:
        size: Width and height of the frames, in pixels.
        seconds: Lengths of the videos, in seconds; multiples of SEGMENT.
        sampling: The frames to read.
        source: A video to make them from; None draws hills.
        grain: Standard deviation of the hills' grain, in levels of 255.
        repeats: How many rounds to time.
        json: The file for the results, if any.
    """

    size: tuple[int, int]
    seconds: list[int]
    sampling: FrameSampling
    source: Path | None
    grain: float
    repeats: int
    json: Path | None


def prepare_decode(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that makes the videos, measures, prints and writes."""
    (size,) = parse_sizes("--size", arguments.size)
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"--size {arguments.size}: H.264 needs an even width and height")
    seconds = [int(part) if part.strip().isdecimal() else 0 for part in arguments.seconds.split(",")]
    if not all(second > 0 and second % SEGMENT == 0 for second in seconds):
        raise ValueError(f"--seconds {arguments.seconds!r} are not multiples of {SEGMENT}, such as 10,180,3600")
    if arguments.grain is not None and arguments.source is not None:
        raise ValueError("--grain has no effect with --source: it is for drawn hills only. Leave out one of them")
    grain = GRAIN if arguments.grain is None else arguments.grain
    if not 0 <= grain <= 64:
        raise ValueError(f"--grain {grain:g} is not between 0 and 64 levels")
    require_at_least(1, arguments, "frames")
    require_at_least(2, arguments, "repeats")
    sampling = FrameSampling("uniform", max_frames=arguments.frames)
    prepare_json(arguments.json)
    require("decord")
    if arguments.source is not None:
        with open_video(arguments.source):  # raises VideoError if it cannot be read
            pass
    plan = Plan(size, seconds, sampling, arguments.source, grain, arguments.repeats, arguments.json)
    return partial(run_decode, plan)


def run_decode(plan: Plan) -> int:
    """Make the videos, measure, print the table and write the JSON file, if one is named."""
    missing = not_installed()
    with TemporaryDirectory() as folder:
        results = [
            {
                "seconds": second,
                "bytes": video.stat().st_size,
                "decoders": measure_decoders(video, plan.sampling, plan.repeats),
            }
            for second, video in make_videos(plan, Path(folder)).items()
        ]
    print_results(stdout(), results, f"{plan.sampling.max_frames} frames, {plan.size[0]}x{plan.size[1]}", missing)
    if plan.json is not None:
        width, height = plan.size
        settings = {
            "size": f"{width}x{height}",
            "frames": plan.sampling.max_frames,
            "repeats": plan.repeats,
            "source": plan.source.name if plan.source else None,
            "grain": None if plan.source else plan.grain,
            "notes": NOTES,
            "packages": {package: installed_version(package) for package in ("decord", "torchcodec", "av")},
            "not_installed": missing,
        }
        write_json(plan.json, {**machine(CPU), **settings, "videos": results})
    return 0


def make_videos(plan: Plan, folder: Path) -> dict[int, Path]:
    """Write the videos into a folder; returns the files by length in seconds."""
    taken = source_pictures(plan.source, plan.size) if plan.source else None
    segments = [
        write_segment(
            folder / f"segment{i}.mp4", taken(i) if taken else pictures(plan.size, SEGMENT * FPS, i, plan.grain)
        )
        for i in range(SEGMENTS)
    ]
    return {second: join(folder / f"{second}.mp4", segments, second) for second in plan.seconds}


def not_installed() -> dict[str, str]:
    """Why each reader in COMPARED that cannot be used is missing."""
    causes = {}
    for name in COMPARED:
        try:
            require(name)
        except ImportError as cause:
            causes[name] = str(cause)
    return causes


def measure_decoders(video: Path, sampling: FrameSampling, repeats: int) -> dict[str, dict[str, Any]]:
    """Measure every installed reader in COMPARED on one video.

    Args:
        video: The video file.
        sampling: The frames to read.
        repeats: How many rounds to time.

    Returns:
        Times, memory and differences from decord, by reader. NOTES says what they are.
    """
    missing = not_installed()
    names = [name for name in COMPARED if name not in missing]
    frames = {name: read_video(video, sampling, name).frames for name in names}
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            begin, begin_cpu = time.perf_counter(), time.process_time()
            read_video(video, sampling, name)
            cpu[name].append(round(1000 * (time.process_time() - begin_cpu), 3))
            milliseconds[name].append(round(1000 * (time.perf_counter() - begin), 3))
    results = {}
    for name, read in frames.items():
        difference = np.abs(read.astype(np.int16) - frames["decord"])
        median = statistics.median(milliseconds[name])
        results[name] = {
            "milliseconds": milliseconds[name],
            "median_ms": median,
            "frames_per_second": 1000 * len(read) / median,
            "cpu_milliseconds": cpu[name],
            "median_cpu_ms": statistics.median(cpu[name]),
            "cpu_of_decord": statistics.median(cpu[name]) / statistics.median(cpu["decord"]),
            "peak_mib": peak_of_reading(video, sampling, name),
            "same": int((difference == 0).all(axis=(1, 2, 3)).sum()),
            "max": int(difference.max()),
            "mean": float(difference.mean()),
        }
    return results


def print_results(console: Console, results: list[dict[str, Any]], title: str, missing: dict[str, str]) -> None:
    """Print the table and its notes. missing: why readers were not measured, by name."""
    table = new_table(title, "s", ("CPU ms", "of decord", "ms", "MiB", "same", "max"))
    for result in results:
        for name, line in result["decoders"].items():
            cells = (
                f"{line['median_cpu_ms']:.0f}",
                f"{line['cpu_of_decord']:.2f}",
                f"{line['median_ms']:.0f}",
                f"{line['peak_mib']:.0f}",
                str(line["same"]),
                str(line["max"]),
            )
            table.add_row(str(result["seconds"]), name, *cells)
        table.add_section()
    not_measured = (f"{name}: not measured. {cause}" for name, cause in missing.items())
    print_table(console, table, with_mark([*NOTES, *not_measured]))
