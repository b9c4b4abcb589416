"""Clips of equal length, into which a video is cut, and tokens that are sums over the frames of a clip."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from vidcom2.kernels.products import products


class Clips(NamedTuple):
    """Neighbouring clips of one length.

    Attributes:
        first: The first frame of the first clip.
        number: How many clips there are.
        length: Their frames.
    """

    first: int
    number: int
    length: int

    @property
    def firsts(self) -> range:
        """The first frames of the clips."""
        return range(self.first, self.first + self.number * self.length, self.length)

    def view(self, of_frames: Tensor) -> Tensor:
        """View a tensor [T, ...] as [number, length, ...]."""
        return of_frames.narrow(0, self.first, self.number * self.length).unflatten(0, (self.number, self.length))


def cut(frames: int, clips: int) -> list[Clips]:
    """Cut a video into `clips` clips, but at most one per frame; earlier ones get a frame more."""
    length, longer = divmod(frames, number := min(clips, frames))
    start = longer * (length + 1)
    parts = [Clips(0, longer, length + 1), Clips(start, number - longer, length)]
    return [part for part in parts if part.number]


def sums_in_clips(x: Tensor, own: tuple[Tensor, ...], clips: list[Clips], moves: list[list[Tensor]]) -> Tensor:
    """Return the kept tokens [N, D] of x [T, M, D], in float32 at least. Each is a sum over tokens with weights.

    Args:
        x: The features.
        own: For each frame, the weights [k, M] of its tokens in those that it keeps.
        clips: The clips of the video.
        moves: For each of them, for each step from a first frame, the weights [number, k, M] of the tokens of the frame
            there in the k or fewer tokens that the first frame keeps.
    """
    made = x.new_empty(sum(map(len, own)), x.shape[2], dtype=own[0].dtype)
    rows = [slice(end - len(weight), end) for end, weight in zip(accumulate(map(len, own)), own, strict=True)]
    for part, of_step in zip(clips, moves, strict=True):
        for number, first in enumerate(part.firsts):
            count = len(own[first])
            made[rows[first]].copy_(_product(of_step[0][number, :count], x[first]))
            for step, weight in enumerate(of_step[1:], 1):
                sums = _product(torch.cat([weight[number, :count], own[first + step]]), x[first + step])
                made[rows[first]].add_(sums[:count])
                made[rows[first + step]].copy_(sums[count:])
    return made


def _product(weights: Tensor, tokens: Tensor) -> Tensor:
    """The sums [n, D] of the tokens [M, D] of a frame with weights [n, M]."""
    tokens = tokens.to(weights.dtype)
    return weights @ tokens if tokens.requires_grad else products(weights, tokens.mT)
