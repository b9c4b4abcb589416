"""Entropic optimal transport between sets of tokens, for the methods that move tokens into others."""

from __future__ import annotations

import torch
from torch import Tensor


def transport(
    cost: Tensor, moving: Tensor, there: Tensor, blur: float, iterations: int, enough: float | None = None
) -> Tensor:
    """Return the plans by which tokens move to anchors: P = diag(r) exp(-cost / blur) diag(c), by Sinkhorn's iteration.

    The rows of tokens share 1 equally, and so do the columns of anchors. The last step of an iteration scales columns,
    so their sums are exact.

    Args:
        cost: [B, N, A], of N tokens and A anchors in each of B problems.
        moving: bool [B, N], which of the tokens exist.
        there: bool [B, A], which of the anchors exist.
        blur: Weight of the entropy.
        iterations: How many, at most.
        enough: Stop if r, averaged over all B·N, changes by less. This waits for the device. None never stops early.

    Returns:
        [B, N, A], of the dtype of `cost`, 0 where there is no token or no anchor.
    """
    kernel = torch.exp(cost / -blur).masked_fill_(~(moving[:, :, None] & there[:, None]), 0)
    masses = (each.to(cost.dtype)[..., None] for each in (moving, there))
    rows, columns = (each / each.sum(dim=1, keepdim=True).clamp_min(1) for each in masses)
    tiny = torch.finfo(cost.dtype).tiny
    r, c = torch.ones_like(rows), torch.ones_like(columns)
    for _ in range(iterations):
        before = r
        r = rows / (kernel @ c).clamp_min(tiny)
        c = columns / (kernel.mT @ r).clamp_min(tiny)
        if enough is not None and (r - before).abs().mean() < enough:
            break
    return kernel.mul_(r).mul_(c.mT)


def cosines(x: Tensor, y: Tensor, length_x: Tensor, length_y: Tensor) -> Tensor:
    """Return the cosines [B, N, A] of x [B, N, D] and y [B, A, D], whose lengths are given; 0 where one is 0."""
    tiny = torch.finfo(x.dtype).tiny
    return (x @ y.mT).div_(length_x.clamp_min(tiny)[:, :, None]).div_(length_y.clamp_min(tiny)[:, None])


def distances(a: Tensor, b: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the distances [T, N, A] of the places a [T, N] and b [T, A] in a frame with sides of length 1.

    Args:
        a: int64, places in a frame whose tokens come row by row.
        b: The same.
        grid: Rows and columns of a frame.
    """
    rows, columns = (max(1, lines - 1) for lines in grid)
    down = (a // grid[1])[:, :, None] - (b // grid[1])[:, None]
    right = (a % grid[1])[:, :, None] - (b % grid[1])[:, None]
    return torch.hypot(down.float() / rows, right.float() / columns)
