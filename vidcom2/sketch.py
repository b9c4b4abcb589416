"""Short vectors in place of tokens, for distances between many pairs of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from vidcom2.kernels.in_slices import by_frames

WIDTH = 64
"""Channels of a sketch."""


def sketch(x: Tensor) -> Tensor:
    """Return tokens of WIDTH channels whose distances are nearly those of the tokens x: a count sketch.

    Channel j is the sum of every WIDTH-th channel of x from j on, each with a sign that was drawn once for all. The
    expected square of a distance is the original's, with a standard deviation of sqrt(2 / WIDTH) = 18 % of it
    (Charikar, Chen and Farach-Colton 2002). Equal tokens have equal sketches. Tokens of WIDTH channels or fewer stay as
    they are.

    Args:
        x: Features [T, M, D] of any float dtype.

    Returns:
        [T, M, WIDTH or D], float32, or float64 for float64 x.
    """
    channels = x.shape[-1]
    if channels <= WIDTH:
        return x.to(torch.promote_types(x.dtype, torch.float32))
    whole = channels - channels % WIDTH
    signs = _signs(channels).to(x.device)

    def of_slice(x: Tensor) -> tuple[Tensor]:
        x.mul_(signs)
        short = x[..., :whole].unflatten(-1, (-1, WIDTH)).sum(dim=-2)
        short[..., : channels - whole] += x[..., whole:]
        return (short,)

    (short,) = by_frames(of_slice, x, in_place=True)
    return short


@functools.cache
def _signs(channels: int) -> Tensor:
    """A sign for each channel, float32 [channels]: the same in every process."""
    drawn = torch.randint(0, 2, (channels,), generator=torch.Generator().manual_seed(channels))
    return (2 * drawn - 1).float()
