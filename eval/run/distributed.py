"""This process among those of a distributed run: which devices it uses, and what the processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
from torch.distributed import PrefixStore, Store

from ..models import environment

T = TypeVar("T")
DeviceGroup = tuple[str, ...]
"""The devices of one worker: one device, or several if the model is sharded over them."""
STORE_TIMEOUT = timedelta(days=7)
"""Ranks wait for each other at the end only, and the videos of one rank may be much longer."""


@dataclass(frozen=True)
class World:
    """The processes that torchrun, or another launcher with its variables, started for one run. By default only this.

    Attributes:
        device_groups: The devices of each worker of this process.
        rank: Index of this process.
        size: Number of processes.
        store: Keys and values that all processes share. None for a single process.
    """

    device_groups: tuple[DeviceGroup, ...] = (("cpu",),)
    rank: int = 0
    size: int = 1
    store: Store | None = None

    @classmethod
    def join(cls, requested: int | None, device: str, sharded: bool = False, per_worker: int | None = None) -> World:
        """Join the launcher's other processes, and wait for them.

        The launcher's variables are RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. With several processes on a machine,
        LOCAL_RANK and LOCAL_WORLD_SIZE are needed too. They are removed from the environment.

        Args:
            requested: Number of devices. None takes this process's share of the visible GPUs, or one CPU.
            device: "cuda", "cpu", or "auto" for one process that spreads one model over all GPUs.
            sharded: All devices form one group.
            per_worker: GPUs of each worker that spreads its model over them by itself. None: one.

        Raises:
            ValueError: There are fewer devices than requested, or they cannot be divided among the workers.
        """
        launch = environment.launch()
        groups = _device_groups(requested, device, sharded, launch)
        if per_worker is not None:
            groups = _joined([one for group in groups for one in group], per_worker)
        if not launch.distributed:
            return cls(groups)
        store, rank, size = next(iter(torch.distributed.rendezvous("env://")))
        store.set_timeout(STORE_TIMEOUT)
        environment.forget_launch()
        return cls(groups, rank, size, store)

    def scoped(self, name: str) -> World:
        """Return a copy whose keys in the store start with `name`, so that several runs do not collide."""
        return self if self.store is None else replace(self, store=PrefixStore(name, self.store))

    @contextmanager
    def rank_0_first(self, name: str) -> Iterator[None]:
        """Run the block in rank 0 before the other ranks run it. Each `name` is used once per store."""
        if self.store is not None and self.rank > 0:
            self.store.wait([f"through {name}"])
        yield
        if self.store is not None and self.rank == 0:
            self.store.set(f"through {name}", "")

    def claim(self, items: Sequence[T]) -> Iterator[T]:
        """Yield items that no other process has claimed yet. A faster process gets more of them.

        Args:
            items: The same in all processes.
        """
        if self.store is None:
            yield from items
            return
        while (index := self.store.add("claimed", 1) - 1) < len(items):
            yield items[index]

    def count_answer(self) -> int | None:
        """Count one more answer. Returns how many all processes have, or None if this is the only process."""
        return None if self.store is None else self.store.add("done", 1)

    def gather(self, mine: T) -> list[T]:
        """Return what each process passes, by rank. All processes must call this."""
        if self.store is None:
            return [mine]
        store = PrefixStore("gather", self.store)
        torch.distributed.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.size, timeout=STORE_TIMEOUT
        )
        try:
            everyone: list[T | None] = [None] * self.size
            torch.distributed.all_gather_object(everyone, mine)
        finally:
            torch.distributed.destroy_process_group()
        return everyone  # type: ignore[return-value]  # none is missing now


def _joined(devices: Sequence[str], per_worker: int) -> tuple[DeviceGroup, ...]:
    """Return a group for each worker, of one name with commas for its devices."""
    if len(devices) % per_worker:
        raise ValueError(
            f"--tensor-parallel-size {per_worker} does not divide the {len(devices)} GPUs of this process: set "
            "--num-gpus to a multiple of it"
        )
    return tuple((",".join(devices[i : i + per_worker]),) for i in range(0, len(devices), per_worker))


def _device_groups(
    requested: int | None, device: str, sharded: bool, launch: environment.Launch
) -> tuple[DeviceGroup, ...]:
    processes = launch.local_processes
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
        visible = [f"cuda:{i}" for i in range(torch.cuda.device_count())][launch.local_rank :: processes]
    else:
        visible = ["cpu"] * (1 if requested is None else requested)
    count = max(1, len(visible)) if requested is None else requested
    if not 1 <= count <= len(visible):
        raise ValueError(f"--num-gpus {count} is not between 1 and the {len(visible)} visible GPUs")
    devices = visible[:count]
    return (tuple(devices),) if sharded else tuple((one,) for one in devices)
