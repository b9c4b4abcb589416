"""Printing per rank, and skipping the weight initialisation that a checkpoint overwrites anyway."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def _rank() -> int | None:
    """Return this process's rank, or None outside a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else None


def rank_print(*args: object) -> None:
    """Print on every rank, with the rank in front inside a process group (upstream's `rank_print`).

    Args:
        *args: What `print` takes.
    """
    rank = _rank()
    if rank is None:
        print(*args)
    else:
        print(f"Rank {rank}:", *args)


def rank0_print(*args: object) -> None:
    """Print once: on rank 0, or in the only process (upstream's `rank0_print`).

    Args:
        *args: What `print` takes.
    """
    if _rank() in (None, 0):
        rank_print(*args)


def disable_torch_init() -> None:
    """Leave the weights of new `nn.Linear` and `nn.LayerNorm` layers uninitialised (upstream's `disable_torch_init`).

    This holds for the whole process from the call on. It saves time where a checkpoint fills the weights.
    """

    def keep(self: nn.Module) -> None:
        """Leave the memory as it was allocated."""

    torch.nn.Linear.reset_parameters = keep  # type: ignore[method-assign]
    torch.nn.LayerNorm.reset_parameters = keep  # type: ignore[method-assign]
