"""--demo: evaluate the demo model on MiniBench, dense and compressed, in one table."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from vidcom2 import Dense, compressor

from ..benchmarks import Benchmark, select_tasks
from ..models.packaged import DEMO_MODEL
from ..results.files import prepare_directory
from ..run.config import RunConfig
from ..run.distributed import World
from ..run.flags import environment, status
from ..run.store import reserved
from ..run.sweep import Sweep, folder
from .minibench import WRITERS
from .world import TASKS, UNITS

# rounding=exact: a frame has only 16 tokens. Rounding every frame's budget up would keep a quarter more than asked for.
SETTINGS = tuple(
    compressor(spec)
    for spec in (
        "none",
        "vidcom2@0.25:rounding=exact",
        "vidcom2@0.25:rounding=exact:positions=original",
        "vidcom2@0.15:rounding=exact",
        "vidcom2@0.15:rounding=exact:positions=original",
    )
)
"""The compressors that the demo compares."""
PER_TASK = 40
"""Questions per task, unless --limit says otherwise."""
PARTS = ("data", *(folder(setting.spec) for setting in SETTINGS))
"""The directories that a demo makes in its output directory. The next demo there replaces them."""
MARKER = ".demo"
"""The file that marks an output directory as a demo's, so that its PARTS may be replaced."""


def prepare_demo(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `run --demo`. Return a function that runs the demo.

    Raises:
        ValueError: A flag or an environment variable chooses what the demo chooses itself.
        FileExistsError: As `require_replaceable`.
    """
    benchmark, _ = select_tasks(arguments.tasks)
    per_task = PER_TASK if arguments.limit is None else arguments.limit
    if per_task < 1:
        raise ValueError(f"--limit {per_task} must be at least 1")
    kept = ("command", "start", "default_of", "tasks", "output", "limit")
    own = {name: arguments.default_of(name) for name in vars(arguments)} | {"device": "cpu"}
    given = [name for name, value in vars(arguments).items() if value not in (None, own[name])]
    without = [f"--{name.replace('_', '-')}" for name in given if name not in kept]
    without += [f"{name} in the environment" for name in environment() if name not in ("OUTPUT", "LIMIT")]
    if without:
        raise ValueError(f"--demo has its own model, videos and settings: leave out {', '.join(without)}")
    output = arguments.output or Path("outputs/demo") / benchmark.name
    require_replaceable(output)
    return lambda: status(run_demo(benchmark, output, per_task))


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


def run_demo(benchmark: Benchmark, output: Path, per_task: int) -> int:
    """Make the benchmark's files, evaluate every spec in SETTINGS, print and write one table.

    Args:
        benchmark: The benchmark to imitate.
        output: The directory for data and results.
        per_task: Questions per task.

    Returns:
        How many questions failed.

    Raises:
        FileExistsError: As `require_replaceable`.
        OutputInUse: Another demo is running in the directory.
    """
    require_replaceable(output)
    prepare_directory("--output", output)
    with reserved(output):
        (output / MARKER).touch()
        for part in PARTS:
            shutil.rmtree(output / part, ignore_errors=True)
        print(f"making {benchmark.name}'s questions and videos in {output}", file=sys.stderr)
        sweep = Sweep(config(benchmark, WRITERS[benchmark.name](output / "data", per_task), output), SETTINGS)
        sweep.check()
        failed = sweep.run(World())
    print("positions=original: kept tokens keep their position ids. Without it they are numbered anew (docs/demo.md).")
    return failed


def config(benchmark: Benchmark, data: Path, output: Path) -> RunConfig:
    """The configuration of a run of the demo model on the CPU.

    Args:
        benchmark: The benchmark.
        data: The directory with its MiniBench edition.
        output: The directory for results.
    """
    tasks = ",".join(f"mvbench_{task}" for task in TASKS) if benchmark.name == "mvbench" else benchmark.name
    return RunConfig(
        model=str(DEMO_MODEL),
        tasks=tasks,
        compressor=Dense(),
        output=output,
        data=data,
        sampling=f"uniform:{UNITS}",
        dtype="float32",
        device="cpu",
    )
