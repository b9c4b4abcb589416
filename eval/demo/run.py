"""run --demo: evaluate a small trained model on MiniBench, dense and compressed, in one table.

`commands` has the other commands that know --demo.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vidcom2 import Compressor, Dense, compressor

from ..benchmarks import Benchmark, select_tasks
from ..models.packaged import DEMO_MODEL, DEMO_MODELS
from ..results.files import prepare_directory, write_whole
from ..results.load import load_run
from ..results.terminal import stdout
from ..run.command import chosen_compressor
from ..run.config import RunConfig
from ..run.distributed import World
from ..run.flags import environment, status
from ..run.store import reserved
from ..run.sweep import Sweep, folder
from .minibench import WRITERS
from .table import demo_markdown, print_demo
from .world import TASKS, UNITS

SETTINGS = tuple(compressor(spec) for spec in ("none", "vidcom2@0.25", "vidcom2@0.15", "random@0.25"))
"""The compressors that the demo compares."""
PER_TASK = 40
"""Questions per task, unless --limit says otherwise."""
PARTS = ("data", *(folder(setting.spec) for setting in SETTINGS))
"""The directories that a demo makes in its output directory. The next demo there replaces them."""
MARKER = ".demo"
"""The file that marks an output directory as a demo's, so that its PARTS may be replaced."""
OUTPUT = Path("outputs/demo")
"""Where demos are, unless --output says otherwise."""


def prepare_demo(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `run --demo`. Return a function that runs the demo.

    Raises:
        ValueError: A flag or an environment variable chooses what the demo chooses itself.
        FileExistsError: As `require_replaceable`.
    """
    demo = demonstrated(arguments, "compressor", "retention")
    settings = list(SETTINGS)
    if arguments.compressor or arguments.retention is not None:
        own = chosen_compressor(arguments.compressor, arguments.retention, {})
        settings += [own] if own not in settings else []
    benchmark, _ = select_tasks(demo.tasks)
    require_replaceable(demo.output)
    return lambda: status(run_demo(benchmark, demo, settings))


def demonstrated(arguments: argparse.Namespace, *kept: str) -> argparse.Namespace:
    """Fill in what the demo chooses: model, data, questions and output directory.

    Args:
        arguments: The flags of `run.flags.add_evaluation`.
        kept: Flags of the command that go with --demo, too.

    Raises:
        ValueError: A flag or an environment variable chooses what the demo chooses itself.
    """
    benchmark, _ = select_tasks(arguments.tasks)
    own = {name: arguments.default_of(name) for name in vars(arguments)} | {"device": "cpu"}
    allowed = ("command", "start", "default_of", "tasks", "output", "limit", "model", *kept)
    given = [name for name, value in vars(arguments).items() if value not in (None, own[name])]
    without = [f"--{name.replace('_', '-')}" for name in given if name not in allowed]
    without += [f"{name} in the environment" for name in environment() if name not in ("OUTPUT", "LIMIT")]
    if without:
        raise ValueError(f"--demo has its own videos and settings: leave out {', '.join(without)}")
    family = arguments.model if "model" in given else "llava-onevision"
    if family not in DEMO_MODELS:
        raise ValueError(f"--model {family} is no demo model: with --demo, write {' or '.join(DEMO_MODELS)}")
    per_task = PER_TASK if arguments.limit is None else arguments.limit
    if per_task < 1:
        raise ValueError(f"--limit {per_task} must be at least 1")
    place = OUTPUT / benchmark.name if DEMO_MODELS[family] == DEMO_MODEL else OUTPUT / family / benchmark.name
    output = arguments.output or place
    return argparse.Namespace(tasks=arguments.tasks, model=DEMO_MODELS[family], output=output, limit=per_task)


def made(demo: argparse.Namespace) -> RunConfig:
    """Make the questions and videos of a demo, and return the configuration of its runs."""
    benchmark, _ = select_tasks(demo.tasks)
    prepare_directory("--output", demo.output)
    (demo.output / MARKER).touch()
    shutil.rmtree(demo.output / "data", ignore_errors=True)
    print(f"making MiniBench's questions and videos in {demo.output / 'data'}", file=sys.stderr)
    return config(benchmark, WRITERS[benchmark.name](demo.output / "data", demo.limit), demo.output, demo.model)


def require_replaceable(output: Path) -> None:
    """Make sure that a demo deletes only what an earlier demo made.

    Raises:
        FileExistsError: The directory has PARTS, but no MARKER.
    """
    if not (output / MARKER).exists() and (others := [part for part in PARTS if (output / part).exists()]):
        raise FileExistsError(
            f"--output {output} holds {', '.join(others)}, not known to be a demo's, and --demo would delete it: "
            "choose another --output, or remove it yourself"
        )


def run_demo(benchmark: Benchmark, demo: argparse.Namespace, settings: Sequence[Compressor]) -> int:
    """Make the benchmark's files, evaluate the settings, print and write the tables.

    Args:
        benchmark: The benchmark whose schema the questions have.
        demo: As `demonstrated` returns it.
        settings: The compressors, dense first.

    Returns:
        How many questions failed.

    Raises:
        FileExistsError: As `require_replaceable`.
        OutputInUse: Another demo is running in the directory.
    """
    require_replaceable(demo.output)
    prepare_directory("--output", demo.output)
    with reserved(demo.output):
        for setting in settings:
            shutil.rmtree(demo.output / folder(setting.spec), ignore_errors=True)
        sweep = Sweep(made(demo), settings)
        sweep.check()
        failed = sweep.evaluate(World())
        runs = {run.compressor.spec: load_run(run.output) for run in sweep.runs}
        title = sweep.title({spec: run.summary for spec, run in runs.items()})
        write_whole(demo.output / "table.md", demo_markdown(title, runs))
        print_demo(stdout(), title, runs, demo.output, benchmark.name)
    return failed


def config(benchmark: Benchmark, data: Path, output: Path, model: Path = DEMO_MODEL) -> RunConfig:
    """The configuration of a run of a demo model on the CPU.

    Args:
        benchmark: The benchmark.
        data: The directory with its MiniBench edition.
        output: The directory for results.
        model: The model's directory.
    """
    tasks = ",".join(f"mvbench_{task}" for task in TASKS) if benchmark.name == "mvbench" else benchmark.name
    return RunConfig(
        model=str(model),
        tasks=tasks,
        compressor=Dense(),
        output=output,
        data=data,
        sampling=f"uniform:{UNITS}",
        dtype="float32",
        device="cpu",
    )
