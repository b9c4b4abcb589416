"""How similar each visual token is to its frame and to its video.

Both similarities look at every token twice: against the mean of its frame and against the mean of its video
(or of its window of frames, table 7 of the paper). Uniqueness is the negative similarity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Bandwidths of the released Gaussian kernel; the score of two identical tokens is their number, 5.
GAUSSIAN_ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)

FLOAT32_PRODUCTS = hasattr(torch.ops.aten.bmm, "dtype")
"""Since torch 2.8, GPUs multiply matrices in half precision to float32 ones."""

SLICE = 2**20
"""Elements that a CPU works on at once, so that they stay in its cache; but always a whole frame."""


@dataclass(frozen=True)
class Similarity:
    """video, frame: [T, M] similarity to the video's and to the frame's mean, at least float32.

    `checksum` is a 0-d float64 tensor, NaN or Inf where such a feature was met; it stays on the device, so that the
    caller can read it together with the one number it has to read anyway.
    """

    video: Tensor
    frame: Tensor
    checksum: Tensor


def cosine(x: Tensor, window: int | None = None) -> Similarity:
    """Cosine to the un-normalised means g_f and g_v (paper, Algorithm 1), reading x [T, M, D] twice on a CPU.

    A zero token has similarity 0. Scaling x by any positive number leaves the result as it is.
    """
    measured = _in_cache if x.device.type == "cpu" else _at_once
    length, means, dots = measured(x, window)  # [T, M, 1], [T, 2, D], [T, M, 2]
    tiny = torch.finfo(length.dtype).tiny
    # Two divisions instead of one by the product, which could underflow.
    scores = dots / length.clamp_min(tiny) / means.norm(dim=-1)[:, None].clamp_min(tiny)
    return Similarity(scores[..., 0], scores[..., 1], scores.sum(dtype=torch.float64))


def _in_cache(x: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths of the tokens [T, M, 1], the video's and the frames' means [T, 2, D], the tokens' products with them
    [T, M, 2]. What needs one frame only is done while that frame is in the cache."""

    def to_frame(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The length first: it is the fastest at bringing x into the cache.
        length, g_frame = torch.linalg.vector_norm(x, dim=-1, keepdim=True), _mean_token(x)
        return length, g_frame, x @ g_frame.mT

    length, g_frame, products = by_frames(to_frame, x)
    return length, *_with_video(x, g_frame, products, window)


def _with_video(x: Tensor, c_frame: Tensor, products: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """The video's and the frames' centres [T, 2, D], and the tokens' products with them [T, M, 2], from those of the
    frames [T, 1, D] and [T, M, 1]. Apart, as a product with two centres takes longer than two with one."""
    c_video = _window_mean(c_frame, window)
    return torch.cat([c_video.expand_as(c_frame), c_frame], dim=1), torch.cat([_dots(x, c_video), products], dim=-1)


def _at_once(x: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same in three kernels over all frames: on a GPU every call costs, and reductions take half precision and add
    in float32 without a copy of x."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    g_frame = x.mean(dim=1, keepdim=True, dtype=dtype)
    means = torch.cat([_window_mean(g_frame, window).expand_as(g_frame), g_frame], dim=1)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype), means, _dots(x, means)


def gaussian(x: Tensor, window: int | None = None, channels: float = 0.5) -> Similarity:
    """The authors' released similarity: sum over a of exp(-|x̂ - c|² / 2a), x̂ the normalised token.

    Only the `channels` share of the D channels with the lowest variance over all T·M tokens takes part. The
    centres c are means of normalised tokens and are not normalised again. 5 means identical. On a CPU, reads x three
    times.
    """
    on_cpu = x.device.type == "cpu"
    variance = _variance_in_cache(x) if on_cpu else _variance_at_once(x)
    chosen = variance.topk(max(1, int(x.shape[-1] * channels)), largest=False).indices
    quiet = torch.zeros_like(variance).scatter_(0, chosen, 1)  # a mask, as x[..., chosen] would be half a copy of x

    length, centres, dots = (_units_in_cache if on_cpu else _units_at_once)(x, quiet, window)
    # |x̂ - c|² expanded, so that no [T, M, D] difference is ever stored; |x̂|² is 1, or 0 for a zero token.
    inverse = 1 / length.clamp_min(1e-12)
    distance = (length * inverse).square() - 2 * inverse * dots + centres.square().sum(dim=-1)[:, None]
    distance = distance.clamp_min(0)
    scores = torch.stack([distance / (-2 * a) for a in GAUSSIAN_ALPHAS]).exp().sum(0)
    checksum = variance.sum(dtype=torch.float64) + scores.sum(dtype=torch.float64)
    return Similarity(scores[..., 0], scores[..., 1], checksum)


def _units_in_cache(x: Tensor, quiet: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths of the tokens [T, M, 1], means of the video's and the frames' normalised tokens [T, 2, D], and the
    tokens' products with them [T, M, 2], where `quiet` [D] is 1; other channels are 0."""

    def to_frame(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = torch.linalg.vector_norm(x.mul_(quiet), dim=-1, keepdim=True)
        c_frame = (1 / length.clamp_min(1e-12)).mT @ x / x.shape[1]  # mean over m of x / |x|
        return length, c_frame, x @ c_frame.mT

    length, c_frame, products = by_frames(to_frame, x, in_place=True)
    return length, *_with_video(x, c_frame, products, window)


def _units_at_once(x: Tensor, quiet: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same in few kernels: only the lengths need copies without the other channels, of some frames at a time."""
    mask = quiet.to(x.dtype)
    parts = (part * mask for part in x.split(max(1, len(x) // 16)))
    length = torch.cat([torch.linalg.vector_norm(p, dim=-1, keepdim=True, dtype=quiet.dtype) for p in parts])
    # Nothing times anything for a zero token, as `_dots` may round to a fraction of the largest.
    weight = (1 / length.clamp_min(1e-12)).masked_fill(length == 0, 0) / x.shape[1]
    c_frame = _dots(x.mT, weight.mT).mT * quiet
    centres = torch.cat([_window_mean(c_frame, window).expand_as(c_frame), c_frame], dim=1)
    return length, centres, _dots(x, centres)


def by_frames(
    f: Callable[..., tuple[Tensor, ...]], x: Tensor, *more: Tensor, in_place: bool = False
) -> tuple[Tensor, ...]:
    """f on some frames at a time of x [T, ...], in at least float32, and of `more` [T, ...]; its results joined.

    No float32 copy of all features is ever made. in_place: f may overwrite its first argument, which is a copy then.
    f must not return views of that argument: the next frames go to the same memory.
    """
    results = [f(*arguments) for arguments in _slices(x, more, in_place)]
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _slices(x: Tensor, more: tuple[Tensor, ...], in_place: bool) -> Iterator[tuple[Tensor, ...]]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    copied = in_place or x.dtype != dtype
    if x.device.type == "cpu":
        elements = SLICE
    else:  # every slice costs launches, so as few as copies of a sixteenth of the features' memory allow
        elements = max(SLICE, x.nbytes // (16 * dtype.itemsize)) if copied else x.numel()
    frames = min(len(x), max(1, elements // x[0].numel()))
    # One for all slices, as fresh memory costs as much as the work.
    scratch = x.new_empty((frames, *x.shape[1:]), dtype=dtype) if copied else None
    for part, *rest in zip(*(tensor.split(frames) for tensor in (x, *more)), strict=True):
        yield part if scratch is None else scratch[: len(part)].copy_(part), *rest


def _variance_in_cache(x: Tensor) -> Tensor:
    """Of each channel over all tokens of x [T, M, D]: [D]."""

    def spread(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = _mean_token(x)
        return mean, _mean_token(x.sub_(mean).square_())

    mean, within = by_frames(spread, x, in_place=True)  # [T, 1, D] each
    return (within + (mean - mean.mean(dim=0)).square()).mean(dim=(0, 1))  # within frames and between them


def _variance_at_once(x: Tensor) -> Tensor:
    """The same in one kernel, or in two that take half precision and add in float32."""
    tokens = x.flatten(0, 1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.dtype == dtype:
        return tokens.var(dim=0, correction=0)
    mean, length = tokens.mean(dim=0, dtype=dtype), torch.linalg.vector_norm(tokens, dim=0, dtype=dtype)
    return (length.square() / len(tokens) - mean.square()).clamp_min(0)


def _dots(x: Tensor, centres: Tensor) -> Tensor:
    """Products of each frame's tokens with its centres, or with those of all: [T, M, D] and [T or 1, K, D] ->
    [T, M, K]."""
    if x.dtype == centres.dtype:  # one product, not T, where the centres are those of all
        return x @ (centres[0] if len(centres) == 1 else centres).mT
    centres = centres.expand(len(x), -1, -1)
    if x.is_cuda and FLOAT32_PRODUCTS:
        return _half_dots(x, centres)
    (dots,) = by_frames(lambda x, centres: (x @ centres.mT,), x, centres)
    return dots


def _half_dots(x: Tensor, centres: Tensor) -> Tensor:
    """`_dots` of x in half precision with float32 centres, as exact as in float32, without a float32 copy of x.

    A centre is the sum of three rows in the precision of x, which hold its 24 bits; products of two numbers in half
    precision are exact in float32, and are added there.
    """
    largest = centres.norm(torch.inf, dim=-1, keepdim=True)
    scale = (largest / 2**15).clamp_min(torch.finfo(centres.dtype).tiny)
    rest = centres / scale  # to fill float16's range, which ends below 2**16
    rows = [rest.to(x.dtype)]
    for _ in range(2):
        rest = rest - rows[-1]
        rows.append(rest.to(x.dtype))
    dots = torch.bmm(x, torch.cat(rows, dim=1).mT, out_dtype=centres.dtype)  # [T, M, 3K]
    return dots.unflatten(-1, (3, -1)).sum(dim=-2) * scale.mT


def _mean_token(x: Tensor) -> Tensor:
    """[t, M, D] -> [t, 1, D]."""
    if x.device.type == "cpu":  # as a product, which is faster; on a GPU that could be one of TF32 numbers
        return x.new_full((1, x.shape[1]), 1 / x.shape[1]) @ x
    return x.mean(dim=1, keepdim=True)


def _window_mean(frame_mean: Tensor, window: int | None) -> Tensor:
    """Mean over the frames of each window of `window` frames (the last may be shorter), [T, 1, D] -> [T or 1, 1, D]."""
    frames = frame_mean.shape[0]
    if window is None or window >= frames:
        return frame_mean.mean(dim=0, keepdim=True)
    owner = torch.arange(frames, device=frame_mean.device) // window
    member = (owner[:, None] == owner[None, :]).to(frame_mean.dtype)  # [T, T]
    return ((member / member.sum(1, keepdim=True)) @ frame_mean.squeeze(1))[:, None]
