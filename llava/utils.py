"""Printing per process, and skipping weight initialisation that a checkpoint overwrites anyway."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def _rank() -> int | None:
    """This process's rank, or None outside of a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else None


def rank_print(*args: object) -> None:
    """Print on every process, naming the rank when there are several."""
    rank = _rank()
    if rank is None:
        print(*args)
    else:
        print(f"Rank {rank}:", *args)


def rank0_print(*args: object) -> None:
    """Print once: on rank 0, or on the only process."""
    if _rank() in (None, 0):
        rank_print(*args)


def disable_torch_init() -> None:
    """From now on leave new `nn.Linear` and `nn.LayerNorm` weights uninitialised, for the whole process."""

    def keep(self: nn.Module) -> None:
        """The memory is left as it was allocated."""

    torch.nn.Linear.reset_parameters = keep  # type: ignore[method-assign]
    torch.nn.LayerNorm.reset_parameters = keep  # type: ignore[method-assign]
