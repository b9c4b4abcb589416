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
"""Elements that a thread of a CPU works on at once, so that they stay in its cache; but always a whole frame."""


@dataclass(frozen=True)
class Similarity:
    """video, frame: [T, M] similarity to the video's and to the frame's mean, at least float32.

    `checksum` is a 0-d float tensor, NaN or Inf where such a feature was met; it stays on the device, so that the
    caller can read it together with the one number it has to read anyway.
    """

    video: Tensor
    frame: Tensor
    checksum: Tensor


def _on_cpu(x: Tensor) -> bool:
    """Whether to work on some frames at a time, which stay in the cache. On a GPU every call costs: there, on all."""
    return x.device.type == "cpu"


def cosine(x: Tensor, window: int | None = None) -> Similarity:
    """Cosine to the un-normalised means g_f and g_v (paper, Algorithm 1), reading x [T, M, D] twice on a CPU.

    A zero token has similarity 0. Scaling x by any positive number leaves the result as it is.
    """
    means = _with_video(_frame_means(x), window)
    length, dots = _lengths_and_dots(x, means)
    tiny = torch.finfo(length.dtype).tiny
    # Two divisions instead of one by the product, which could underflow.
    scores = dots / length.clamp_min(tiny) / means.norm(dim=-1)[:, None].clamp_min(tiny)
    return Similarity(scores[..., 0], scores[..., 1], scores.sum())


def _frame_means(x: Tensor) -> Tensor:
    """[T, M, D] -> [T, 1, D], at least float32."""
    if not _on_cpu(x):  # where a mean takes half precision and adds in float32, without a copy of x
        return x.mean(dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    (g_frame,) = by_frames(lambda x: (_mean_token(x),), x)
    return g_frame


def _with_video(c_frame: Tensor, window: int | None) -> Tensor:
    """The video's (its windows') and the frames' centres [T, 2, D], from the frames' [T, 1, D]."""
    return torch.cat([_window_mean(c_frame, window).expand_as(c_frame), c_frame], dim=1)


def _lengths_and_dots(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the tokens [T, M, 1], and their products [T, M, K] with their frame's centres [T, K, D]."""
    if not _on_cpu(x):
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=centres.dtype), _dots(x, centres)

    def to_frames(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        # The length first: it is the fastest at bringing x into the cache.
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True), _dots(x, centres)

    length, dots = by_frames(to_frames, x, centres)
    return length, dots


def gaussian(x: Tensor, window: int | None = None, channels: float = 0.5) -> Similarity:
    """The authors' released similarity: sum over a of exp(-|x̂ - c|² / 2a), x̂ the normalised token.

    Only the `channels` share of the D channels with the lowest variance over all T·M tokens takes part. The
    centres c are means of normalised tokens and are not normalised again. 5 means identical. On a CPU, reads x three
    times.
    """
    on_cpu = _on_cpu(x)
    variance = _variance_in_cache(x) if on_cpu else _variance_at_once(x)
    chosen = variance.topk(max(1, int(x.shape[-1] * channels)), largest=False).indices
    quiet = torch.zeros_like(variance).scatter_(0, chosen, 1)  # a mask, as x[..., chosen] would be half a copy of x

    length, c_frame = (_units_in_cache if on_cpu else _units_at_once)(x, quiet)
    centres = _with_video(c_frame, window)
    dots = _dots(x, centres)
    # |x̂ - c|² expanded, so that no [T, M, D] difference is ever stored; |x̂|² is 1, or 0 for a zero token.
    inverse = 1 / length.clamp_min(1e-12)
    distance = (length * inverse).square() - 2 * inverse * dots + centres.square().sum(dim=-1)[:, None]
    distance = distance.clamp_min(0)
    scores = torch.stack([distance / (-2 * a) for a in GAUSSIAN_ALPHAS]).exp().sum(0)
    # The largest variance, not their sum, which could overflow without float64, and Apple's GPUs have none.
    return Similarity(scores[..., 0], scores[..., 1], variance.max() + scores.sum())


def _units_in_cache(x: Tensor, quiet: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the tokens [T, M, 1], and means of the frames' normalised tokens [T, 1, D], where `quiet` [D] is 1;
    other channels are 0."""

    def to_frames(x: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(x.mul_(quiet), dim=-1, keepdim=True)
        return length, (1 / length.clamp_min(1e-12)).mT @ x / x.shape[1]  # mean over m of x / |x|

    length, c_frame = by_frames(to_frames, x, in_place=True)
    return length, c_frame


def _units_at_once(x: Tensor, quiet: Tensor) -> tuple[Tensor, Tensor]:
    """The same in few kernels: only the lengths need copies without the other channels, of some frames at a time."""
    mask = quiet.to(x.dtype)
    parts = (part * mask for part in x.split(max(1, len(x) // 16)))
    length = torch.cat([torch.linalg.vector_norm(p, dim=-1, keepdim=True, dtype=quiet.dtype) for p in parts])
    # Nothing times anything for a zero token, as `_dots` may round to a fraction of the largest.
    weight = (1 / length.clamp_min(1e-12)).masked_fill(length == 0, 0) / x.shape[1]
    return length, _dots(x.mT, weight.mT).mT * quiet


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
    # A copy takes no more than a sixteenth of the features' memory, or SLICE.
    elements = max(SLICE, x.nbytes // (16 * dtype.itemsize)) if copied else x.numel()
    frames = min(len(x), max(1, elements // x[0].numel()))
    if _on_cpu(x):
        frames = min(frames, torch.get_num_threads() * max(1, SLICE // x[0].numel()))
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
    """Products of each frame's tokens with its centres: [T, M, D] and [T, K, D] -> [T, M, K]."""
    if x.dtype == centres.dtype:  # on a CPU, faster than x @ centres.mT
        return (centres @ x.mT).mT
    if x.is_cuda and FLOAT32_PRODUCTS:
        return _half_dots(x, centres)
    (dots,) = by_frames(lambda x, centres: (_dots(x, centres),), x, centres)
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
    """[t, M, D] -> [t, 1, D], on a CPU, where this is faster than x.mean; on a GPU it could be one of TF32 numbers."""
    return x.new_full((1, x.shape[1]), 1 / x.shape[1]) @ x


def _window_mean(frame_mean: Tensor, window: int | None) -> Tensor:
    """Mean over the frames of each window of `window` frames (the last may be shorter), [T, 1, D] -> [T or 1, 1, D]."""
    frames = frame_mean.shape[0]
    if window is None or window >= frames:
        return frame_mean.mean(dim=0, keepdim=True)
    owner = torch.arange(frames, device=frame_mean.device) // window
    member = (owner[:, None] == owner[None, :]).to(frame_mean.dtype)  # [T, T]
    return ((member / member.sum(1, keepdim=True)) @ frame_mean.squeeze(1))[:, None]
