"""--demo: the demo model on MiniBench, dense and compressed, side by side."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ..benchmarks import Benchmark
from ..models.packaged import DEMO_MODEL
from ..results.files import prepare_directory
from ..run.config import RunConfig
from ..run.distributed import Place
from ..run.store import reserved
from ..run.sweep import Sweep, canonical, folder
from .minibench import WRITERS
from .world import TASKS, UNITS

MODEL = DEMO_MODEL
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
