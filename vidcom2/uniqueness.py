"""How similar each token is to its frame and to its video. Uniqueness is the negative similarity.

Both similarities, `cosine` and `gaussian`, compare every token twice: with the mean of its frame, and with the mean of
its video (or of its window of frames, table 7 of https://arxiv.org/abs/2505.14454). How to compute the sums in little
memory and time is the matter of `vidcom2.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcom2.kernels import kernels_for

GAUSSIAN_ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Bandwidths of the released Gaussian kernel. The similarity of two identical tokens is their number, 5."""


@dataclass(frozen=True)
class Similarity:
    """What `cosine` and `gaussian` return. float32, or float64 for float64 features, on the device of the features.

    Attributes:
        video: [T, M], similarity of each token to the mean of its video.
        frame: [T, M], similarity of each token to the mean of its frame.
        checksum: 0-d. It is NaN or Inf if a feature is. It stays on the device, so that the caller can read it
            together with the one number that it has to read anyway.
    """

    video: Tensor
    frame: Tensor
    checksum: Tensor


def cosine(x: Tensor, window: int | None = None) -> Similarity:
    """Return cos(x, g_v) and cos(x, g_f), with the means g of the tokens as they are (paper, Algorithm 1).

    A zero token has similarity 0. Scaling all of x by a positive number changes nothing. A CPU reads x twice.

    Args:
        x: Features [T, M, D].
        window: Take g_v over windows of that many frames; None takes it over all frames.
    """
    kernels = kernels_for(x)
    means = _with_video(kernels.frame_means(x), window)  # [T, 2, D]
    length, dots = kernels.lengths_and_dots(x, means)  # [T, M, 1], [T, M, 2]
    tiny = torch.finfo(length.dtype).tiny
    # Two divisions, since the product of the lengths could underflow.
    scores = dots / length.clamp_min(tiny) / means.norm(dim=-1)[:, None].clamp_min(tiny)
    return Similarity(scores[..., 0], scores[..., 1], scores.sum())


def gaussian(x: Tensor, window: int | None = None, channels: float = 0.5) -> Similarity:
    """Return sum over a of exp(-|x̂ - c|² / 2a), the similarity of the authors' released code.

    x̂ is the token divided by its length. The centres c are the means of x̂ over a frame and over the video; they are
    not normalised again. Identical tokens have similarity 5. A CPU reads x three times.

    Args:
        x: Features [T, M, D].
        window: Take the video's centre over windows of that many frames; None takes it over all frames.
        channels: Use this share of the D channels, those with the lowest variance over all T·M tokens.
    """
    kernels = kernels_for(x)
    variance = kernels.channel_variances(x)  # [D]
    quiet = variance.topk(max(1, int(x.shape[-1] * channels)), largest=False).indices
    mask = torch.zeros_like(variance).scatter_(0, quiet, 1)  # x[..., quiet] would copy half of x

    length, centres = kernels.lengths_and_unit_means(x, mask)
    centres = _with_video(centres, window)  # [T, 2, D]
    # |x̂ - c|² = |x̂|² - 2 x̂·c + |c|², so that no difference [T, M, D] is stored. |x̂|² is 1, or 0 for a zero token.
    inverse = 1 / length.clamp_min(1e-12)
    distance = (length * inverse).square() - 2 * inverse * kernels.dots(x, centres)
    distance = (distance + centres.square().sum(dim=-1)[:, None]).clamp_min(0)
    scores = torch.stack([distance / (-2 * a) for a in GAUSSIAN_ALPHAS]).exp().sum(0)
    # The largest variance, since their sum could overflow float32.
    return Similarity(scores[..., 0], scores[..., 1], variance.max() + scores.sum())


def _with_video(frame_centres: Tensor, window: int | None) -> Tensor:
    """The centres of the video (or of the windows) and of the frames, [T, 2, D], from those of the frames [T, 1, D]."""
    return torch.cat([_window_mean(frame_centres, window).expand_as(frame_centres), frame_centres], dim=1)


def _window_mean(frame_centres: Tensor, window: int | None) -> Tensor:
    """The mean over each window of `window` frames, of which the last may be shorter: [T, 1, D] -> [T or 1, 1, D]."""
    frames = frame_centres.shape[0]
    if window is None or window >= frames:
        return frame_centres.mean(dim=0, keepdim=True)
    owner = torch.arange(frames, device=frame_centres.device) // window
    member = (owner[:, None] == owner[None, :]).to(frame_centres.dtype)  # [T, T]
    return ((member / member.sum(1, keepdim=True)) @ frame_centres.squeeze(1))[:, None]
