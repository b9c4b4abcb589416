"""Dropping video tokens from a language model's input, before its first layer: the steps that need no hook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vidcom2.compressor import Compressor, Kept
from vidcom2.models.layouts.layout import FramedVideo
from vidcom2.models.moved import Moved
from vidcom2.models.names import HASHED_IDS
from vidcom2.records import Record


@dataclass(frozen=True)
class Choice:
    """Which rows of a prompt stay.

    Attributes:
        stay: bool [B, N], rows that stay. Padding counts as staying.
        embeds: [B, N, D], the rows, with merged tokens in place of those they are merged from.
        merges: Whether there are merged tokens.
        videos: The videos, and what the compressor kept of each.
    """

    stay: Tensor
    embeds: Tensor
    merges: bool
    videos: list[tuple[FramedVideo, Kept]]


def choose(compressor: Compressor, embeds: Tensor, videos: Iterable[FramedVideo]) -> Choice:
    """Have the compressor choose the tokens of each video in the prompts' rows, embeds [B, N, D]."""
    stay = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    with_merged, kept_videos = embeds, []
    for video in videos:
        x = embeds[video.row, video.columns].unflatten(0, (video.frames, -1))
        kept = compressor.select(x, video.grid if compressor.uses_grid else None)
        columns = video.columns[kept.index]
        stay[video.row, video.columns] = False
        stay[video.row, columns] = True
        if kept.features is not None:
            with_merged = embeds.clone() if with_merged is embeds else with_merged
            with_merged[video.row, columns] = kept.features.to(embeds.dtype)
        kept_videos.append((video, kept))
    return Choice(stay, with_merged, with_merged is not embeds, kept_videos)


def original_positions(positions: Tensor, moved: Moved, rows: int) -> Tensor:
    """Return the positions of the rows that stay, as they had them in the full sequence.

    Args:
        positions: [B, N] or, for mRoPE, [3 or 4, B, N].
        moved: Where the rows go.
        rows: How many rows the cache has.
    """
    new = moved.pick(positions)
    if positions.ndim == 3 and len(positions) == 4:
        # Row 0 only tells packed sequences apart. A gap in it would be taken for the start of another one.
        new[0] = (rows + moved.live.cumsum(dim=1) - 1).clamp(min=0)
    return new


def repacked_positions(positions: Tensor, moved: Moved, valid: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """Return positions that count the rows of the shortened sequence, in all rows of mRoPE too, as for text.

    Args:
        positions: As for `original_positions`.
        moved: Where the rows go.
        valid: bool [B, rows], which rows of the cache are no padding; None if all.
        rows: How many rows the cache has.

    Returns:
        The positions, and int64 [B], how far the last position is behind the one it had in the full sequence.
    """
    start = torch.full((len(moved.live),), rows, device=positions.device)
    if valid is not None:
        start -= (~valid).sum(dim=1)
    new = (start[:, None] + moved.live.cumsum(dim=1) - 1).clamp(min=0)
    last = positions[-3:, :, -1].amax(dim=0) if positions.ndim == 3 else positions[:, -1]
    behind = last - (start + moved.live.sum(dim=1) - 1)
    return new.expand(*positions.shape[:-2], *new.shape), behind


def shorten_others(kwargs: dict[str, Any], moved: Moved) -> None:
    """Shorten what else a call may have a row for: token ids [B, N] whose n-grams are embedded, and deepstack features.

    Deepstack features are added to the rows of a mask [B, N].
    """
    if (ids := kwargs.get(HASHED_IDS)) is not None:
        kwargs[HASHED_IDS] = moved.pick(ids)
    visual = kwargs.get("visual_pos_masks")
    if visual is None:
        return
    stays = torch.zeros_like(visual).scatter(1, moved.order, moved.live)[visual]
    kwargs["visual_pos_masks"] = moved.pick(visual) & moved.live
    kwargs["deepstack_visual_embeds"] = [features[stays] for features in kwargs["deepstack_visual_embeds"]]


def records_of(
    videos: Sequence[tuple[FramedVideo, Kept]], moved: Moved, spec: str, positions: Literal["repack", "original"]
) -> list[Record]:
    """Return one record for each video."""
    records = []
    for video, kept in videos:
        separators = len(video.separators)
        last = video.separators[-1] if separators else video.columns[-1]
        order, live = moved.order[video.row], moved.live[video.row]
        own = (order >= video.columns[0]) & (order <= last) & live
        records.append(
            Record(
                sample=video.row,
                modality="video",
                method=spec,
                positions=positions,
                start=int(own.int().argmax()),
                frames_before=(len(video.columns) // video.frames,) * video.frames,
                frames_after=tuple(kept.budgets.tolist()),
                separators_before=separators,
                separators_after=separators,
                by_hand=kept.by_hand,
            )
        )
    return records
