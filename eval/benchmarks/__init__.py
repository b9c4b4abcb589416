"""The benchmarks that can be run, by name.

To add a benchmark that lmms-eval has:

1. Write a file here with a subclass of `Benchmark` and one instance of it. The subclass names lmms-eval's tasks and
   metric, says where a local copy keeps its questions and videos, and reads lmms-eval's logged samples. `EgoSchema`
   is a short example.
2. Add the instance to BENCHMARKS. The command line, the doctor, the reports and the tables find it there.
3. Add a small copy of it to the tests.

lmms-eval itself makes the prompts and scores the answers. Its other tasks run without a file here, see `AnyTask`.
"""

from difflib import get_close_matches

from .any_task import PREFIX, AnyTask, is_file_name
from .base import Benchmark
from .declared import all_names, file_of, leaves
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
    if not wanted:
        raise ValueError(f"--tasks {names!r} is no benchmark: give one, such as {MVBENCH.name}; --help lists them")
    for name in wanted:
        if name in ours or is_file_name(name) or leaves(name):
            continue
        if file := file_of(name):
            raise ValueError(f"--tasks {name} is a group without tasks that have names ({file}): name tasks")
        raise ValueError(f"--tasks {name} is no benchmark, and no task or group of lmms-eval{_nearly(name, ours)}")
    other = None if ours & set(wanted) else AnyTask.named(wanted)
    if other is not None:
        return other, other.tasks
    raise ValueError(
        f"--tasks {names} is no benchmark, and not only tasks of one benchmark: run {' and '.join(wanted)} one by one"
    )


def _nearly(name: str, ours: set[str]) -> str:
    """Return what to do about a name that there is not: the most similar ones, if there are any."""
    spelt = {known.lower(): known for known in sorted(ours | all_names())}
    near = [spelt[one] for one in get_close_matches(name.lower(), spelt)]
    return f"; did you mean {' or '.join(near)}?" if near else ": --help lists benchmarks; a task file ends in .yaml"


def benchmark_named(name: str) -> Benchmark | None:
    """Return the benchmark that a results.json names. None for an unknown one."""
    return BENCHMARKS.get(name) or (AnyTask({}, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None)
