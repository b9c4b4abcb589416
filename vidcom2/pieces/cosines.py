"""Cosines of tokens with each other. How to compute the sums in little memory and time is the matter of
`vidcom2.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcom2.kernels import kernels_for

LEAST_LENGTH = 1e-8
"""A shorter token counts as so long, as in torch's `cosine_similarity`. So a zero token has cosine 0."""


def pair_cosines(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of each token with the token at its place in another frame, and the tokens' lengths.

    Args:
        x: Features [T, M, D] of any float dtype.
        other: int64 [T], the frame that each frame is compared with.

    Returns:
        Cosines [T, M] and lengths [T, M], float32, or float64 for float64 features.
    """
    length, dots = kernels_for(x).lengths_and_pair_dots(x, other)
    clamped = length.clamp_min(LEAST_LENGTH)
    # Two divisions, since the product of the lengths could underflow.
    return dots / clamped / clamped.index_select(0, other), length


def cosines_with(x: Tensor, centre: Tensor) -> Tensor:
    """Return the cosine of each token with one token of its frame's own.

    Args:
        x: Features [T, M, D] of any float dtype.
        centre: [T, 1, D], float32 or float64.

    Returns:
        Cosines [T, M], float32, or float64 for float64 features.
    """
    length, dots = kernels_for(x).lengths_and_dots(x, centre)  # [T, M, 1] each
    return (dots / length.clamp_min(LEAST_LENGTH) / centre.norm(dim=-1, keepdim=True).clamp_min(LEAST_LENGTH))[..., 0]


def cosines_within_frames(x: Tensor, length: Tensor) -> Tensor:
    """Return the cosines of the tokens of each frame with each other, without a gradient.

    Args:
        x: Features [T, M, D] of any float dtype.
        length: The tokens' lengths [T, M], float32 or float64.

    Returns:
        [T, M, M], float32, or float64 for float64 features. A zero token has cosine 0.
    """
    length = length.detach().clamp_min(torch.finfo(length.dtype).tiny)
    cosines: Tensor = kernels_for(x).products_within_frames(x)
    return cosines.div_(length[:, :, None]).div_(length[:, None, :])
