"""`Record`: how many tokens one visual input of a call cost the LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Record:
    """How many tokens one visual input, a video or an image, cost the LLM.

    Attributes:
        sample: Row of the batch.
        modality: "video" or "image".
        method: Spec of the compressor, or "none" if it left this input alone.
        positions: "repack" or "original"; see `Compressor`.
        start: Where the visual tokens begin in the (padded) sequence of that row.
        frames_before: Patch tokens of each frame without compression.
        frames_after: Patch tokens of each frame that stay. For methods inside the LLM, those in the last layer,
            without merged ones.
        separators_before: Newline tokens without compression.
        separators_after: Newline tokens that stay.
        cut: Visual tokens lost because the sequence was longer than the model's `tokenizer_model_max_length`.
        layers: For methods inside the LLM, the visual tokens that each layer processed, with merged tokens and
            separators. Empty for all others.
        by_hand: The patch tokens that the caller asked of each frame, None where nothing was asked. Empty if the
            caller had no say; see `vidcom2.Ranking`.
    """

    sample: int
    modality: Literal["video", "image"]
    method: str
    positions: str
    start: int
    frames_before: tuple[int, ...]
    frames_after: tuple[int, ...]
    separators_before: int
    separators_after: int
    cut: int = 0
    layers: tuple[int, ...] = ()
    by_hand: tuple[int | None, ...] = ()

    @property
    def tokens_before(self) -> int:
        """Visual tokens without compression: patches and separators."""
        return sum(self.frames_before) + self.separators_before

    @property
    def tokens_after(self) -> float:
        """Visual tokens that the LLM really saw: kept patches and separators, less those that were cut.

        This is a whole number, except for methods inside the LLM, for which it is the mean over the layers.
        """
        if self.layers:
            return sum(self.layers) / len(self.layers)
        return self.prompt_rows

    @property
    def prompt_rows(self) -> int:
        """Visual tokens in the prompt that the LLM got, which is what its first layer processes."""
        if self.layers:
            return self.layers[0]
        return sum(self.frames_after) + self.separators_after - self.cut

    @property
    def retention(self) -> float:
        """The actual retention ratio, tokens_after / tokens_before, separators included."""
        return self.tokens_after / self.tokens_before
