"""Clips of equal length, into which a video is cut."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
