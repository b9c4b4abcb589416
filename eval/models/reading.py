"""The record of how a video was read, as the engines make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llava.video import OpenVideo
from llava.video.against_decord import against_decord

from ..results.sample import Reading


def reading_of(
    file: str,
    video: OpenVideo,
    choose: Callable[[int, float], list[int]],
    frames: np.ndarray,
    rows: Sequence[int] | None = None,
) -> Reading:
    """Compare the frames of a video with those that raw decord would have given.

    Args:
        file: Path of the video.
        video: The opened video.
        choose: Picks the numbers of frames from their count and rate.
        frames: uint8 [T, H, W, 3], what `video` gave for `choose`.
        rows: See `llava.video.against_decord.against_decord`.
    """
    against = against_decord(file, video, choose, frames, rows)
    return Reading(video.name, video.why, against.differ, against.why)
