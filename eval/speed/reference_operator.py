"""The slow reference of `python -m eval bench operator`: VidCom²'s released operator, written straightforwardly.

Every difference is stored, and the frames are ranked one after the other. It is here to be compared with: the product
uses `VidCom2.released`, which chooses the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


def slow_reference(x: Tensor, retention: float = 0.25) -> Tensor:
    """Ascending positions of the kept tokens, int64 [N], in the flattened T·M tokens of x [T, M, D].

    Computes in the dtype of x, as the authors' code does.
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
    """[T, M], 5 for identical vectors."""
    distance = (tokens - centre).pow(2).sum(dim=-1)
    return sum((torch.exp(-distance / (2 * alpha)) for alpha in ALPHAS), torch.zeros_like(distance))
