"""Grids for videos whose frames are no squares."""

from __future__ import annotations

import math


def grid_of(m: int) -> tuple[int, int]:
    """Return the rows and columns of the most square grid of m tokens."""
    rows = max(n for n in range(1, math.isqrt(m) + 1) if m % n == 0)
    return rows, m // rows
