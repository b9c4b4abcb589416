"""The kernels for GPUs, where every launch costs: all frames at once, and half precision without a float32 copy.

The functions are those of `in_slices`, with the same arguments and results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcom2.kernels.in_slices import by_frames

FLOAT32_PRODUCTS = hasattr(torch.ops.aten.bmm, "dtype")
"""Since torch 2.8, torch.bmm on CUDA multiplies matrices in half precision to float32 ones."""


def total(x: Tensor) -> Tensor:
    """Return the sum of all of x in float32, 0-d."""
    return x.sum(dtype=torch.float32)


def frame_means(x: Tensor) -> Tensor:
    """Return the mean token of each frame, [T, 1, D]."""
    return x.mean(dim=1, keepdim=True, dtype=_wide(x))


def lengths_and_dots(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens' lengths [T, M, 1] and their products [T, M, K] with the centres [T, K, D] of their frame."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=centres.dtype), dots(x, centres)


def lengths_and_pair_dots(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens' lengths, and the product of each token with the token at its place in another frame, [T, M].

    The products need copies of a sixteenth of the frames at a time.
    """
    wide, frames = _wide(x), max(1, len(x) // 16)
    pairs = zip(x.split(frames), other.split(frames), strict=True)
    products = [x.index_select(0, frame).to(wide).mul_(part).sum(dim=-1) for part, frame in pairs]
    return torch.linalg.vector_norm(x, dim=-1, dtype=wide), torch.cat(products)


def dots(x: Tensor, centres: Tensor) -> Tensor:
    """Return the products [T, M, K] of the tokens with the centres [T, K, D] of their frame."""
    if x.dtype == centres.dtype:
        return (centres @ x.mT).mT
    if x.is_cuda and FLOAT32_PRODUCTS:
        return half_dots(x, centres)
    (products,) = by_frames(lambda x, centres: (dots(x, centres),), x, centres)
    return products


def half_dots(x: Tensor, centres: Tensor) -> Tensor:
    """Return `dots` of x in half precision and float32 centres, as exact as in float32, without a float32 copy of x.

    A centre is the sum of three rows in the dtype of x, which together hold its 24 bits. Products of two numbers in
    half precision are exact in float32, and are summed there.
    """
    largest = centres.norm(torch.inf, dim=-1, keepdim=True)
    scale = (largest / 2**15).clamp_min(torch.finfo(centres.dtype).tiny)
    rest = centres / scale  # fills the range of float16, which ends below 2**16
    rows = [rest.to(x.dtype)]
    for _ in range(2):
        rest = rest - rows[-1]
        rows.append(rest.to(x.dtype))
    products = torch.bmm(x, torch.cat(rows, dim=1).mT, out_dtype=centres.dtype)  # [T, M, 3K]
    return products.unflatten(-1, (3, -1)).sum(dim=-2) * scale.mT


def products_within_frames(x: Tensor) -> Tensor:
    """Return the products [T, M, M] of the tokens of each frame with each other, without a gradient."""
    x = x.detach()
    if x.dtype == _wide(x):
        return x @ x.mT
    if x.is_cuda and FLOAT32_PRODUCTS:
        return torch.bmm(x, x.mT, out_dtype=_wide(x))
    (products,) = by_frames(lambda x: (x @ x.mT,), x)
    return products


def products_with_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return the products [T, M, K] of all tokens with the same rows [K, D], without a gradient."""
    return dots(x.detach(), rows.detach().expand(len(x), -1, -1))


def channel_variances(x: Tensor) -> Tensor:
    """Return the variance of each channel over all tokens, [D]."""
    tokens, dtype = x.flatten(0, 1), _wide(x)
    if x.dtype == dtype:
        return tokens.var(dim=0, correction=0)
    # var would convert all of x; these two take half precision and sum in float32. The difference loses digits in a
    # channel with a mean far above its deviation.
    mean, length = tokens.mean(dim=0, dtype=dtype), torch.linalg.vector_norm(tokens, dim=0, dtype=dtype)
    return (length.square() / len(tokens) - mean.square()).clamp_min(0)


def lengths_and_unit_means(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of the masked tokens x·mask, [T, M, 1], and each frame's mean of x·mask / |x·mask|, [T, 1, D].

    The lengths need masked copies of x, of a sixteenth of the frames at a time.
    """
    narrow = mask.to(x.dtype)
    parts = (part * narrow for part in x.split(max(1, len(x) // 16)))
    length = torch.cat([torch.linalg.vector_norm(p, dim=-1, keepdim=True, dtype=mask.dtype) for p in parts])
    # 0 for a zero token: its 1e12 would spoil the frame's mean, since `half_dots` rounds to a fraction of the largest.
    weight = (1 / length.clamp_min(1e-12)).masked_fill(length == 0, 0) / x.shape[1]
    return length, dots(x.mT, weight.mT).mT * mask


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
