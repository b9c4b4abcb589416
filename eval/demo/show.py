"""--demo: the demo model on MiniBench, dense and compressed, side by side."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ..benchmarks import Benchmark, select_tasks
from ..results.files import prepare_directory
from ..run.config import RunConfig
from ..run.distributed import Place
from ..run.flags import environment, status
from ..run.store import reserved
from ..run.sweep import Sweep, canonical, folder
from .minibench import WRITERS
from .world import TASKS, UNITS

MODEL = Path(__file__).parent / "model"
# Of 16 tokens per frame, rounding every frame's budget up would keep a quarter more than asked for.
SETTINGS = tuple(
    canonical(spec)
    for spec in (
        "none",
        "vidcom2@0.25:rounding=exact",
        "vidcom2@0.25:rounding=exact:positions=original",
        "vidcom2@0.15:rounding=exact",
        "vidcom2@0.15:rounding=exact:positions=original",
    )
)
PER_TASK = 40
PARTS = ("data", *map(folder, SETTINGS))
"""What a demo leaves in its directory, and the next one there replaces."""
MARKER = ".demo"
"""The file that says that a directory's PARTS are a demo's."""


def prepare_demo(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `run --demo`. Return a function that runs the demo.

    Raises:
        ValueError: A flag or an environment variable chooses what the demo chooses itself.
        FileExistsError: As `require_own`.
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
    require_own(output)
    return lambda: status(show(benchmark, output, per_task))


def require_own(output: Path) -> None:
    """Raise FileExistsError for a directory whose PARTS are not a demo's, and would be deleted."""
    if not (output / MARKER).exists() and (others := [part for part in PARTS if (output / part).exists()]):
        raise FileExistsError(
            f"--output {output} holds {', '.join(others)}, not known to be a demo's, which --demo would delete: choose "
            "another --output, or remove that yourself"
        )


def show(benchmark: Benchmark, output: Path, per_task: int) -> int:
    """Make the benchmark, run every setting, print and write one table; returns how many questions failed.

    Raises as `require_own`, and OutputInUse where another demo is at work in the directory.
    """
    require_own(output)
    prepare_directory("--output", output)
    with reserved(output):
        (output / MARKER).touch()
        for part in PARTS:
            shutil.rmtree(output / part, ignore_errors=True)
        print(f"making {benchmark.name}'s questions and videos in {output}", file=sys.stderr)
        sweep = Sweep(config(benchmark, WRITERS[benchmark.name](output / "data", per_task), output), SETTINGS)
        sweep.check()
        failed = sweep.run(Place())
    print("positions=original: kept tokens keep their places; without it they are numbered anew (docs/demo.md)")
    return failed


def config(benchmark: Benchmark, data: Path, output: Path) -> RunConfig:
    """The demo model on a MiniBench edition, on the CPU."""
    tasks = ",".join(f"mvbench_{task}" for task in TASKS) if benchmark.name == "mvbench" else benchmark.name
    return RunConfig(
        model=str(MODEL),
        tasks=tasks,
        compressor="none",
        output=output,
        data=data,
        sampling=f"uniform:{UNITS}",
        dtype="float32",
        device="cpu",
    )
