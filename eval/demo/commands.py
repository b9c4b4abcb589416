"""--demo: what `run`, `sweep`, `frame-drop` and `compare` do with a demo model and MiniBench."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vidcom2 import Compressor, Dense, compressor

from ..benchmarks import select_tasks
from ..models.packaged import demo_model
from ..paper.figure1 import finish, specs, split_ratios
from ..reports.compare import compare, tell
from ..results.files import prepare_json
from ..results.terminal import stdout
from ..run.command import chosen_compressor
from ..run.flags import environment, status
from ..run.sweep import folder, split_specs
from .about import print_about
from .minibench import WRITERS
from .run import BENCHMARK, PER_TASK, SETTINGS, Demo, State, with_dense

COMMON = ("command", "start", "default_of", "tasks", "model", "limit", "output")
"""Flags that mean something to every demo."""


def prepare_run(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `run --demo`. Return a function that evaluates SETTINGS and the compressor of the flags.

    Raises:
        ValueError, FileExistsError: As `demo_of`, or the compressor is wrong.
    """
    demo = demo_of(arguments, "compressor", "retention", "overwrite")
    chosen = list(SETTINGS)
    if arguments.compressor is not None or arguments.retention is not None:
        chosen.append(chosen_compressor(arguments.compressor, arguments.retention, {}))
    return evaluation(demo, with_dense(chosen))


def prepare_sweep(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `sweep --demo`. Return a function that evaluates the compressors, and dense.

    Raises:
        ValueError, FileExistsError: As `demo_of`, or a compressor is wrong.
    """
    demo = demo_of(arguments, "compressors", "overwrite")
    return evaluation(demo, with_dense(split_specs(arguments.compressors)))


def evaluation(demo: Demo, compressors: Sequence[Compressor]) -> Callable[[], int]:
    """Return a function that evaluates the compressors, prints the tables, and says what they are."""
    demo.require_replaceable(compressors)

    def work() -> int:
        with demo.sweep(compressors) as sweep:
            failed = sweep.run(demo.world)
        print_about(stdout(), demo, [one.spec for one in compressors])
        return status(failed)

    return work


def prepare_frame_drop(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `frame-drop --demo`. Return a function that drops frames.

    Raises:
        ValueError, FileExistsError: As `demo_of`, or --ratios is wrong.
    """
    demo = demo_of(arguments, "ratios", "positions", "overwrite")
    by_setting = specs(split_ratios(arguments.ratios), arguments.positions)
    compressors = [Dense(), *by_setting.values()]
    demo.require_replaceable(compressors)

    def work() -> int:
        with demo.sweep(compressors) as sweep:
            return finish(sweep, by_setting, demo.world)

    return work


def prepare_compare(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `compare --demo A B`. Return a function that evaluates what is missing, and compares.

    Without --limit, it takes the questions that are there.

    Raises:
        ValueError, FileExistsError: As `demo_of`, or A or B is no spec.
    """
    demo = demo_of(arguments, "a", "b", "flips", "json")
    if arguments.limit is None:
        demo = replace(demo, per_task=State.read(demo.output).per_task)
    pair = [compressor(arguments.a), compressor(arguments.b)]
    if pair[0] == pair[1]:
        raise ValueError(f"compare --demo {arguments.a} {arguments.b} names one setting twice: name two")
    demo.require_replaceable(pair)
    prepare_json(arguments.json)

    def work() -> int:
        with demo.sweep(pair, timed=False) as sweep:
            failed = sweep.evaluate(demo.world)
            tell(compare(*(demo.output / folder(one.spec) for one in pair)), arguments)
        return status(failed)

    return work


def demo_of(arguments: argparse.Namespace, *own: str) -> Demo:
    """Return the demo that the flags ask for.

    Args:
        arguments: The parsed flags.
        own: The flags of the command that mean something to a demo, besides COMMON.

    Raises:
        ValueError: A flag has a wrong value, or a flag or an environment variable has no meaning for a demo.
    """
    defaults = {name: arguments.default_of(name) for name in vars(arguments)} | {"device": "cpu"}
    given = [name for name, value in vars(arguments).items() if value not in (None, defaults[name])]
    without = [f"--{name.replace('_', '-')}" for name in given if name not in (*COMMON, *own)]
    without += [f"{name} in the environment" for name in environment() if name not in ("OUTPUT", "LIMIT")]
    if without:
        raise ValueError(f"--demo has its own model, videos and settings: leave out {', '.join(without)}")
    tasks = arguments.tasks or BENCHMARK
    benchmark, _ = select_tasks(tasks)
    if tasks != benchmark.name or tasks not in WRITERS:
        raise ValueError(f"--tasks {tasks} with --demo: name a whole benchmark, one of {', '.join(WRITERS)}")
    per_task = PER_TASK if arguments.limit is None else arguments.limit
    if per_task < 1:
        raise ValueError(f"--limit {per_task} must be at least 1")
    model, _ = demo_model(arguments.model)
    output: Path = arguments.output or Demo.default_output(benchmark, model)
    return Demo(benchmark, model, output, per_task, overwrite=getattr(arguments, "overwrite", False))
