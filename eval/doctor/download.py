"""How to get a benchmark's data, as lmms-eval's own task files describe it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..benchmarks import Benchmark
from ..benchmarks.declared import declaration, task_folder
from ..benchmarks.mvbench import MVBENCH

NOT_ON_THE_HUB = {
    "mvbench_fine_grained_pose": "if the download lacks them: the licence of NTU RGB+D allows only NTU's ROSE Lab to "
    "give out its videos, on request",
}
"""Tasks whose videos the benchmark's hub dataset may lack, and where to ask for them."""


def download_steps(benchmark: Benchmark, names: tuple[str, ...], data: Path) -> list[str]:
    """The steps that bring the data of some tasks into a directory.

    Args:
        benchmark: The benchmark.
        names: lmms-eval's names of the tasks; at least one.
        data: The directory.

    Returns:
        One line of text per step: the download, the unpacking and, for MVBench, each task's folder of videos.
    """
    config = declared_settings(benchmark, names[0])
    revision = config["dataset_kwargs"].get("revision")
    flags = f"--revision {revision} " if revision else ""
    target = shlex.quote(str(data))
    steps = [
        f"hf download --repo-type dataset {benchmark.hub or config['dataset_path']} {flags}--local-dir {target}",
        # lmms-eval unpacks archives in the same way, wherever they are in the dataset.
        f"unpack every zip and tar of it into {target} itself (one in parts: cat NAME.tar.* | tar x), again where "
        f"files are broken. {benchmark.layout}",
    ]
    if benchmark is MVBENCH:
        for name in names:
            folder = f"{name}: {benchmark.local_video(name, data, {'video': ''})}"
            steps.append(folder + (f" ({NOT_ON_THE_HUB[name]})" if name in NOT_ON_THE_HUB else ""))
    return steps


def declared_settings(benchmark: Benchmark, name: str) -> dict[str, Any]:
    """A task's settings in lmms-eval's YAML files."""
    tasks = task_folder()
    assert tasks is not None
    declared = (declaration(file) for file in sorted((tasks / benchmark.folder).glob("*.yaml")))
    return next(config for config in declared if config.get("task") == name)
