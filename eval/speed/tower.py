"""python -m eval bench tower: what would make the vision tower faster, and whether its results stay."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from llava.model.builder import resolve_dtype
from llava.model.multimodal_encoder.builder import KNOWN_TOWERS
from llava.model.multimodal_encoder.vit import VisionConfig, VisionModel

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from .rounds import bench_device, in_turns, machine, require_repeats, with_mark
from .video import new_table, show

NOTES = (
    "random weights; ms: median, all lines take turns; max: largest difference from the first line, which runs today",
    "patches: frames to patch embeddings, once per frame; layer: one transformer layer, of which the tower has many",
)


def prepare_tower(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything; returns what measures, prints and writes."""
    if arguments.tower not in KNOWN_TOWERS:
        raise ValueError(f"--tower {arguments.tower!r} is unknown; there are {', '.join(KNOWN_TOWERS)}")
    if arguments.frames < 1:
        raise ValueError(f"--frames {arguments.frames} must be at least 1")
    device = bench_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype or ("float32" if device.type == "cpu" else "float16"))
    repeats = require_repeats(arguments.repeats)
    prepare_json(arguments.json)

    def finish() -> int:
        config = VisionConfig.from_dict(KNOWN_TOWERS[arguments.tower])
        parts = measure_parts(config, arguments.frames, repeats, device, dtype, arguments.compile)
        table = new_table(f"{arguments.tower}, {arguments.frames} frames, {device}, {dtype}", "part", ("ms", "max"))
        for part, lines in parts.items():
            for name, line in lines.items():
                table.add_row(part, name, f"{line['median_ms']:.1f}", f"{line['max']:.1e}")
            table.add_section()
        show(stdout(), table, with_mark(NOTES))
        if arguments.json is not None:
            settings = {"tower": arguments.tower, "frames": arguments.frames, "repeats": repeats}
            settings["dtype"] = str(dtype).removeprefix("torch.")
            write_json(arguments.json, {**machine(device), **settings, "notes": NOTES, "parts": parts})
        return 0

    return finish


@torch.inference_mode()
def measure_parts(
    config: VisionConfig, frames: int, repeats: int, device: torch.device, dtype: torch.dtype, compiled: bool
) -> dict[str, dict[str, Any]]:
    """By part and by the way it runs, today's way first."""
    torch.manual_seed(0)
    model = VisionModel(config, layers=1, used=1).eval().to(device, dtype).vision_model
    side = config.image_size
    pixels = torch.randn(frames, 3, side, side).clamp(-1, 1).to(device, dtype)
    patches, layer = model.embeddings.patch_embedding, model.encoder.layers[0]
    last = copy.deepcopy(patches).to(memory_format=torch.channels_last)
    hidden = model.embeddings(pixels)

    def product() -> Tensor:
        p, n = config.patch_size, config.num_patches_per_side
        cut = pixels[:, :, : n * p, : n * p].unflatten(3, (n, p)).unflatten(2, (n, p))  # [N, 3, n, p, n, p]
        rows = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return linear(rows, patches.weight.flatten(1), patches.bias).mT.unflatten(2, (n, n))

    ways: dict[str, dict[str, Callable[[], Tensor]]] = {
        "patches": {
            "convolution": lambda: patches(pixels),
            "channels last": lambda: last(pixels.contiguous(memory_format=torch.channels_last)),
            "matrix product": product,
        },
        "layer": {
            "all frames": lambda: layer(hidden),
            "frame by frame": lambda: torch.cat([layer(frame) for frame in hidden.split(1)]),
        },
    }
    if compiled:
        faster = torch.compile(layer)
        ways["layer"]["compiled"] = lambda: faster(hidden)
    results = {}
    for part, calls in ways.items():
        times = in_turns(calls, repeats, device)
        today = next(iter(calls.values()))()
        results[part] = {
            name: {
                "milliseconds": times[name],
                "median_ms": statistics.median(times[name]),
                "max": float((call() - today).abs().max()),
            }
            for name, call in calls.items()
        }
    return results
