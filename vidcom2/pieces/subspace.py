"""Subspaces that tokens span: their leading direction, and a basis that grows as tokens are added."""

from __future__ import annotations

import torch
from torch import Tensor

SLICE = 2**21
"""Elements of the features that are converted and multiplied at once."""

POWERS = 6
"""The highest power of the covariance in the Krylov space of `leading_direction`."""


def leading_direction(x: Tensor, centre: Tensor) -> Tensor:
    """Return the direction in which the tokens vary most: the first right singular vector of x - centre.

    It is the best one in the Krylov space (Lanczos 1950) of a random vector with a fixed seed. x is read 2 POWERS + 1
    times, and not copied.

    Args:
        x: Tokens, float [N, D].
        centre: Their mean, float32 or float64 [D].

    Returns:
        A unit vector [D], of the dtype and on the device of `centre`. Its sign has no meaning.
    """
    start = torch.randn(len(centre), generator=torch.Generator().manual_seed(0)).to(centre)
    space, images, back = centre.new_empty(0, len(centre)), [], start
    for power in range(POWERS + 1):
        for _ in range(2):  # the second time removes the rounding of the first
            back = back - (space @ back) @ space
        vector = back / back.norm().clamp_min(torch.finfo(centre.dtype).tiny)
        space = torch.cat([space, vector[None]])
        image, back = [], torch.zeros_like(vector)
        for part in x.split(max(1, SLICE // x.shape[1])):
            part = part.to(centre.dtype)
            image.append(part @ vector - centre @ vector)
            if power < POWERS:
                back += image[-1] @ part
        images.append(torch.cat(image))
        back = back - images[-1].sum() * centre
    # Where tokens or channels are few, the last vectors are rounding. Then the space has fewer dimensions.
    sizes, turn = torch.linalg.eigh(space @ space.mT)
    turn = turn * torch.where(sizes > 0.1, sizes.clamp_min(0.1).rsqrt(), 0)
    images = turn.mT @ torch.stack(images)
    return (turn @ torch.linalg.eigh(images @ images.mT)[1][:, -1]) @ space


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
