"""CPU cores: how many a model is worth, and whether others kept them busy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import environment

PER_THREAD = 50_000_000
"""Parameters for each thread. Threads of small models wait for each other longer than they compute: the demo, with one
million, took 14 s with one thread and 7 minutes with the usual two, on two cores that four processes shared."""
LOADED = 0.05
"""The share of its time for which a process may wait for a CPU before its figures are marked."""
TASKS = Path("/proc/self/task")


def suit_threads(model: torch.nn.Module) -> None:
    """Have torch compute with no more threads than the model is worth, unless OMP_NUM_THREADS says how many."""
    if not environment.sets_threads():
        worth = max(1, sum(parameter.numel() for parameter in model.parameters()) // PER_THREAD)
        torch.set_num_threads(min(torch.get_num_threads(), worth))


class Waiting:
    """How long this process's threads waited for a CPU, since this was made or, with `ever`, since they began.

    By the scheduler, not by the load average, which counts other containers' work, and our own of a minute ago.
    """

    def __init__(self, ever: bool = False):
        self._before = {} if ever else _spent()

    @property
    def share(self) -> float | None:
        """Seconds waited / seconds waited and run; None where the system does not tell, or nothing ran."""
        ran = waited = 0
        for thread, spent in _spent().items():
            before = self._before.get(thread, (0, 0))
            ran, waited = ran + spent[0] - before[0], waited + spent[1] - before[1]
        return waited / (ran + waited) if ran + waited > 0 else None


def _spent() -> dict[str, tuple[int, int]]:
    """Nanoseconds run and waited, by thread."""
    found = {}
    for task in TASKS.glob("*/schedstat"):
        try:
            ran, waited, _ = task.read_text(encoding="ascii").split()
        except OSError:  # it ended meanwhile
            continue
        found[task.parent.name] = int(ran), int(waited)
    return found


def mark(share: float | None) -> str:
    """What is to be said of figures that were taken while threads waited for so much of their time, or ""."""
    if share is None or share <= LOADED:
        return ""
    return (
        f"LOADED MACHINE: this process waited for a CPU for {100 * share:.0f} % of its time, so these times are too "
        "long, and not for citing: measure again with nothing else running, or fewer threads (OMP_NUM_THREADS)"
    )


def marks(measured: Mapping[str, Any]) -> str:
    """The same of what a measurement's JSON file holds; older ones do not say."""
    return mark(measured.get("waited_for_cpu"))
