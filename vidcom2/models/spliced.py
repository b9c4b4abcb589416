"""What a model that splices videos into text itself tells about a prompt; see `vidcom2.models.llava`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidcom2.records import Record

SEPARATOR = -1
"""In `SplicedVisual.frame`: the row is no patch."""


@dataclass(frozen=True)
class SplicedVisual:
    """One image or video in a prompt.

    Attributes:
        record: Its record. `record.sample` is its row of the batch.
        columns: int64 [n], ascending columns of all its rows in the padded sequence. Rows that were cut off are
            missing.
        frame: int64 [n], frame of each row; SEPARATOR for newlines.
    """

    record: Record
    columns: Tensor
    frame: Tensor

    @property
    def patches(self) -> Tensor:
        """int64, the columns of its patch tokens, frame by frame."""
        return self.columns[self.frame != SEPARATOR]


@dataclass(frozen=True)
class Spliced:
    """The prompts of one call, as the language model is about to get them.

    Attributes:
        mask: bool [B, N], rows that are no padding.
        visuals: All images and videos, in the order of the batch.
        cut: For each prompt, how many rows at its end were cut off because it was longer than the model takes.
        labels: Whether the call has labels.
    """

    mask: Tensor
    visuals: tuple[SplicedVisual, ...]
    cut: tuple[int, ...]
    labels: bool
