"""What methods require of features, and the precision in which they compute scores."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from vidcom2.kernels import kernels_for


def full_precision(device: torch.device) -> Any:
    """Return a context without autocast. Scores are computed in it, so that they do not depend on the caller's."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def has_float64(device: torch.device) -> bool:
    """Return whether the device has float64. Apple's GPUs do not."""
    return device.type != "mps"


def check_features(x: Tensor) -> None:
    """Check that x is a non-empty float tensor [T, M, D].

    Raises:
        TypeError: It is not a tensor.
        ValueError: It has another rank or dtype, or is empty.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"features are a {type(x).__name__}; pass a tensor [T, M, D]")
    if x.ndim != 3:
        raise ValueError(f"features of shape {tuple(x.shape)} are not [T, M, D]; pass one video, split into its frames")
    if 0 in x.shape:
        raise ValueError(f"features of shape {tuple(x.shape)} hold no token")
    if not x.is_floating_point():
        raise ValueError(f"features are {x.dtype}; pass a floating-point tensor")


def all_finite(x: Tensor) -> Tensor:
    """Return whether x [T, ...] holds no NaN or Inf, as a 0-d bool tensor on its device.

    The answer is also False if the sum of x overflows float32.
    """
    return kernels_for(x).total(x).isfinite()


def lengths(x: Tensor) -> Tensor:
    """Return the L2 norms [T, M] of the tokens x [T, M, D], in float32, or in float64 if x is."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))


class NotFinite(ValueError):
    """Features hold NaN or Inf, so no token can be chosen."""


def require_finite(finite: bool, x: Tensor) -> None:
    """Refuse features that are not finite.

    Args:
        finite: Whether they are finite, as `all_finite` says.
        x: The features, for the message.

    Raises:
        NotFinite: They are not.
    """
    if not finite:
        raise NotFinite(
            f"features of shape {tuple(x.shape)} and {x.dtype} hold NaN or Inf (or overflow {torch.float32}): "
            "look at the vision tower's input and at its dtype"
        )
