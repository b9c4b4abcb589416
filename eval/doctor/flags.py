"""Flags of the command `doctor`. Imports no heavy library."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..benchmarks import BENCHMARKS

PROBLEMS_FOUND = 3
"""Exit status if something is missing or broken."""


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `doctor`."""
    what = parser.add_argument_group("what is checked")
    what.add_argument(
        "--tasks",
        required=True,
        help=f"a benchmark ({', '.join(BENCHMARKS)}), or some of its lmms-eval tasks, separated by commas",
    )
    what.add_argument(
        "--data", type=Path, metavar="DIR", help="the local benchmark (default: only say how to get the benchmark)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--deep", action="store_true", help="decode 32 frames of each video instead of 3")
    how.add_argument(
        "--sampling",
        default="uniform:32",
        help="frames to ask of raw decord, which other harnesses read with (default: %(default)s)",
    )
    how.add_argument(
        "--workers",
        metavar="N",
        default=os.cpu_count() or 1,
        type=int,
        help="videos checked at a time (default: one per core, %(default)s)",
    )
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=60.0,
        type=float,
        help="a video that takes longer counts as broken (default: %(default)g)",
    )
    how.add_argument(
        "--checksums",
        metavar="FILE",
        type=Path,
        help="a file of sha256 sums: compare the videos that it has, and add the others (default: no sums)",
    )
    to = parser.add_argument_group("where to")
    to.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    parser.set_defaults(start="doctor.command:prepare_doctor")
    parser.epilog = f"""\
Exit status: 0 if all is fine, {PROBLEMS_FOUND} if there are problems (listed), 1 if the check
failed.

example:
  %(prog)s --tasks mvbench --data /data/MVBench --deep"""
