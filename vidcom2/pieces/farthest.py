"""Clusters by farthest-first traversal (Gonzalez 1985), in two stages: the time is linear in the length of the video.

The traversal starts with one token and takes, again and again, the token that is farthest from all it has taken. So it
covers the tokens: stopped anywhere, no token is farther from a taken one than the next token would be. That distance is
the radius of the next token; radii never grow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

CANDIDATES = 800
"""About so many tokens are compared with each other: what bounds the time per token."""


def farthest_first_clusters(p: Tensor, rough: Tensor, frames: int, count: int) -> Tensor:
    """Cut the tokens of a video into `count` clusters, each of the tokens that are nearest to one of `count` seeds.

    1. The video is cut into short runs of frames, of CANDIDATES tokens at most, but one frame at least. In each, the
       traversal takes 1.5 times the run's equal share of `count`.
    2. Neighbouring runs are put together into long ones, as many as have CANDIDATES taken tokens. The traversal goes
       over these tokens, and the `count` tokens with the largest radii become the seeds, wherever they are; but a long
       run has at most 1.5 times its equal share. So parts of a video in which much happens have more clusters.
    3. A token goes to the nearest seed of its long run; of equally near ones, to the first that was taken. A seed stays
       in its own cluster, so that none is empty.

    Where a long run would be one short run, there is no second stage.

    Args:
        p: Tokens, float [T·M, D], frame by frame, as step 3 compares them.
        rough: The same tokens as steps 1 and 2 compare them, with fewer channels, [T·M, d]. It may be p.
        frames: T.
        count: From T to T·M.

    Returns:
        int64 [T·M], the number of each token's cluster, below `count`.
    """
    m = len(p) // frames
    short = _runs(frames, max(1, CANDIDATES // m))
    sizes = [(end - first) * m for first, end in short]
    tokens = _padded([torch.arange(first * m, end * m) for first, end in short]).to(p.device)
    seeds, radius = _traverse(rough, tokens, _steps(sizes, count))
    long = _runs(len(short), max(1, CANDIDATES // seeds.shape[1]))
    if len(long) < len(short):
        candidates = [sum(min(size, seeds.shape[1]) for size in sizes[first:end]) for first, end in long]
        seeds, tokens = (_padded([each[first:end].flatten() for first, end in long]) for each in (seeds, tokens))
        seeds, radius = _traverse(rough, seeds, _steps(candidates, count))
    best = radius.flatten().argsort(descending=True, stable=True)[:count]
    clusters = torch.zeros_like(radius[:, 0], dtype=torch.int64)  # of each long run
    clusters.index_add_(0, best // radius.shape[1], torch.ones_like(best))
    most = int(clusters.max())
    seeds, number = seeds[:, :most], torch.arange(most, device=p.device)
    there = number < clusters[:, None]

    # A centre c is near to p if p·c - |c|²/2 is large.
    centres = p[seeds]
    bias = torch.linalg.vector_norm(centres, dim=-1).square().mul_(-0.5).masked_fill_(~there, -torch.inf)
    near = torch.baddbmm(bias[:, None], p[tokens], centres.mT).argmax(dim=-1)
    before = (clusters.cumsum(0) - clusters)[:, None]
    owner = near.new_empty(len(p) + 1)  # the last is for padding
    owner[tokens] = before + near
    owner[seeds.where(there, len(p))] = before + number
    return owner[:-1]


def _traverse(p: Tensor, tokens: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Go over several sets of tokens at once, farthest first.

    Args:
        p: Tokens, float [N, D].
        tokens: int64 [sets, n], indices into p. Each set begins with its first token; -1 stands for none.
        steps: How many tokens to take of each set.

    Returns:
        The tokens in the order in which they are taken, int64 [sets, steps], and their radii squared [sets, steps]. The
        first one's is inf. Where a set has too few tokens, the token is -1 and the radius negative.
    """
    sets, n = tokens.shape
    x, there = p[tokens], tokens >= 0
    square = torch.linalg.vector_norm(x, dim=-1).square()
    distance = torch.baddbmm(square.masked_fill(~there, -torch.inf)[:, None], x, x.mT, alpha=-2).add_(square[..., None])
    distance.diagonal(dim1=1, dim2=2).fill_(-1)  # what is taken is nearer to itself than anything else is
    distance = distance.flatten(0, 1)
    row = torch.arange(sets, device=p.device) * n
    taken, radius = tokens.new_zeros(steps, sets), x.new_full((steps, sets), torch.inf)
    nearest = distance[row]
    for step in range(1, steps):
        torch.max(nearest, dim=1, out=(radius[step], taken[step]))
        nearest = torch.minimum(nearest, distance.index_select(0, row + taken[step]))
    seeds, radius = tokens.gather(1, taken.mT), radius.mT
    return seeds.masked_fill(radius <= -1, -1), radius


def _steps(sizes: list[int], count: int) -> int:
    """1.5 times the equal share of `count` among sets of these sizes, or more if they have too few tokens otherwise."""
    steps = count if len(sizes) == 1 else -(-3 * count // (2 * len(sizes)))
    while sum(min(steps, size) for size in sizes) < count:
        steps += 1
    return min(steps, max(sizes))


def _runs(size: int, longest: int) -> list[tuple[int, int]]:
    """`size` things in runs of `longest` at most, as equal as can be: the first of each, and the first behind it."""
    runs = -(-size // longest)
    return [(i * size // runs, (i + 1) * size // runs) for i in range(runs)]


def _padded(sets: list[Tensor]) -> Tensor:
    return pad_sequence(sets, batch_first=True, padding_value=-1)
