"""What is required of features, and how scores are computed from them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from vidcom2.uniqueness import by_frames


def full_precision(device: torch.device) -> Any:
    """A context without autocast, in which scores are computed, so that they do not depend on the caller's."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def check_features(x: Tensor) -> None:
    """Raise ValueError unless x is a non-empty [T, M, D] float tensor."""
    if x.ndim != 3:
        raise ValueError(f"features of shape {tuple(x.shape)} are not [T, M, D]; pass one video, split into its frames")
    if 0 in x.shape:
        raise ValueError(f"features of shape {tuple(x.shape)} hold no token")
    if not x.is_floating_point():
        raise ValueError(f"features are {x.dtype}; pass a floating-point tensor")


def all_finite(x: Tensor) -> Tensor:
    """0-d bool tensor: x [T, ...] holds no NaN or Inf, and is not so large that its sum overflows float32."""
    if x.device.type == "cpu":  # where a sum in another dtype casts all of x first
        (sums,) = by_frames(lambda x: (x.flatten(1).sum(dim=1, dtype=torch.float32),), x)
        return sums.sum().isfinite()
    return x.sum(dtype=torch.float32).isfinite()


class NotFinite(ValueError):
    """Features hold NaN or Inf: no token can be chosen."""


def require_finite(finite: bool, x: Tensor) -> None:
    """Raise NotFinite, naming the tensor, where `finite` is False."""
    if not finite:
        raise NotFinite(
            f"features of shape {tuple(x.shape)} and {x.dtype} hold NaN or Inf (or overflow {torch.float32}): "
            "look at the vision tower's input and at its dtype"
        )
