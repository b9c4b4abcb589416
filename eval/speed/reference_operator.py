"""The slow reference of `python -m eval bench operator`: VidCom²'s released operator, written straightforwardly.

It stores every difference and ranks the frames one after the other. It serves only for comparison: runs use
`VidCom2.released`, which keeps the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Widths of the Gaussian kernels, as in the authors' code."""


def slow_reference(x: Tensor, retention: float = 0.25) -> Tensor:
    """Select tokens as `VidCom2.released` does. It computes in the dtype of `x`, like the authors' code.

    Args:
        x: Features [T, M, D].
        retention: Share of tokens to keep.

    Returns:
        Ascending positions of the kept tokens in the flattened T * M tokens, int64 [N].
    """
    frames, m, channels = x.shape
    variance = x.flatten(0, 1).var(dim=0, correction=0)
    quiet = variance.topk(max(1, channels // 2), largest=False).indices
    tokens = normalize(x[..., quiet], dim=-1)
    video = _similarity(tokens, tokens.mean(dim=(0, 1)))
    frame = _similarity(tokens, tokens.mean(dim=1, keepdim=True))
    uniqueness = -video.mean(dim=1)
    weight = torch.softmax((uniqueness - uniqueness.max()) / 0.01, dim=0)
    share = (retention * (1 + weight - weight.mean())).clamp(max=1)
    kept = []
    for t in range(frames):
        k = max(1, round(float(share[t] * m)))
        best = (video[t] + frame[t]).topk(k, largest=False).indices
        kept.append(t * m + best.sort().values)
    return torch.cat(kept)


def _similarity(tokens: Tensor, centre: Tensor) -> Tensor:
    """Similarity of tokens [T, M, D] to a centre, [T, M]. Identical vectors have 5."""
    distance = (tokens - centre).pow(2).sum(dim=-1)
    return sum((torch.exp(-distance / (2 * alpha)) for alpha in ALPHAS), torch.zeros_like(distance))
