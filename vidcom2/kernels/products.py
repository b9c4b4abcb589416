"""Products of the rows of two matrices."""

from __future__ import annotations

import torch
from torch import Tensor

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product of float32 matrices, which torch's `@` does not use. None if this torch has none."""
LEAST = 2**18
"""Multiplications from which on oneDNN is worth its start."""
BLOCK = 66
"""Rows of a block of `own_products`."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """Return the products [n, m] of the rows a [n, D] with the rows b [m, D], without a gradient.

    On CPUs of AMD with AVX-512, oneDNN takes half the time of MKL, which torch's `@` calls; with AVX2, about as long.
    The sums are float32 in both.

    Args:
        a: [n, D].
        b: [m, D] of the dtype of a, on its device.
    """
    a, b = a.detach(), b.detach()
    if ONEDNN is None or not a.is_cpu or a.dtype != torch.float32 or a.numel() * len(b) < LEAST:
        return a @ b.mT
    result: Tensor = ONEDNN(a, b, None, "none", [], "")
    return result


def own_products(x: Tensor) -> Tensor:
    """Return the products [n, n] of the rows x [n, D] with each other, without a gradient.

    It is symmetric but for the last digit: libraries may round x_i x_j and x_j x_i differently.
    """
    if ONEDNN is None or not x.is_cpu or len(x) <= BLOCK:
        return products(x, x)
    found = x.new_empty(len(x), len(x))
    for first in range(0, len(x), BLOCK):
        last = min(first + BLOCK, len(x))
        found[first:, first:last] = products(x[first:], x[first:last])
        found[first:last, last:] = found[last:, first:last].mT
    return found
