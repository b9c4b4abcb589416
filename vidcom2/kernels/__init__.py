"""Means, lengths and products of all tokens of a video, at least in float32, without a float32 copy of the features.

`vidcom2.uniqueness` says what is computed; here is how. There are two implementations of the same functions:
`in_slices` works on a few frames at a time, which stay in a CPU's cache; `at_once` launches few kernels, for GPUs. So
far, only `in_slices` has been timed on its hardware; `at_once` is tested for what it computes. To do without it, let
`kernels_for` return `in_slices` for every device.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vidcom2.kernels import at_once, in_slices


def kernels_for(x: Tensor) -> Any:
    """Return the module, `in_slices` or `at_once`, for the device of x."""
    return in_slices if x.device.type == "cpu" else at_once
