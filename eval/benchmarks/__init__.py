"""The benchmarks, by name.

A new benchmark is a file here with a subclass of `Benchmark`, its line in BENCHMARKS, and a script of three lines in
scripts/. lmms-eval has to have tasks for it.
"""

from .base import Benchmark
from .egoschema import EGOSCHEMA
from .longvideobench import LONGVIDEOBENCH
from .mlvu import MLVU_DEV
from .mvbench import MVBENCH
from .perceptiontest import PERCEPTIONTEST
from .videomme import VIDEOMME

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (MVBENCH, MLVU_DEV, VIDEOMME, LONGVIDEOBENCH, EGOSCHEMA, PERCEPTIONTEST)
}

__all__ = ["BENCHMARKS", "Benchmark", "select_tasks"]


def select_tasks(names: str) -> tuple[Benchmark, tuple[str, ...]]:
    """Return the benchmark and the lmms-eval tasks that --tasks names.

    Args:
        names: A benchmark ("mvbench"), or some of its tasks ("mvbench_action_count,mvbench_state_change").

    Raises:
        ValueError: A name is unknown, or the tasks belong to different benchmarks.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for benchmark in BENCHMARKS.values():
        if wanted == [benchmark.name]:
            return benchmark, benchmark.tasks
        if wanted and all(name in benchmark.tasks for name in wanted):
            return benchmark, tuple(dict.fromkeys(wanted))
    tasks = "; ".join(f"{b.name} ({', '.join(b.tasks)})" for b in BENCHMARKS.values())
    raise ValueError(f"--tasks {names!r} is no benchmark, and no tasks of one benchmark; there are {tasks}")
