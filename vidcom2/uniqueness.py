"""How similar each visual token is to its frame and to its video.

Both similarities look at every token twice: against the mean of its frame and against the mean of its video
(or of its window of frames, table 7 of the paper). Uniqueness is the negative similarity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Bandwidths of the released Gaussian kernel; the score of two identical tokens is their number, 5.
GAUSSIAN_ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


@dataclass(frozen=True)
class Similarity:
    """video, frame: [T, M] similarity to the video's and to the frame's mean, at least float32.

    `finite` is a 0-d bool tensor, False where a NaN or Inf feature was met; it stays on the device, so that the
    caller can read it together with the one number it has to read anyway.
    """

    video: Tensor
    frame: Tensor
    finite: Tensor


def cosine(x: Tensor, window: int | None = None) -> Similarity:
    """Cosine to the un-normalised means g_f and g_v (paper, Algorithm 1), in three passes over x [T, M, D].

    A zero token has similarity 0. Scaling x by any positive number leaves the result as it is.
    """
    dtype = _at_least_float32(x)
    tiny = torch.finfo(dtype).tiny
    g_frame = x.mean(dim=1, dtype=dtype)  # [T, D]
    means = torch.stack([_window_mean(g_frame, window), g_frame], dim=-1)  # [T, D, 2]
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)  # [T, M, 1]
    dots = x.to(dtype) @ means  # [T, M, 2]
    # Two divisions instead of one by the product, which could underflow.
    scores = dots / length.clamp_min(tiny) / means.norm(dim=1, keepdim=True).clamp_min(tiny)
    return Similarity(scores[..., 0], scores[..., 1], scores.isfinite().all())


def gaussian(x: Tensor, window: int | None = None, channels: float = 0.5) -> Similarity:
    """The authors' released similarity: sum over a of exp(-|x̂ - c|² / 2a), x̂ the normalised token.

    Only the `channels` share of the D channels with the lowest variance over all T·M tokens takes part. The
    centres c are means of normalised tokens and are not normalised again. 5 means identical.
    """
    x = x.to(_at_least_float32(x))
    variance = x.var(dim=(0, 1), correction=0)  # [D]
    quiet = variance.topk(max(1, int(x.shape[-1] * channels)), largest=False).indices
    x = x[..., quiet]
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # [T, M, 1]
    inverse = 1 / length.clamp_min(1e-12)
    c_frame = (inverse.mT @ x).squeeze(1) / x.shape[1]  # [T, C], mean over m of x / |x|
    centres = torch.stack([_window_mean(c_frame, window), c_frame], dim=-1)  # [T, C, 2]
    # |x̂ - c|² expanded, so that no [T, M, C] difference is ever stored; |x̂|² is 1, or 0 for a zero token.
    distance = (length * inverse).square() - 2 * inverse * (x @ centres) + centres.square().sum(1, keepdim=True)
    distance = distance.clamp_min(0)
    scores = torch.stack([torch.exp(-distance / (2 * a)) for a in GAUSSIAN_ALPHAS]).sum(0)
    return Similarity(scores[..., 0], scores[..., 1], variance.isfinite().all() & scores.isfinite().all())


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _window_mean(frame_mean: Tensor, window: int | None) -> Tensor:
    """Mean over the frames of each window of `window` frames (the last may be shorter), [T, D] -> [T, D]."""
    frames = frame_mean.shape[0]
    if window is None or window >= frames:
        return frame_mean.mean(dim=0, keepdim=True).expand_as(frame_mean)
    owner = torch.arange(frames, device=frame_mean.device) // window
    member = (owner[:, None] == owner[None, :]).to(frame_mean.dtype)  # [T, T]
    return (member / member.sum(1, keepdim=True)) @ frame_mean
