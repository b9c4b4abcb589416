"""The benchmarks by name. A new one is a file here with a `Benchmark`, and its line in BENCHMARKS."""

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
    """From "mvbench", or some of its lmms-eval tasks ("mvbench_action_count,mvbench_state_change").

    Raises ValueError for an unknown name and for tasks of different benchmarks.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for benchmark in BENCHMARKS.values():
        if wanted == [benchmark.name]:
            return benchmark, benchmark.tasks
        if wanted and all(name in benchmark.tasks for name in wanted):
            return benchmark, tuple(dict.fromkeys(wanted))
    tasks = "; ".join(f"{b.name} ({', '.join(b.tasks)})" for b in BENCHMARKS.values())
    raise ValueError(f"--tasks {names!r} is no benchmark, and no tasks of one benchmark; there are {tasks}")
