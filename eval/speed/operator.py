"""vidcom2 bench operator: time and memory of VidCom²'s selection on random features."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from llava.model.builder import resolve_dtype
from vidcom2 import VidCom2

from ..results.files import prepare_json, write_json
from ..results.terminal import stdout
from ..run.flags import require_at_least
from .arguments import choose_device
from .memory import peak_bytes
from .operator_methods import methods_of, run_methods
from .operator_vllm import run_vllm, vllm_mask
from .random_features import features, parse_sizes
from .reference_operator import slow_reference
from .rounds import in_turns, machine, with_mark
from .tables import milliseconds, new_table, print_table

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
"""The implementations, by line of the table: features [T, M, D] to positions of kept tokens, int64 [N]."""
COMPILED = "{}, compiled"
NOTES = (
    "ms is the median and p90 the 90th percentile of the time in milliseconds. All lines of a size take turns in one "
    f"run. The retention ratio is {RETENTION}.",
    f"{PAPER}, {RELEASED} and {SLOW} are implementations of the selection: scores, budgets, top-k and gathering the "
    f"kept tokens. {SLOW} does the same as {RELEASED}, straightforwardly. {GATHER} is the gathering in {PAPER}.",
    f"{READ} is x.sum() and {COPY} is x.clone(), where x are the features. reads is a line's median divided by that of "
    f"{READ}. faster is the median of {SLOW} divided by a line's median.",
    "extra is the peak memory of a selection in percent of the features. It counts neither the features nor the "
    "gathered tokens.",
    f"differ is the number of tokens that {RELEASED} keeps and {SLOW} drops.",
)


@dataclass(frozen=True)
class Result:
    """What was measured on features of one size.

    Attributes:
        size: Frames T, tokens per frame M, hidden size D.
        feature_bytes: Bytes of the features.
        milliseconds: Every round's time, by line of the table.
        extra_bytes: Peak memory beyond the features, by selection.
        kept: Number of tokens that RELEASED keeps.
        different: Number of tokens that RELEASED keeps and SLOW drops.
    """

    size: tuple[int, int, int]
    feature_bytes: int
    milliseconds: dict[str, list[float]]
    extra_bytes: dict[str, int]
    kept: int
    different: int

    def median(self, line: str) -> float:
        """Median time of a line, in milliseconds."""
        return statistics.median(self.milliseconds[line])

    def p90(self, line: str) -> float:
        """90th percentile of the time of a line, in milliseconds."""
        return float(np.percentile(self.milliseconds[line], 90))

    def summary(self) -> dict[str, Any]:
        """All fields and the numbers of the table, ready for JSON."""
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


def prepare_operator(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the arguments; return a function that measures, prints and writes."""
    sizes = parse_sizes(arguments.sizes)
    device = choose_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    require_at_least(2, arguments, "repeats")
    prepare_json(arguments.json)
    if arguments.methods is not None:
        if arguments.compile:
            raise ValueError("--compile compiles VidCom²'s selections only: leave out --methods or --compile")
        if arguments.vllm:
            raise ValueError("--methods and --vllm are two tables: leave one of them out")
        methods = methods_of(arguments.methods)
        return partial(run_methods, sizes, dtype, device, arguments.repeats, methods, arguments.json)
    if arguments.vllm:
        if arguments.compile:
            raise ValueError("--compile has no effect on --vllm: leave one of them out")
        vllm_mask(torch.ones(2, 4, 8))  # says at once if vLLM is not there
        return partial(run_vllm, sizes, dtype, device, arguments.repeats, arguments.json)
    selections = dict(SELECTIONS)
    if arguments.compile:
        selections |= {COMPILED.format(line): torch.compile(SELECTIONS[line]) for line in (PAPER, RELEASED)}
    return partial(run_operator, sizes, dtype, device, arguments.repeats, selections, arguments.json)


def run_operator(
    sizes: list[tuple[int, int, int]],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    selections: Mapping[str, Callable[[Tensor], Tensor]],
    file: Path | None,
) -> int:
    """Measure every size, print the table and write the JSON file, if one is named."""
    results = [measure(features(size, dtype, device), repeats, selections) for size in sizes]
    print_results(stdout(), results, f"{device}, {dtype}")
    if file is not None:
        settings = {"dtype": str(dtype).removeprefix("torch."), "retention": RETENTION, "repeats": repeats}
        summaries = [result.summary() for result in results]
        write_json(file, {**machine(device), **settings, "notes": NOTES, "sizes": summaries})
    return 0


def measure(x: Tensor, repeats: int, selections: Mapping[str, Callable[[Tensor], Tensor]]) -> Result:
    """Time all lines, and compare the tokens that RELEASED and SLOW keep.

    Args:
        x: Features [T, M, D].
        repeats: How many rounds to time.
        selections: The implementations to measure: SELECTIONS, and perhaps compiled ones.
    """

    def gathering(select: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: x.flatten(0, 1).index_select(0, select(x))

    index = SELECTIONS[PAPER](x)
    calls = {READ: lambda: x.sum(), COPY: lambda: x.clone(), GATHER: gathering(lambda _: index)}
    calls |= {line: gathering(select) for line, select in selections.items()}
    released, slow = (set(SELECTIONS[line](x).tolist()) for line in (RELEASED, SLOW))
    frames, m, channels = x.shape
    return Result(
        size=(frames, m, channels),
        feature_bytes=x.nbytes,
        milliseconds=in_turns(calls, repeats, x.device),
        extra_bytes={line: peak_bytes(select, x) for line, select in selections.items()},
        kept=len(released),
        different=len(released - slow),
    )


def print_results(console: Console, results: list[Result], title: str) -> None:
    """Print the table and its notes."""
    columns = ("ms", "p90", "reads", "faster", "extra", "differ")
    table = new_table(f"VidCom²'s selection, {title}", "T x M x D", columns)
    for result in results:
        size = "x".join(map(str, result.size))
        for line, value in result.summary()["lines"].items():
            selection = line in result.extra_bytes
            table.add_row(
                size if line == READ else "",
                line,
                *(milliseconds(value[name]) for name in ("median_ms", "p90_ms")),
                f"{value['reads']:.1f}",
                f"{value['faster']:.1f}" if selection else "",
                f"{100 * result.extra_bytes[line] / result.feature_bytes:.1f} %" if selection else "",
                str(result.different) if line == RELEASED else "",
            )
        table.add_section()
    print_table(console, table, with_mark(NOTES))
