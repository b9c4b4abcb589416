"""vidcom2 bench operator --methods: time, memory and growth of all methods' selections, measured in one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from vidcom2 import Compressor, all_methods, compressor

from ..results.files import write_json
from ..results.terminal import stdout
from .memory import peak_bytes
from .random_features import features
from .rounds import in_turns, machine, with_mark
from .tables import milliseconds, new_table, print_table

ALL = "all"
"""What --methods takes for every method."""
BASE = "vidcom2"
"""The paper's form of VidCom², which the others are compared with."""
DOUBLED = "{} on 2T"
NOTES = (
    "ms is the median and p90 the 90th percentile of the time in milliseconds, of everything between the features and "
    "the tokens that the LLM gets: scores, budgets, selection, merging, gather. All lines of a size take turns in one "
    f"run. Without @ in its spec, a method's retention ratio is {compressor(BASE).retention}.",
    f"ratio is a line's median divided by that of {BASE}, the paper's form.",
    "growth is the median time for 2T frames divided by that for T; 2 is linear. The T frames are the first of the 2T.",
    "extra is the peak memory as a multiple of the features. It counts what the LLM gets, but not the features.",
    "kept is the number of tokens that the LLM gets.",
)


@dataclass(frozen=True)
class Field:
    """What was measured on features of one size.

    Attributes:
        size: Frames T, tokens per frame M, hidden size D.
        feature_bytes: Bytes of the features.
        milliseconds: Every round's time, by spec.
        doubled: The same with 2T frames.
        extra_bytes: Peak memory beyond the features, by spec.
        kept: Number of tokens that the LLM gets, by spec.
        refused: Why a method selects nothing at this size, by spec.
    """

    size: tuple[int, int, int]
    feature_bytes: int
    milliseconds: dict[str, list[float]]
    doubled: dict[str, list[float]]
    extra_bytes: dict[str, int]
    kept: dict[str, int]
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """All fields and the numbers of the table, ready for JSON."""
        base = self.milliseconds[BASE]
        lines = {}
        for spec, times in self.milliseconds.items():
            median = statistics.median(times)
            lines[spec] = {
                "median_ms": median,
                "p90_ms": float(np.percentile(times, 90)),
                "ratio": median / statistics.median(base),
                "ratio_of_best": min(times) / min(base),
                "growth": statistics.median(self.doubled[spec]) / median,
                "extra": self.extra_bytes[spec] / self.feature_bytes,
            }
        return {**asdict(self), "lines": lines}


def methods_of(text: str) -> dict[str, Compressor]:
    """Return the methods that --methods names, by spec. The one that all are compared with comes first.

    Args:
        text: "all" for every method before the LLM and its presets, or specs with commas in between.

    Raises:
        ValueError: A spec is wrong, or names a method that selects nothing before the LLM.
    """
    specs = [spec.strip() for spec in text.split(",")]
    if specs == [ALL]:
        specs = []
        for name, kind in sorted(all_methods().items()):
            if kind.drops and kind.stage == "before LLM":
                specs += [name, *(f"{name}.{preset}" for preset in kind.presets)]
    methods = {spec: compressor(spec) for spec in dict.fromkeys([BASE, *specs])}
    for spec, method in methods.items():
        if not method.drops or method.stage != "before LLM":
            raise ValueError(f"--methods: {spec} selects nothing before the LLM, so there is nothing to time")
    return methods


def run_methods(
    sizes: list[tuple[int, int, int]],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    methods: dict[str, Compressor],
    file: Path | None,
) -> int:
    """Measure every size, print the table and write the JSON file, if one is named."""
    results = [measure_methods(size, dtype, device, repeats, methods) for size in sizes]
    print_methods(stdout(), results, f"{device}, {dtype}")
    if file is not None:
        settings = {"dtype": str(dtype).removeprefix("torch."), "repeats": repeats}
        summaries = [result.summary() for result in results]
        write_json(file, {**machine(device), **settings, "notes": NOTES, "sizes": summaries})
    return 0


def measure_methods(
    size: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    methods: dict[str, Compressor],
) -> Field:
    """Time all methods in turns, on features of one size and on twice as many frames.

    Args:
        size: Frames T, tokens per frame M, hidden size D.
        dtype: Type of the features.
        device: Their device.
        repeats: How many rounds to time.
        methods: The methods by spec, with that of BASE.
    """
    frames, m, channels = size
    twice = features((2 * frames, m, channels), dtype, device)
    x = twice[:frames]
    calls: dict[str, Callable[[], Tensor]] = {}
    kept, refused, extra = {}, {}, {}
    for spec, method in methods.items():
        try:
            kept[spec] = len(selected(method, x))
            selected(method, twice)
        except ValueError as error:
            refused[spec] = str(error)
            continue
        calls[spec] = partial(selected, method, x)
        calls[DOUBLED.format(spec)] = partial(selected, method, twice)
        extra[spec] = peak_bytes(partial(selected, method), x)
    times = in_turns(calls, repeats, device)
    return Field(
        size=size,
        feature_bytes=x.nbytes,
        milliseconds={spec: times[spec] for spec in extra},
        doubled={spec: times[DOUBLED.format(spec)] for spec in extra},
        extra_bytes=extra,
        kept={spec: kept[spec] for spec in extra},
        refused=refused,
    )


def selected(method: Compressor, x: Tensor) -> Tensor:
    """Return the tokens [N, D] that the LLM gets of the features x [T, M, D]."""
    return method.select(x, grid_of(x.shape[1]) if method.uses_grid else None).apply(x)


def grid_of(m: int) -> tuple[int, int]:
    """Rows and columns of a frame of m tokens, as near to a square as they can be."""
    rows = next(rows for rows in range(math.isqrt(m), 0, -1) if m % rows == 0)
    return rows, m // rows


def print_methods(console: Console, results: list[Field], title: str) -> None:
    """Print the table, its notes, and why methods are missing in it."""
    columns = ("ms", "p90", "ratio", "growth", "extra", "kept")
    table = new_table(f"Selections before the LLM, {title}", "T x M x D", columns)
    notes = list(NOTES)
    for result in results:
        size = "x".join(map(str, result.size))
        for spec, value in result.summary()["lines"].items():
            table.add_row(
                size if spec == BASE else "",
                spec,
                *(milliseconds(value[name]) for name in ("median_ms", "p90_ms")),
                *(f"{value[name]:.2f}" for name in ("ratio", "growth", "extra")),
                str(result.kept[spec]),
            )
        for spec, reason in result.refused.items():
            table.add_row("", spec, "no")
            notes.append(f"{spec} selects nothing at {size}: {reason}")
        table.add_section()
    print_table(console, table, with_mark(notes))
