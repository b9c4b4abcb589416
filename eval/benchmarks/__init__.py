"""The benchmarks that can be run, by name.

To add a benchmark that lmms-eval has:

1. Write a file here with a subclass of `Benchmark` and one instance of it. The subclass names lmms-eval's tasks and
   metric, says where a local copy keeps its questions and videos, and reads lmms-eval's logged samples. `EgoSchema`
   is a short example.
2. Add the instance to BENCHMARKS. The command line, the doctor, the reports and the tables find it there.
3. Add a small copy of it to the tests.

lmms-eval itself makes the prompts and scores the answers. Its other tasks run without a file here, see `AnyTask`.
"""

from .any_task import PREFIX, AnyTask
from .base import Benchmark
from .egoschema import EGOSCHEMA
from .longvideobench import LONGVIDEOBENCH, LONGVIDEOBENCH_SUBTITLES
from .lvbench import LVBENCH
from .mlvu import MLVU_DEV, MLVU_TEST
from .motionbench import MOTIONBENCH
from .mvbench import MVBENCH
from .perceptiontest import PERCEPTIONTEST
from .tempcompass import TEMPCOMPASS
from .tomato import TOMATO_BENCH
from .tvbench import TVBENCH
from .videomme import VIDEOMME, VIDEOMME_SUBTITLES
from .videomme_v2 import VIDEOMME_V2, VIDEOMME_V2_SUBTITLES
from .videommmu import VIDEO_MMMU

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(MVBENCH, MLVU_DEV, MLVU_TEST, VIDEOMME, VIDEOMME_SUBTITLES, VIDEOMME_V2, VIDEOMME_V2_SUBTITLES),
        *(LONGVIDEOBENCH, LONGVIDEOBENCH_SUBTITLES, EGOSCHEMA, PERCEPTIONTEST, LVBENCH, TEMPCOMPASS, MOTIONBENCH),
        *(TVBENCH, TOMATO_BENCH, VIDEO_MMMU),
    )
}

__all__ = ["BENCHMARKS", "AnyTask", "Benchmark", "benchmark_named", "select_tasks"]


def select_tasks(names: str) -> tuple[Benchmark, tuple[str, ...]]:
    """Find the benchmark and the tasks that --tasks names.

    Args:
        names: A benchmark ("mvbench"), or some of its lmms-eval tasks, separated by commas
            ("mvbench_action_count,mvbench_state_change"), or other tasks or groups of lmms-eval, or paths of task
            files ("longtimescope,my/task.yaml").

    Returns:
        The benchmark, and lmms-eval's names of the tasks without repetitions.

    Raises:
        ValueError: For an unknown name, no name, and tasks of one benchmark with any others.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for benchmark in BENCHMARKS.values():
        if wanted == [benchmark.name]:
            return benchmark, benchmark.tasks
        if wanted and all(name in benchmark.tasks for name in wanted):
            return benchmark, tuple(dict.fromkeys(wanted))
    ours = {name for benchmark in BENCHMARKS.values() for name in (benchmark.name, *benchmark.tasks)}
    other = None if ours & set(wanted) else AnyTask.named(wanted)
    if other is not None:
        return other, other.tasks
    tasks = "; ".join(f"{b.name} ({', '.join(b.tasks)})" for b in BENCHMARKS.values())
    raise ValueError(
        f"--tasks {names!r} is no benchmark, no tasks of one benchmark, and no other tasks of lmms-eval; there are "
        f"{tasks}"
    )


def benchmark_named(name: str) -> Benchmark | None:
    """Return the benchmark that a results.json names. None for an unknown one."""
    return BENCHMARKS.get(name) or (AnyTask({}, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None)
