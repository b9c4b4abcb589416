"""vidcom2 bench preprocess: how fast decoded frames become a SigLIP tower's pixels, and whether they agree."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from llava.model.multimodal_encoder.on_device import preprocess_on_device
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from ..run.flags import require_at_least
from .arguments import choose_device
from .made_videos import GRAIN, parse_sizes, pictures
from .rounds import in_turns, installed_version, machine, with_mark
from .tables import new_table, print_table

NOTES = (
    "ms is the median time in milliseconds to resize and normalise decoded frames and bring them to the device. All "
    "lines take turns.",
    "max is the largest difference from exact, in levels of 255. differ is the percentage of colour values that "
    "differ from exact.",
    "torch is interpolate(bicubic, antialias) on the CPU, for comparison only: no flag of a run selects it.",
)


def prepare_preprocess(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that measures, prints and writes."""
    sizes = parse_sizes("--sizes", arguments.sizes)
    device = choose_device(arguments.device)
    require_at_least(1, arguments, "frames", "tower")
    require_at_least(2, arguments, "repeats")
    prepare_json(arguments.json)
    return partial(run_preprocess, sizes, arguments.frames, arguments.tower, device, arguments.repeats, arguments.json)


def run_preprocess(
    sizes: list[tuple[int, int]], frames: int, tower: int, device: torch.device, repeats: int, file: Path | None
) -> int:
    """Measure every size, print the table and write the JSON file, if one is named."""
    processor = SigLipImageProcessor(size=(tower, tower))
    results = []
    for width, height in sizes:
        drawn = pictures((width, height), frames, 0, GRAIN)
        lines = measure_preprocessing(processor, drawn, repeats, device)
        results.append({"size": f"{width}x{height}", "lines": lines})
    print_results(stdout(), results, f"{frames} frames to {tower}x{tower}, {device}")
    if file is not None:
        settings = {"frames": frames, "tower": tower, "repeats": repeats}
        notes = {"notes": NOTES, "packages": {"pillow": installed_version("pillow")}}
        write_json(file, {**machine(device), **settings, **notes, "sizes": results})
    return 0


def measure_preprocessing(
    processor: SigLipImageProcessor, frames: np.ndarray, repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Measure the three ways to preprocess frames.

    Args:
        processor: The exact preprocessing.
        frames: RGB frames, uint8 [T, H, W, 3].
        repeats: How many rounds to time.
        device: The tower's device.

    Returns:
        Times and differences from "exact", by way. NOTES says what they are.
    """
    source = torch.from_numpy(frames)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "exact": lambda: processor.preprocess(frames, return_tensors="pt")["pixel_values"].to(device),
        "fast": lambda: preprocess_on_device(processor, source.to(device)),
        "torch": lambda: torch_preprocess(processor, source).to(device),
    }
    times = in_turns(calls, repeats, device)
    # SigLIP's pixels are 2 * level / 255 - 1. This makes levels of them again.
    levels = {name: ((call().cpu() + 1) * 127.5).round().to(torch.int16) for name, call in calls.items()}
    results = {}
    for name, found in levels.items():
        difference = (found - levels["exact"]).abs()
        median = statistics.median(times[name])
        results[name] = {
            "milliseconds": times[name],
            "median_ms": median,
            "frames_per_second": 1000 * len(frames) / median,
            "max": int(difference.max()),
            "differ_percent": 100 * float((difference > 0).float().mean()),
        }
    return results


def torch_preprocess(processor: SigLipImageProcessor, frames: torch.Tensor) -> torch.Tensor:
    """Preprocess with torch's own resizing: uint8 [T, H, W, 3] to float32 [T, 3, S, S]."""
    resized = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2), size=processor.size, mode="bicubic", antialias=True
    )
    return resized * (2 / 255) - 1


def print_results(console: Console, results: list[dict[str, Any]], title: str) -> None:
    """Print the table and its notes."""
    table = new_table(title, "size", ("ms", "frames/s", "max", "differ"))
    for result in results:
        for name, line in result["lines"].items():
            cells = (f"{line['median_ms']:.1f}", f"{line['frames_per_second']:.1f}", str(line["max"]))
            table.add_row(result["size"], name, *cells, f"{line['differ_percent']:.3f} %")
        table.add_section()
    print_table(console, table, with_mark(NOTES))
