"""The kernels for CPUs: a few frames at a time, so that they stay in the cache while they are used.

Every function takes features x [T, M, D] of any float dtype. What it returns is float32, or float64 for float64 x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vidcom2.kernels.products import own_products, products

SLICE = 2**20
"""Elements that one thread works on at once. A slice is one frame at least."""


def total(x: Tensor) -> Tensor:
    """Return the sum of all of x in float32, 0-d."""
    (sums,) = by_frames(lambda x: (x.flatten(1).sum(dim=1, dtype=torch.float32),), x)
    return sums.sum()


def frame_means(x: Tensor) -> Tensor:
    """Return the mean token of each frame, [T, 1, D]."""
    (means,) = by_frames(lambda x: (_mean_token(x),), x)
    return means


def lengths_and_dots(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens' lengths [T, M, 1] and their products [T, M, K] with the centres [T, K, D] of their frame."""

    def of_slice(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        # The length first: it is the fastest at bringing x into the cache.
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True), _dots(x, centres)

    length, products = by_frames(of_slice, x, centres)
    return length, products


def dots(x: Tensor, centres: Tensor) -> Tensor:
    """Return the products [T, M, K] of the tokens with the centres [T, K, D] of their frame."""

    def of_slice(x: Tensor, centres: Tensor) -> tuple[Tensor]:
        return (products(x[0], centres[0])[None] if len(x) == 1 else _dots(x, centres),)

    (found,) = by_frames(of_slice, x, centres)
    return found


def lengths_and_pair_dots(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens' lengths, and the product of each token with the token at its place in another frame.

    Args:
        x: Features [T, M, D].
        other: int64 [T], the frame that each frame is compared with.

    Returns:
        Lengths and products, [T, M] each.
    """

    def of_slice(part: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(part, dim=-1)
        pair = x[int(other)] if len(other) == 1 else x.index_select(0, other)
        return length, part.mul_(pair).sum(dim=-1)

    length, products = by_frames(of_slice, x, other, in_place=True)
    return length, products


def products_within_frames(x: Tensor) -> Tensor:
    """Return the products [T, M, M] of the tokens of each frame with each other, without a gradient."""

    def of_slice(x: Tensor) -> tuple[Tensor]:
        return (own_products(x[0])[None] if len(x) == 1 else x.detach() @ x.detach().mT,)

    (found,) = by_frames(of_slice, x)
    return found


def products_with_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return the products [T, M, K] of all tokens with the same rows [K, D], without a gradient.

    Args:
        x: Features [T, M, D].
        rows: [K, D], float32, or float64 for float64 x.
    """
    (found,) = by_frames(lambda x: (products(x.flatten(0, 1), rows).view(*x.shape[:2], -1),), x)
    return found


def channel_variances(x: Tensor) -> Tensor:
    """Return the variance of each channel over all tokens, [D]."""

    def of_slice(x: Tensor) -> tuple[Tensor, Tensor]:
        # The fastest that torch has for this. Each frame of the slice counts as much as any other.
        mean, variance = torch.batch_norm_update_stats(x.detach().flatten(0, 1).contiguous(), None, None, 0.0)
        return mean.expand(len(x), -1), variance.expand(len(x), -1)

    mean, within = by_frames(of_slice, x)  # [T, D] each
    return (within + (mean - mean.mean(dim=0)).square()).mean(dim=0)  # within slices and between them


def lengths_and_unit_means(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of the masked tokens x·mask, [T, M, 1], and each frame's mean of x·mask / |x·mask|, [T, 1, D].

    Args:
        x: Features [T, M, D].
        mask: [D] of zeros and ones.
    """

    def of_slice(x: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length, (1 / length.clamp_min(1e-12)).mT @ x / x.shape[1]

    length, means = by_frames(of_slice, x, scale=mask, backwards=True)  # the last frames may still be in the cache
    return length, means


def by_frames(
    f: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    *more: Tensor,
    in_place: bool = False,
    scale: Tensor | None = None,
    backwards: bool = False,
) -> tuple[Tensor, ...]:
    """Call f on a few frames at a time, converted to float32 at least, and join what it returns.

    Args:
        f: Takes the frames of x, then those of `more`. It must not return a view of its first argument, because the
            next frames may go to the same memory.
        x: [T, ...].
        more: Further tensors [T, ...].
        in_place: f may overwrite its first argument, which then is a copy.
        scale: Factors of the channels [D], float32 at least; f gets the products with them. None changes nothing.
        backwards: Begin with the last frames.

    Returns:
        Each result of f, joined along the frames.
    """
    results = [f(*arguments) for arguments in _slices(x, more, in_place, scale, backwards)]
    if backwards:
        results.reverse()
    return results[0] if len(results) == 1 else tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _slices(
    x: Tensor, more: tuple[Tensor, ...], in_place: bool, scale: Tensor | None, backwards: bool
) -> Iterator[tuple[Tensor, ...]]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    copied = in_place or scale is not None or x.dtype != dtype
    # A copy takes no more than a sixteenth of the features' memory, or SLICE.
    elements = max(SLICE, x.nbytes // (16 * dtype.itemsize)) if copied else x.numel()
    frames = min(len(x), max(1, elements // x[0].numel()))
    if x.device.type == "cpu":
        frames = min(frames, torch.get_num_threads() * max(1, SLICE // x[0].numel()))
    # One buffer for all slices, because fresh memory costs as much time as the work.
    buffer = x.new_empty((frames, *x.shape[1:]), dtype=dtype) if copied else None
    parts = list(zip(*(tensor.split(frames) for tensor in (x, *more)), strict=True))
    for part, *rest in reversed(parts) if backwards else parts:
        if buffer is None:
            yield part, *rest
        elif scale is None:
            yield buffer[: len(part)].copy_(part), *rest
        elif x.dtype == dtype:
            yield torch.mul(part.detach(), scale, out=buffer[: len(part)]), *rest
        else:  # `mul` would copy the part once more to convert it
            yield buffer[: len(part)].copy_(part).mul_(scale), *rest


def _dots(x: Tensor, centres: Tensor) -> Tensor:
    return (centres @ x.mT).mT  # faster than x @ centres.mT


def _mean_token(x: Tensor) -> Tensor:
    """[t, M, D] -> [t, 1, D]. A product is faster than x.mean on a CPU. A GPU might compute it in TF32."""
    return x.new_full((1, x.shape[1]), 1 / x.shape[1]) @ x
