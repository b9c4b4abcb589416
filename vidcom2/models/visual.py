"""One video on its way through the layers of a language model that drops its tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.features import all_finite, full_precision, require_finite
from vidcom2.inside import InsideLLM, Stage
from vidcom2.models.prompts import Place, Prompt
from vidcom2.records import Record


@dataclass
class Visual:
    """A video on its way through the layers. Its tokens are the v patch and merged tokens that are present.

    Attributes:
        place: Where the video is in the prompt.
        stages: Where its tokens are dropped.
        budgets: For each stage int64 [T], how many tokens each frame keeps; None if the frames share one ranking.
        raters: int64 [Q], columns of the rows that rank the tokens by their attention.
        rows: int64 [v], columns of the tokens.
        ids: int64 [v], numbers of the tokens: 0..T·M-1 are the patch tokens, merged tokens follow as they come.
        frame: int64 [v], frame of each token.
        known: How many numbers are given.
        entering: What of the video enters the first layer; None for all of it.
        scores: float32 [v], the latest ranking; None before the first.
        history: The `ids` after each stage.
        ranked: The `scores` of each stage.
        counts: How many tokens each layer processes.
    """

    place: Place
    stages: Sequence[Stage]
    budgets: list[Tensor | None]
    raters: Tensor
    rows: Tensor
    ids: Tensor
    frame: Tensor
    known: int
    entering: Kept | None = None
    scores: Tensor | None = None
    history: list[Tensor] = field(default_factory=list)
    ranked: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def frames_after(self) -> tuple[int, ...]:
        """Patch tokens of each frame that are present."""
        left = self.frame[self.ids < len(self.place.columns)]
        return tuple(torch.bincount(left, minlength=self.place.frames).tolist())

    @property
    def layers(self) -> tuple[int, ...]:
        """Rows of the video in each layer, separators included."""
        return tuple(count + self.place.separators for count in self.counts)

    def move_to(self, device: torch.device) -> None:
        """Move all tensors to another device."""
        for name in ("raters", "rows", "ids", "frame", "scores"):
            known = getattr(self, name)
            setattr(self, name, None if known is None else known.to(device))
        self.budgets = [None if budgets is None else budgets.to(device) for budgets in self.budgets]

    def record(self, spec: str, positions: Literal["repack", "original"]) -> Record:
        """Return the record of this video."""
        frames, separators = self.place.frames, self.place.separators
        return Record(
            sample=self.place.row,
            modality="video",
            method=spec,
            positions=positions,
            start=int(self.place.columns[0]),
            frames_before=(len(self.place.columns) // frames,) * frames,
            frames_after=self.frames_after,
            separators_before=separators,
            separators_after=separators,
            layers=self.layers,
        )


def visual_of(
    method: InsideLLM, layers: int, linear: Collection[int], place: Place, prompt: Prompt, embeds: Tensor
) -> Visual:
    """Return a video as it enters an LLM of `layers` layers, with its schedule and its raters.

    Args:
        method: The method that drops its tokens.
        layers: How many layers the LLM has.
        linear: Which of them have linear attention.
        place: Where the video is.
        prompt: The prefill that it is in.
        embeds: [N, D], the rows of its prompt.

    Raises:
        NotFinite: If the video's features hold NaN or Inf.
    """
    tokens, device = len(place.columns), embeds.device
    columns = place.columns.to(device)
    features = embeds[columns]
    require_finite(bool(all_finite(features)), features)
    stages = method.schedule(layers, tokens, linear)
    with full_precision(device):
        budgets: list[Tensor | None] = [None] * len(stages)
        if method.fca is not None:
            x = features.unflatten(0, (place.frames, -1))
            budgets = [method.fca.budgets(x, stage.keep / tokens) for stage in stages]
        entering = method.enter(features.unflatten(0, (place.frames, -1))) if stages else None

        column = torch.arange(len(embeds), device=device)
        in_prompt = column < prompt.length
        question = (prompt.text[place.row] & (column > columns[-1]) & in_prompt).nonzero()[:, 0]
        chosen = method.raters(features, embeds[question])
    raters = (prompt.valid[place.row] & in_prompt).nonzero()[-1] if chosen is None else question[chosen]
    ids = torch.arange(tokens, device=device)
    frame = ids // (tokens // place.frames)
    return Visual(place, stages, budgets, raters, columns, ids, frame, tokens, entering)
