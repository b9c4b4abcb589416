"""Subspaces that tokens span: their leading direction, and a basis that grows as tokens are added."""

from __future__ import annotations

import torch
from torch import Tensor

SLICE = 2**21
"""Elements of the features that are converted and multiplied at once."""

BLOCK, STEPS = 8, 3
"""The Krylov space of `leading_direction` has BLOCK · (STEPS + 1) dimensions, or as many as there are channels."""


def leading_direction(x: Tensor, centre: Tensor) -> Tensor:
    """Return the direction in which the tokens vary most: the first right singular vector of x - centre.

    It is the best one in a block Krylov space: random vectors with a fixed seed, and their products with the
    covariance, its square and its cube (Musco and Musco 2015). x is read four times, and not copied.

    Args:
        x: Tokens, float [N, D].
        centre: Their mean, float32 or float64 [D].

    Returns:
        A unit vector [D], of the dtype and on the device of `centre`. Its sign has no meaning.
    """
    channels = len(centre)
    block = torch.randn(channels, min(BLOCK, channels), generator=torch.Generator().manual_seed(0))
    spaces = [torch.linalg.qr(block.to(centre))[0]]
    for _ in range(STEPS):
        image = torch.zeros_like(spaces[-1])
        for part, there in _centred(x, centre, spaces[-1]):
            image += part.mT @ there - torch.outer(centre, there.sum(dim=0))
        spaces.append(torch.linalg.qr(image)[0])
    space = torch.linalg.qr(torch.cat(spaces, dim=1))[0]
    gram = sum(there.mT @ there for _, there in _centred(x, centre, space))
    return space @ torch.linalg.eigh(gram)[1][:, -1]


def _centred(x: Tensor, centre: Tensor, space: Tensor):
    """Slices of x, and their coordinates (x - centre) @ space."""
    for part in x.split(max(1, SLICE // x.shape[1])):
        part = part.to(centre.dtype)
        yield part, part @ space - centre @ space


class Subspace:
    """An orthonormal basis of what the added vectors span.

    A direction that an added vector leaves the span by counts as new in so far as it is longer than the square root of
    `tolerance` times the vector: it is scaled by the square root of s / (s + tolerance), with s its relative squared
    length. So rounding noise spans nothing, equal vectors are no trouble, and no shape depends on the content.

    Args:
        size: How many directions it holds at most. Beyond that, new directions take the places of the oldest.
        tolerance: See above.
        like: A tensor [..., D] whose dtype and device the basis has.
    """

    def __init__(self, size: int, tolerance: float, like: Tensor) -> None:
        self.tolerance = tolerance
        self.rows = like.new_empty(size, like.shape[-1])
        self.filled = self.next = 0

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the coordinates [n, q] of vectors x [n, D] in the basis of q directions."""
        return x @ self.rows[: self.filled].mT

    def add(self, x: Tensor, coordinates: Tensor) -> None:
        """Add the vectors x [k, D], with their `coordinates` [k, q] in the basis as it is."""
        size = len(self.rows)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        rest = ((x - coordinates @ self.rows[: self.filled]) / length)[:size]
        gram = rest @ rest.mT
        gram.diagonal().add_(self.tolerance)
        new = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(gram)[0], rest, upper=False)
        first = min(len(new), size - self.next)
        self.rows[self.next : self.next + first] = new[:first]
        self.rows[: len(new) - first] = new[first:]
        self.filled = min(self.filled + len(new), size)
        self.next = (self.next + len(new)) % size
