"""DPC-KNN, density peaks clustering over nearest neighbours (Rodriguez and Laio 2014; Du et al. 2016).

Without the random noise that published uses of it add to the density; so equal input gives equal clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor


def centres(x: Tensor, clusters: int, neighbours: int) -> Tensor:
    """The tokens that cluster centres are: int64 [clusters] into x [n, D], best first.

    With d the Euclidean distance over sqrt(D): density = exp(-mean of d² to the `neighbours` nearest, itself
    included), and a token's score is its density times its distance to the nearest denser token (to the farthest pair
    of all, where none is denser). Equal scores: the earlier token.
    """
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    nearest = distance.topk(min(neighbours, len(x)), largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    denser = density[None, :] > density[:, None]
    indicator = distance.where(denser, distance.max()).amin(dim=-1)
    return (density * indicator).argsort(descending=True, stable=True)[:clusters]


def nearest_centre(x: Tensor, chosen: Tensor) -> Tensor:
    """Which of the centres `chosen` (from `centres`) each token of x [n, D] belongs to: int64 [n] in [0, clusters).

    The first of equally near ones; a centre belongs to itself.
    """
    owner = torch.cdist(x, x[chosen]).argmin(dim=-1)
    owner[chosen] = torch.arange(len(chosen), device=x.device)
    return owner
