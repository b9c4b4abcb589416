"""Where a run takes place: in this process's share of the GPUs, beside other processes on this or other machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
from torch.distributed import PrefixStore, Store

T = TypeVar("T")
Team = tuple[str, ...]
"""The devices of processes that answer together; one, unless a model is sharded over several."""
PATIENCE = timedelta(days=7)
"""Processes wait for each other at the end only, and one may have much longer videos."""


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun, or whoever sets its variables, started for one run; alone by default.

    teams: who answers here: their devices. rank, world: this process's number, and how many there are. store: what
    they share.
    """

    teams: tuple[Team, ...] = (("cpu",),)
    rank: int = 0
    world: int = 1
    store: Store | None = None

    @classmethod
    def find(cls, requested: int | None, device: str, sharded: bool = False) -> Place:
        """By RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and where there are several processes on a machine,
        LOCAL_RANK and LOCAL_WORLD_SIZE. Waits for the others. RANK and its like are taken out of the environment,
        because lmms-eval would read them, too, and share the questions out a second time.

        requested: number of devices, None for this process's share of the visible GPUs, or one CPU. device: "cuda",
        "cpu", or "auto" for one process with one model over all GPUs. sharded: all devices are one team.
        Raises ValueError for more devices than there are.
        """
        local_rank, here = (
            int(os.environ.get(name, alone)) for name, alone in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
        teams = _teams(requested, device, sharded, local_rank, here)
        if "RANK" not in os.environ:
            return cls(teams)
        store, rank, world = next(iter(torch.distributed.rendezvous("env://")))
        store.set_timeout(PATIENCE)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)
        return cls(teams, rank, world, store)

    def within(self, name: str) -> Place:
        """The same, in a room of its own of what is shared: for one of several runs."""
        return self if self.store is None else replace(self, store=PrefixStore(name, self.store))

    @contextmanager
    def first(self, name: str) -> Iterator[None]:
        """Rank 0 goes through what is called `name` before the others."""
        if self.store is not None and self.rank > 0:
            self.store.wait([f"through {name}"])
        yield
        if self.store is not None and self.rank == 0:
            self.store.set(f"through {name}", "")

    def claimed(self, items: Sequence[T]) -> Iterator[T]:
        """Whenever it is asked, the next that no process has yet: who is faster gets more.

        items: the same in all processes.
        """
        if self.store is None:
            yield from items
            return
        while (index := self.store.add("claimed", 1) - 1) < len(items):
            yield items[index]

    def count(self) -> int | None:
        """One more is done; how many all processes have done, None where there is only this one."""
        return None if self.store is None else self.store.add("done", 1)

    def gather(self, mine: T) -> list[T]:
        """What all processes call this with, by rank."""
        if self.store is None:
            return [mine]
        store = PrefixStore("gather", self.store)
        torch.distributed.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.world, timeout=PATIENCE
        )
        try:
            everyone: list[T | None] = [None] * self.world
            torch.distributed.all_gather_object(everyone, mine)
        finally:
            torch.distributed.destroy_process_group()
        return everyone  # type: ignore[return-value]  # all are there now


def _teams(requested: int | None, device: str, sharded: bool, rank: int, processes: int) -> tuple[Team, ...]:
    """rank: of this process among those on this machine."""
    if device == "auto":
        if requested not in (None, 1) or processes > 1:
            raise ValueError(
                f"--num-gpus {requested or processes} with --device auto: one process spreads the model over all GPUs"
            )
        return (("auto",),)
    if requested is not None and requested < 1:
        raise ValueError(f"--num-gpus {requested} must be at least 1")
    if device == "cuda":
        if not torch.cuda.device_count():
            raise ValueError("--device cuda: torch finds no GPU; cpu is there")
        visible = [f"cuda:{i}" for i in range(torch.cuda.device_count())][rank::processes]
    else:
        visible = ["cpu"] * (1 if requested is None else requested)
    count = max(1, len(visible)) if requested is None else requested
    if not 1 <= count <= len(visible):
        raise ValueError(f"--num-gpus {count} is not between 1 and the {len(visible)} visible GPUs")
    devices = visible[:count]
    return (tuple(devices),) if sharded else tuple((one,) for one in devices)
