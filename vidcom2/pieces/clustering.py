"""DPC-KNN, density peaks clustering over nearest neighbours (Rodriguez and Laio 2014; Du et al. 2016).

Published code adds random noise to the density. This one does not, so equal input gives equal clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidcom2.kernels.products import own_products

FEW = 8
"""Up to so many smallest values are looked for one by one."""


def squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances of the tokens x [n, D] from each other over D, without a gradient.

    Args:
        x: Tokens, float32 or float64.

    Returns:
        [n, n]. Equal tokens have distance 0.
    """
    x = x - x.mean(dim=0)  # distances may be small against lengths, which then cost digits
    return squared_distances_from(own_products(x), x.shape[-1])


def squared_distances_from(dots: Tensor, channels: int) -> Tensor:
    """Return the `squared_distances` of tokens from their products with each other.

    Tokens that are each other's nearest must get equal densities, so the distances are symmetric to the last digit,
    which products are not.

    Args:
        dots: [n, n]. It is overwritten.
        channels: D.
    """
    dots.tril_().add_(dots.tril(-1).mT)
    square = dots.diagonal()
    return torch.add(square[:, None] + square[None, :], dots, alpha=-2).clamp_min_(0).div_(channels)


def centres(x: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Return which tokens are the centres of clusters, best first; see `centres_among`.

    Args:
        x: Tokens, float [n, D].
        clusters: How many centres to return, at most n.
        neighbours: How many nearest tokens the density looks at.
    """
    return centres_among(squared_distances(x), clusters, neighbours)


def centres_among(squares: Tensor, clusters: int, neighbours: int) -> Tensor:
    """Return which tokens are the centres of clusters, best first.

        density = exp(-mean of d² to the `neighbours` nearest tokens, itself included)
        score   = density times d to the nearest denser token

    d is the Euclidean distance over sqrt(D). Where no token is denser, the largest distance of any two tokens takes
    the place of d. The centres are the tokens with the highest scores; of equal scores, the earlier token wins.

    Args:
        squares: The tokens' `squared_distances` [n, n].
        clusters: How many centres to return, at most n.
        neighbours: How many nearest tokens the density looks at; it takes all n if there are fewer.

    Returns:
        int64 [clusters], which tokens.
    """
    density = (-smallest(squares, min(neighbours, len(squares))).mean(dim=-1)).exp()
    denser = density[None, :] > density[:, None]
    indicator = squares.where(denser, squares.max()).amin(dim=-1).sqrt()
    return (density * indicator).argsort(descending=True, stable=True)[:clusters]


def smallest(values: Tensor, count: int) -> Tensor:
    """Return the `count` smallest values of each row, ascending: [n, m] -> [n, count]."""
    if count > FEW:
        return values.topk(count, largest=False).values
    left, found = values.clone(), []  # one after the other is faster than topk on a CPU
    for _ in range(count):
        least, where = left.min(dim=-1, keepdim=True)
        found.append(least)
        left.scatter_(-1, where, torch.inf)
    return torch.cat(found, dim=-1)


def nearest_centre(x: Tensor, chosen: Tensor) -> Tensor:
    """Return which centre is the nearest to each token; see `nearest_among`.

    Args:
        x: Tokens, float [n, D].
        chosen: int64 [clusters], the centres, from `centres`.
    """
    return nearest_among(torch.cdist(x, x[chosen]), chosen)


def nearest_among(distance: Tensor, chosen: Tensor) -> Tensor:
    """Return which centre is the nearest to each token. A centre belongs to itself.

    Args:
        distance: Distances of the tokens from the centres, [n, clusters].
        chosen: int64 [clusters], the centres, from `centres`.

    Returns:
        int64 [n], each an index into `chosen`; of equally near centres, the first.
    """
    owner = distance.argmin(dim=-1)
    owner[chosen] = torch.arange(len(chosen), device=distance.device)
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
