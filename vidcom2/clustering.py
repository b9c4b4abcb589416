"""DPC-KNN, density peaks clustering over nearest neighbours (Rodriguez and Laio 2014; Du et al. 2016).

Published code adds random noise to the density. This one does not, so equal input gives equal clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def centres(x: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Return which tokens are the centres of clusters, best first.

        density = exp(-mean of d² to the `neighbours` nearest tokens, itself included)
        score   = density times d to the nearest denser token

    d is the Euclidean distance over sqrt(D). Where no token is denser, the largest distance of any two tokens takes
    the place of d. The centres are the tokens with the highest scores; of equal scores, the earlier token wins.

    Args:
        x: Tokens, float [n, D].
        clusters: How many centres to return, at most n.
        neighbours: How many nearest tokens the density looks at; it takes all n if there are fewer.

    Returns:
        int64 [clusters], indices into x.
    """
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    nearest = distance.topk(min(neighbours, len(x)), largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    denser = density[None, :] > density[:, None]
    indicator = distance.where(denser, distance.max()).amin(dim=-1)
    return (density * indicator).argsort(descending=True, stable=True)[:clusters]


def nearest_centre(x: Tensor, chosen: Tensor) -> Tensor:
    """Return which centre is the nearest to each token. A centre belongs to itself.

    Args:
        x: Tokens, float [n, D].
        chosen: int64 [clusters], the centres, from `centres`.

    Returns:
        int64 [n], each an index into `chosen`; of equally near centres, the first.
    """
    owner = torch.cdist(x, x[chosen]).argmin(dim=-1)
    owner[chosen] = torch.arange(len(chosen), device=x.device)
    return owner


def members(owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the tokens of each cluster.

    Args:
        owner: int64 [n], the cluster that each token belongs to.
        count: How many clusters there are. Tokens with a higher number belong to none.

    Returns:
        int64 [n], the tokens sorted by cluster, ascending within each, and int64 [count], where each cluster begins in
        them. An empty cluster begins where the next one does.
    """
    order = owner.argsort(stable=True)
    return order, torch.searchsorted(owner[order], torch.arange(count, device=owner.device))


def means(x: Tensor, order: Tensor, start: Tensor) -> Tensor:
    """Return the mean of each cluster's tokens, [count, D] in the dtype of x; 0 for an empty cluster.

    Equal input gives equal output on a GPU too, unlike that of index_add.

    Args:
        x: Tokens, float [n, D].
        order: From `members`; no token of it belongs to no cluster.
        start: From `members`.
    """
    return embedding_bag(order, x, start, mode="mean")
