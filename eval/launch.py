"""One process or several: torchrun's launcher, called as a library."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from eval.run import RunConfig, run


def processes(requested: int | None, device: str) -> int:
    """How many processes to start: as asked, else one per visible GPU; "auto" spreads one model, so one.

    Raises ValueError for more processes than GPUs.
    """
    if "RANK" in os.environ or (requested is None and device != "cuda"):
        return 1
    if device == "auto" and requested not in (None, 1):
        raise ValueError(f"--num-gpus {requested} with --device auto: one process spreads the model over all GPUs")
    gpus = torch.cuda.device_count()
    count = requested if requested is not None else max(1, gpus)
    if count < 1 or (device == "cuda" and count > gpus):
        raise ValueError(f"--num-gpus {count} is not between 1 and the {gpus} visible GPUs")
    return count


def launch(configs: Sequence[RunConfig], count: int, quiet: bool = False) -> int:
    """`run` on `count` local processes; returns the number of failed questions.

    Under torchrun (RANK is set) this process is one of the workers already and only runs.
    Raises torch's ChildFailedError, after stopping the others, where a process dies.
    """
    if count == 1:
        return run(configs, quiet)
    if configs[0].device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    return elastic_launch(settings, run)(configs, quiet)[0]
