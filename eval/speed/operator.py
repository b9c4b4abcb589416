"""python -m eval bench: how long VidCom²'s selection takes, and how much memory; registers the other benchmarks too."""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llava.model.builder import resolve_dtype
from vidcom2 import VidCom2

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from .reference_operator import slow_reference
from .rounds import bench_device, in_turns, machine, require_repeats, with_mark

SIZES = "32x196x3584,64x169x3584,128x196x3584"
RETENTION = 0.25
READ = "one read"
COPY = "one copy"
GATHER = "gather alone"
PAPER = "paper"
RELEASED = "released"
SLOW = "slow reference"
SELECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    PAPER: lambda x: VidCom2(RETENTION).select(x).index,
    RELEASED: lambda x: VidCom2.released(RETENTION).select(x).index,
    SLOW: lambda x: slow_reference(x, RETENTION),
}
"""x [T, M, D] -> kept positions; SLOW is what RELEASED is compared with."""
COMPILED = "{}, compiled"
NOTES = (
    f"ms, p90: median and 90th percentile; all lines of a size take turns in one run, at R = {RETENTION}",
    f"{PAPER}, {RELEASED}, {SLOW}: scores, budgets, top-k and gather; {GATHER}: what of it {PAPER}'s gather takes",
    f"{READ}: x.sum(); {COPY}: x.clone(); reads: median / that of {READ}; faster: median of {SLOW} / median",
    "extra: the selection's peak of memory beyond the features, without the gathered tokens, in % of the features",
    f"differ: tokens that {RELEASED} keeps and {SLOW} does not",
)


@dataclass(frozen=True)
class Measured:
    """One size. milliseconds: every round of each line. extra_bytes: peak of each selection beyond the features.

    kept: tokens that RELEASED keeps. different: those of them that SLOW does not keep.
    """

    size: tuple[int, int, int]
    feature_bytes: int
    milliseconds: dict[str, list[float]]
    extra_bytes: dict[str, int]
    kept: int
    different: int

    def median(self, line: str) -> float:
        return statistics.median(self.milliseconds[line])

    def p90(self, line: str) -> float:
        return float(np.percentile(self.milliseconds[line], 90))

    def summary(self) -> dict[str, Any]:
        """JSON-ready, with what the table shows."""
        lines = {
            line: {
                "median_ms": self.median(line),
                "p90_ms": self.p90(line),
                "reads": self.median(line) / self.median(READ),
                "faster": self.median(SLOW) / self.median(line),
            }
            for line in self.milliseconds
        }
        return {**asdict(self), "lines": lines}


def prepare_bench(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything; returns what measures, prints and writes."""
    sizes = parse_sizes(arguments.sizes)
    device = bench_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    repeats = require_repeats(arguments.repeats)
    file: Path | None = arguments.json
    prepare_json(file)
    selections = dict(SELECTIONS)
    if arguments.compile:
        selections |= {COMPILED.format(line): torch.compile(SELECTIONS[line]) for line in (PAPER, RELEASED)}

    def finish() -> int:
        results = [measure(features(size, dtype, device), repeats, selections) for size in sizes]
        print_results(stdout(), results, f"{device}, {dtype}")
        if file is not None:
            write_json(file, report(results, dtype, device, repeats))
        return 0

    return finish


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """ "32x196x3584,..." as [(T, M, D), ...]; ValueError for anything else."""
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part.strip())
        if found is None:
            raise ValueError(f"--sizes: {part!r} is not frames x tokens x channels, such as 32x196x3584")
        sizes.append((int(found[1]), int(found[2]), int(found[3])))
    return sizes


def features(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random features [T, M, D] with structure: a scene that all frames share, channels and tokens that vary more and
    less. The same on every device."""
    frames, m, channels = size
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(*size).mul_(normal(frames, m, 1).exp_())
    x.add_(normal(m, channels)).add_(normal(frames, 1, channels), alpha=0.3)
    return x.mul_(normal(channels).exp_()).to(device, dtype)


def measure(x: Tensor, repeats: int, selections: Mapping[str, Callable[[Tensor], Tensor]]) -> Measured:
    """Time all lines, and compare what RELEASED and SLOW keep. selections: SELECTIONS, and perhaps more."""

    def gathered(select: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: x.flatten(0, 1).index_select(0, select(x))

    index = SELECTIONS[PAPER](x)
    calls = {READ: lambda: x.sum(), COPY: lambda: x.clone(), GATHER: gathered(lambda _: index)}
    calls |= {line: gathered(select) for line, select in selections.items()}
    ours, theirs = (set(SELECTIONS[line](x).tolist()) for line in (RELEASED, SLOW))
    frames, m, channels = x.shape
    return Measured(
        size=(frames, m, channels),
        feature_bytes=x.nbytes,
        milliseconds=in_turns(calls, repeats, x.device),
        extra_bytes={line: peak_bytes(select, x) for line, select in selections.items()},
        kept=len(ours),
        different=len(ours - theirs),
    )


def peak_bytes(call: Callable[[Tensor], Any], x: Tensor) -> int:
    """The most memory that a call with x had in use beyond what was before: all of torch's, temporaries inside its
    operators as well."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        call(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    with hidden_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call(x)
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Without what C++ code writes there, such as the profiler's log lines; exceptions pass."""
    with TemporaryFile() as hidden:
        shown = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def report(results: list[Measured], dtype: torch.dtype, device: torch.device, repeats: int) -> dict[str, Any]:
    return {
        **machine(device),
        "dtype": str(dtype).removeprefix("torch."),
        "retention": RETENTION,
        "repeats": repeats,
        "notes": NOTES,
        "sizes": [result.summary() for result in results],
    }


def print_results(console: Console, results: list[Measured], title: str) -> None:
    table = Table(title=f"VidCom²'s selection, {title}", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in ("T x M x D", ""):
        table.add_column(column, no_wrap=True)
    for column in ("ms", "p90", "reads", "faster", "extra", "differ"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        size = "x".join(map(str, result.size))
        for line, value in result.summary()["lines"].items():
            selection = line in result.extra_bytes
            table.add_row(
                size if line == READ else "",
                line,
                *(f"{value[name]:.2f}" for name in ("median_ms", "p90_ms")),
                f"{value['reads']:.1f}",
                f"{value['faster']:.1f}" if selection else "",
                f"{100 * result.extra_bytes[line] / result.feature_bytes:.1f} %" if selection else "",
                str(result.different) if line == RELEASED else "",
                end_section=line == list(result.milliseconds)[-1],
            )
    console.print(table)
    for note in with_mark(NOTES):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
