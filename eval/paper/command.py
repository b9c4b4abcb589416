"""vidcom2 table N: run what a table of the paper needs, and write it beside the published numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from vidcom2 import compressor

from ..models import protocol_for
from ..results.files import prepare_directory
from ..results.summary import PARSERS
from ..run.command import run_config
from ..run.distributed import World
from ..run.flags import status
from ..run.sweep import Sweep
from .published import PaperTable, Part, paper_table
from .render import render, write
from .tables import directory


def prepare_table(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check all runs before the first begins. Return a function that runs them and writes the table."""
    table = paper_table(arguments.table)
    if arguments.model is not None:
        table = replace(table, parts=tuple(part_for(table, model) for model in arguments.model))
    parser = arguments.parser
    if parser not in PARSERS:
        raise ValueError(f"--parser {parser!r} is unknown; there are {', '.join(PARSERS)}")
    prepare_directory("--output", arguments.output)
    render(table, arguments.runs, parser)  # finds now what is wrong with runs that are there already
    if arguments.render_only:
        return lambda: write(table, arguments.runs, arguments.output, parser)

    sweeps = [
        sweep_for(arguments, part, benchmark)
        for part in table.parts
        for benchmark in chosen_benchmarks(table, arguments.only)
    ]
    for sweep in sweeps:
        sweep.check()
    world = World.join(arguments.num_gpus, sweeps[0].config.device, sweeps[0].config.zero3 is not None)

    def finish() -> int:
        failed = 0
        for sweep in sweeps:
            failed += sweep.run(world)
            if world.rank == 0:
                write(table, arguments.runs, arguments.output, parser)  # a table takes long: show what there is
        return status(failed)

    return finish


def sweep_for(arguments: argparse.Namespace, part: Part, benchmark: str) -> Sweep:
    """Return the runs of all rows of a part on one benchmark."""
    own = {
        "tasks": benchmark,
        "model": part.checkpoint,
        "output": directory(arguments.runs, benchmark, part.checkpoint),
        "data": arguments.data_root and arguments.data_root / benchmark,
        "overwrite": False,
        "parser": "current",  # results hold the scores by all parsers, and the table is written by --parser
    }
    config = run_config(argparse.Namespace(**{**vars(arguments), **own}))
    return Sweep(config, [compressor(row.spec) for row in part.rows])


def part_for(table: PaperTable, model: str) -> Part:
    """Return the part about the model's family, with that model as its checkpoint.

    Raises:
        ValueError: The table has no such part.
    """
    harness_name = protocol_for(model).harness_name
    part = next((part for part in table.parts if part.protocol == harness_name), None)
    if part is None:
        known = ", ".join(f"{part.model} ({part.protocol})" for part in table.parts)
        raise ValueError(f"--model {model} is evaluated as {harness_name}, but {table.title} is about {known}")
    return replace(part, checkpoint=model)


def chosen_benchmarks(table: PaperTable, only: str | None) -> tuple[str, ...]:
    """Return the benchmarks that --only names, or all of the table's.

    Raises:
        ValueError: --only names none, or one that the table does not have.
    """
    if only is None:
        return table.benchmarks
    names = tuple(dict.fromkeys(name.strip() for name in only.split(",") if name.strip()))
    if not names or not set(names) <= set(table.benchmarks):
        raise ValueError(f"--only {only!r} must be some of {', '.join(table.benchmarks)}, the table's benchmarks")
    return names
