"""CPU cores: how many threads a small model can use, and whether other processes kept the cores busy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import environment

PER_THREAD = 50_000_000
"""Parameters per thread. Threads of a small model wait for each other longer than they compute. The demo's model (one
million parameters) took 14 s with one thread and 7 minutes with two, on two cores that four processes shared."""
LOADED = 0.05
"""If a process waits for a CPU for a larger share of its time, its timings are marked."""
TASKS = Path("/proc/self/task")


def suit_threads(model: torch.nn.Module) -> None:
    """Limit torch to one thread per PER_THREAD parameters of the model, unless OMP_NUM_THREADS is set."""
    if not environment.sets_threads():
        worth = max(1, sum(parameter.numel() for parameter in model.parameters()) // PER_THREAD)
        torch.set_num_threads(min(torch.get_num_threads(), worth))


class Waiting:
    """Measures how long this process's threads wait for a CPU.

    The scheduler's own figures are used. The load average includes other containers and our own past minute.

    Args:
        ever: Count since the threads began. Else count from now on.
    """

    def __init__(self, ever: bool = False):
        self._before = {} if ever else _spent()

    @property
    def share(self) -> float | None:
        """Seconds waited / (seconds waited + run). None if the system does not tell, or nothing ran."""
        ran = waited = 0
        for thread, spent in _spent().items():
            before = self._before.get(thread, (0, 0))
            ran, waited = ran + spent[0] - before[0], waited + spent[1] - before[1]
        return waited / (ran + waited) if ran + waited > 0 else None


def _spent() -> dict[str, tuple[int, int]]:
    """Return the nanoseconds run and waited, by thread."""
    found = {}
    for task in TASKS.glob("*/schedstat"):
        try:
            ran, waited, _ = task.read_text(encoding="ascii").split()
        except OSError:  # it ended meanwhile
            continue
        found[task.parent.name] = int(ran), int(waited)
    return found


def mark(share: float | None) -> str:
    """Return the warning for timings that were taken while threads waited for this share of their time, or ""."""
    if share is None or share <= LOADED:
        return ""
    return (
        f"LOADED MACHINE: this process waited for a CPU for {100 * share:.0f} % of its time, so these times are too "
        "long, and not for citing: measure again with nothing else running, or fewer threads (OMP_NUM_THREADS)"
    )


def marks(measured: Mapping[str, Any]) -> str:
    """Return `mark` for the JSON file of a measurement. Older files do not say how long threads waited."""
    return mark(measured.get("waited_for_cpu"))
