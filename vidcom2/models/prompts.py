"""What a family tells `LayerHooks` about a prefill: where its videos are, and which rows are text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a video is in the language model's input.

    Attributes:
        row: Row of the batch.
        columns: int64 [T·M], columns of the video's patch tokens in the padded sequence, frame by frame.
        frames: T. All frames have M patch tokens.
        separators: How many rows the video has that are no patches. They stay.
    """

    row: int
    columns: Tensor
    frames: int
    separators: int = 0


@dataclass(frozen=True)
class Prompt:
    """A prefill with videos.

    Attributes:
        videos: The videos, in the order of the batch.
        valid: bool [B, N], rows that are no padding.
        text: bool [B, N], rows that are text.
        length: How many of the N rows are the prompt. Later rows are the answer so far, when there is no cache.
    """

    videos: list[Place]
    valid: Tensor
    text: Tensor
    length: int
