"""Short vectors in place of tokens, for distances between many pairs of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidcom2.features import lengths
from vidcom2.kernels.in_slices import by_frames

WIDTH = 64
"""Channels of a sketch."""
WIDE = 256
"""Channels where tokens are compared that may be nearly alike."""


def sketch(x: Tensor, width: int = WIDTH) -> Tensor:
    """Return tokens of `width` channels whose distances are nearly those of the tokens x: a count sketch.

    Channel j is the sum of every width-th channel of x from j on, each with a sign that was drawn once for all. The
    expected square of a distance is the original's, with a standard deviation of at most about sqrt(2 / width) of it:
    18 % for WIDTH, 9 % for WIDE (Charikar, Chen and Farach-Colton 2002). The sketch is linear: that of a mean is the
    mean of the sketches. Equal tokens have equal sketches. Tokens of `width` channels or fewer stay as they are.

    Args:
        x: Features [T, M, D] of any float dtype.
        width: Channels of a sketch.

    Returns:
        [T, M, width or D], float32, or float64 for float64 x.
    """
    return _sketched(x, width, lambda short, signed: (short,))[0]


def sketch_and_lengths(x: Tensor, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Return `sketch`, and the lengths [T, M] of the tokens themselves, with one look at x."""
    return _sketched(x, width, lambda short, signed: (short, lengths(signed)))


def _sketched(x: Tensor, width: int, results: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> tuple[Any, ...]:
    """Call `results` on the sketches and the tokens of a few frames at a time, and join what it returns.

    The tokens have the drawn signs, which change no length.
    """
    channels, dtype = x.shape[-1], torch.promote_types(x.dtype, torch.float32)
    if channels <= width:
        short = x.to(dtype)
        return results(short, short)
    whole = channels - channels % width

    def of_slice(x: Tensor) -> tuple[Tensor, ...]:
        short = x[..., :whole].unflatten(-1, (-1, width)).sum(dim=-2)
        short[..., : channels - whole] += x[..., whole:]
        return results(short, x)

    return by_frames(of_slice, x, scale=_signs(channels).to(x.device, dtype))


@functools.cache
def _signs(channels: int) -> Tensor:
    """A sign for each channel, float32 [channels]: the same in every process."""
    drawn = torch.randint(0, 2, (channels,), generator=torch.Generator().manual_seed(channels))
    return (2 * drawn - 1).float()
