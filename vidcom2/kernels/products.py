"""Products of two matrices on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product of float32 matrices, which torch's `@` does not use. None if this torch has none."""
LEAST = 2**18
"""Multiplications from which on oneDNN is worth its start."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """Return the products [n, m] of the rows a [n, D] with the rows b [m, D], without a gradient.

    On CPUs of AMD, oneDNN takes half the time of MKL, which torch's `@` calls. The sums are float32 in both.
    """
    a, b = a.detach(), b.detach()
    if ONEDNN is None or a.dtype != torch.float32 or a.numel() * len(b) < LEAST:
        return a @ b.mT
    result: Tensor = ONEDNN(a, b, None, "none", [], "")
    return result
