"""What one visual input of a call cost the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Record:
    """What one visual input of a call cost the LLM. Everything is a count of LLM input rows, unless said.

    frames_before, frames_after: patch tokens of each frame; separators_*: newline tokens.
    sample: row of the batch. start: where the visual rows begin in the (padded) sequence of that row.
    cut: visual rows lost because the sequence was longer than the model's `tokenizer_model_max_length`.
    layers: of methods inside the LLM, visual rows that each of its layers processed, merged tokens and separators
        included. Their frames_after are the patch tokens in the last layer, merged ones left out.
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

    @property
    def tokens_before(self) -> int:
        return sum(self.frames_before) + self.separators_before

    @property
    def tokens_after(self) -> float:
        """What the LLM really saw: kept patches and separators, less what a too long sequence lost. A whole number,
        but for methods inside the LLM: there it is the mean over the layers."""
        if self.layers:
            return sum(self.layers) / len(self.layers)
        return self.prompt_rows

    @property
    def prompt_rows(self) -> int:
        """The visual input's rows in the prompt that the LLM got."""
        if self.layers:
            return self.layers[0]
        return sum(self.frames_after) + self.separators_after - self.cut

    @property
    def retention(self) -> float:
        """The actual one, separators included."""
        return self.tokens_after / self.tokens_before
