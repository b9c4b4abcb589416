"""python -m eval: the command line behind scripts/.

Environment variables are read here and in eval/run/flags.py, nowhere else.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidcom2 import method_names

from .benchmarks import select_tasks
from .doctor.command import add_doctor
from .models.canary import CanaryError
from .paper.command import add_table
from .paper.figure1 import add_frame_drop
from .reports.compare import add_compare
from .reports.html import add_report
from .reports.visualize import add_visualize
from .results.files import NO_ROOM, Unwritable
from .run.distributed import Place
from .run.evaluate import run, stay
from .run.flags import FAILED_QUESTIONS, add_flags, run_config, status
from .run.pool import Unsuitable
from .run.questions import NoQuestions
from .run.store import OutputInUse
from .run.sweep import Sweep, canonical, folder, split_specs
from .speed.command import add_bench
from .speed.efficiency.command import add_efficiency

INTERRUPTED = 130
"""Exit status, as shells have it for Ctrl-C."""
DEFAULT_MODEL = "lmms-lab/llava-onevision-qwen2-7b-ov"
SETTINGS_IN_ENVIRONMENT = ("MODEL", "COMPRESSOR", "R_RATIO", "NUM_GPUS", "ATTN", "DATA", "DECODER", "PARSER", "ENGINE")
"""What a run takes from there, besides OUTPUT and LIMIT."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add_run(commands)
    add_sweep(commands)
    add_frame_drop(add_evaluation(commands, "frame-drop", "drop the most unique or the most redundant frames", ""))
    add_compare(commands)
    add_doctor(commands)
    add_table(commands)
    add_visualize(commands)
    add_report(commands)
    add_bench(commands)
    add_efficiency(commands)
    print_anything(sys.stdout)
    arguments = parser.parse_args(argv)
    try:
        try:
            start = arguments.prepare(arguments)
        except (ValueError, OSError, ImportError) as error:
            return failed(error)
        return start()
    except (OutputInUse, CanaryError, Unsuitable, NoQuestions, Unwritable) as error:
        return failed(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return failed(Unwritable(error.filename or "a temporary file or a cache", error))
    except KeyboardInterrupt:
        print("interrupted; an evaluation keeps its answers, and goes on when it is started again", file=sys.stderr)
        return INTERRUPTED


def print_anything(stream: Any) -> None:
    """Have a stream write what its encoding lacks as escapes; a terminal need not be UTF-8."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def failed(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1


def add_run(commands: argparse._SubParsersAction) -> None:
    parser = add_evaluation(commands, "run", "evaluate a model on a benchmark", "COMPRESSOR, R_RATIO, ")
    parser.add_argument(
        "--compressor",
        help=f"none, or one of {', '.join(method_names())} with settings, such as vidcom2@0.25:rounding=exact; if "
        "unset, COMPRESSOR, or vidcom2",
    )
    parser.add_argument("--retention", type=float, help="share of tokens to keep; R_RATIO, if that is unset, too")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="the small model that comes along, on videos made here, dense and compressed",
    )
    parser.set_defaults(prepare=lambda arguments: prepare_run(arguments, parser))


def add_sweep(commands: argparse._SubParsersAction) -> None:
    sweep = add_evaluation(
        commands, "sweep", "evaluate many compressors, decoding and encoding every video once; finished ones stay", ""
    )
    sweep.add_argument("--compressors", required=True, help="specs, such as none,vidcom2@0.25,fastv@0.25")
    sweep.set_defaults(prepare=prepare_sweep)


def add_evaluation(commands: argparse._SubParsersAction, name: str, what: str, more: str) -> argparse.ArgumentParser:
    """A subcommand with the flags that all evaluations have. more: environment variables that it has besides."""
    env = os.environ
    run = commands.add_parser(
        name,
        help=what,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog=f"Defaults come from MODEL, {more}NUM_GPUS, OUTPUT, LIMIT, ATTN, DATA, PARSER and ENGINE where set. An "
        "interrupted evaluation goes on when it is started again. Exit status: 0 all questions answered, "
        f"{FAILED_QUESTIONS} some questions failed (listed), mostly for an unreadable video; any other: it failed.",
    )
    run.add_argument("--tasks", required=True, help="a benchmark (mvbench), or some of its lmms-eval tasks")
    run.add_argument("--model", default=env.get("MODEL") or DEFAULT_MODEL, help="checkpoint directory or hub name")
    run.add_argument("--output", default=env.get("OUTPUT") or None, type=Path, help="directory for the results")
    run.add_argument("--overwrite", action="store_true", help="replace results that are in --output already")
    run.add_argument("--data", default=env.get("DATA") or None, type=Path, help="local benchmark instead of the hub")
    add_flags(run)
    return run


def prepare_run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded; returns what does the rest."""
    benchmark, _ = select_tasks(arguments.tasks)
    if arguments.demo:
        from .demo.run import PER_TASK, require_replaceable, run_demo

        per_task = PER_TASK if arguments.limit is None else arguments.limit
        if per_task < 1:
            raise ValueError(f"--limit {per_task} must be at least 1")
        kept = ("command", "prepare", "tasks", "output", "limit", "demo")
        own = {name: parser.get_default(name) for name in vars(arguments)} | {"device": "cpu"}
        given = [name for name, value in vars(arguments).items() if value not in (None, own[name])]
        without = [f"--{name.replace('_', '-')}" for name in given if name not in kept]
        without += [f"{name} in the environment" for name in SETTINGS_IN_ENVIRONMENT if os.environ.get(name)]
        if without:
            raise ValueError(f"--demo has its own model, videos and settings: leave out {', '.join(without)}")
        output = arguments.output or Path("outputs/demo") / benchmark.name
        require_replaceable(output)
        return lambda: status(run_demo(benchmark, output, per_task))
    config = run_config(arguments, chosen_spec(arguments.compressor, arguments.retention, os.environ))
    if arguments.output is None:
        config = replace(config, output=config.output / folder(config.compressor))
    config.check()
    place = Place.find(arguments.num_gpus, config.device, config.zero3 is not None)
    return lambda: status(stay(config, place) if config.done else run([config], place))


def chosen_spec(spec: str | None, retention: float | None, env: Mapping[str, str]) -> str:
    """What --compressor and --retention say, where they are given, else COMPRESSOR and R_RATIO.

    ValueError for a retention that is given twice, or for no compressor.
    """
    named = spec or env.get("COMPRESSOR") or "vidcom2"
    dense, tells = canonical(named) == "none", "@" in named or ":retention=" in named
    source, ratio = f"--retention {retention}", env.get("R_RATIO")
    if dense and retention is not None:
        raise ValueError(f"{source} with compressor {named}, which compresses nothing: leave one of them out")
    if retention is None and ratio and not dense and not (tells and spec):  # flags win
        source = f"R_RATIO={ratio}"
        try:
            retention = float(ratio)
        except ValueError as error:
            raise ValueError(f"{source} is no number, such as 0.25") from error
    if retention is None:
        return canonical(named)
    chosen = canonical(named, retention=retention)
    if tells and chosen != canonical(named):
        raise ValueError(f"compressor {named} and {source} tell two retentions: leave one of them out")
    return chosen


def prepare_sweep(arguments: argparse.Namespace) -> Callable[[], int]:
    sweep = Sweep(run_config(arguments, "none"), split_specs(arguments.compressors))
    sweep.check()
    place = Place.find(arguments.num_gpus, sweep.config.device, sweep.config.zero3 is not None)
    return lambda: status(sweep.run(place))
