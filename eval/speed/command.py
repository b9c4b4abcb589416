"""python -m eval bench: measure the speed and memory of parts of the pipeline."""

from __future__ import annotations

import argparse

from .decode import add_decode
from .operator import add_operator
from .pipeline import add_pipeline
from .preprocess import add_preprocess
from .tower import add_tower


def add_bench(commands: argparse._SubParsersAction) -> None:
    """Declare the subcommand and its benchmarks."""
    parser = commands.add_parser("bench", help="measure speed and memory")
    benchmarks = parser.add_subparsers(dest="what", required=True)
    add_decode(benchmarks)
    add_preprocess(benchmarks)
    add_tower(benchmarks)
    add_pipeline(benchmarks)
    add_operator(benchmarks)
