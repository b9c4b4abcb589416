"""vidcom2 bench tower: other ways to compute parts of a vision tower, their speed and their differences."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import linear

from llava.model.builder import resolve_dtype
from llava.model.multimodal_encoder.builder import KNOWN_TOWERS
from llava.model.multimodal_encoder.vit import VisionConfig, VisionModel

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from ..run.flags import require_at_least
from .arguments import choose_device
from .rounds import in_turns, machine, with_mark
from .tables import new_table, print_table

NOTES = (
    "The weights are random. ms is the median time in milliseconds. All lines take turns.",
    "max is the largest difference from the first line of the part, which is how the tower runs now.",
    "patches is the step from frames to patch embeddings. layer is one transformer layer; the tower has many.",
)


def prepare_tower(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that measures, prints and writes."""
    if arguments.tower not in KNOWN_TOWERS:
        raise ValueError(f"--tower {arguments.tower!r} is unknown; choose one of {', '.join(KNOWN_TOWERS)}")
    require_at_least(1, arguments, "frames")
    require_at_least(2, arguments, "repeats")
    device = choose_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype or ("float32" if device.type == "cpu" else "float16"))
    prepare_json(arguments.json)
    return partial(run_tower, arguments, device, dtype)


def run_tower(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> int:
    """Measure all parts, print the table and write the JSON file, if one is named."""
    config = VisionConfig.from_dict(KNOWN_TOWERS[arguments.tower])
    parts = measure_parts(config, arguments.frames, arguments.repeats, device, dtype, arguments.compile)
    print_results(stdout(), parts, f"{arguments.tower}, {arguments.frames} frames, {device}, {dtype}")
    file: Path | None = arguments.json
    if file is not None:
        settings = {"tower": arguments.tower, "frames": arguments.frames, "repeats": arguments.repeats}
        settings["dtype"] = str(dtype).removeprefix("torch.")
        write_json(file, {**machine(device), **settings, "notes": NOTES, "parts": parts})
    return 0


@torch.inference_mode()
def measure_parts(
    config: VisionConfig, frames: int, repeats: int, device: torch.device, dtype: torch.dtype, compiled: bool
) -> dict[str, dict[str, Any]]:
    """Measure every way to compute every part.

    Args:
        config: Sizes of the tower.
        frames: How many frames are encoded together.
        repeats: How many rounds to time.
        device: The device to compute on.
        dtype: The dtype to compute in.
        compiled: Whether to measure a compiled layer as well.

    Returns:
        Times, and differences from the first way, by part and way.
    """
    torch.manual_seed(0)
    model = VisionModel(config, layers=1, used=1).eval().to(device, dtype).vision_model
    side = config.image_size
    pixels = torch.randn(frames, 3, side, side).clamp(-1, 1).to(device, dtype)
    patches, layer = model.embeddings.patch_embedding, model.encoder.layers[0]
    patches_last = copy.deepcopy(patches).to(memory_format=torch.channels_last)
    hidden = model.embeddings(pixels)

    def matrix_product() -> Tensor:
        p, n = config.patch_size, config.num_patches_per_side
        cut = pixels[:, :, : n * p, : n * p].unflatten(3, (n, p)).unflatten(2, (n, p))  # [T, 3, n, p, n, p]
        rows = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return linear(rows, patches.weight.flatten(1), patches.bias).mT.unflatten(2, (n, n))

    parts: dict[str, dict[str, Callable[[], Tensor]]] = {
        "patches": {
            "convolution": lambda: patches(pixels),
            "channels last": lambda: patches_last(pixels.contiguous(memory_format=torch.channels_last)),
            "matrix product": matrix_product,
        },
        "layer": {
            "all frames": lambda: layer(hidden),
            "frame by frame": lambda: torch.cat([layer(frame) for frame in hidden.split(1)]),
        },
    }
    if compiled:
        compiled_layer = torch.compile(layer)
        parts["layer"]["compiled"] = lambda: compiled_layer(hidden)
    return {part: measure_ways(calls, repeats, device) for part, calls in parts.items()}


def measure_ways(calls: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device) -> dict[str, Any]:
    """Time several ways to compute the same tensor, and compare them with the first."""
    times = in_turns(calls, repeats, device)
    first = next(iter(calls.values()))()
    return {
        name: {
            "milliseconds": times[name],
            "median_ms": statistics.median(times[name]),
            "max": float((call() - first).abs().max()),
        }
        for name, call in calls.items()
    }


def print_results(console: Console, parts: dict[str, dict[str, Any]], title: str) -> None:
    """Print the table and its notes."""
    table = new_table(title, "part", ("ms", "max"))
    for part, lines in parts.items():
        for name, line in lines.items():
            table.add_row(part, name, f"{line['median_ms']:.1f}", f"{line['max']:.1e}")
        table.add_section()
    print_table(console, table, with_mark(NOTES))
