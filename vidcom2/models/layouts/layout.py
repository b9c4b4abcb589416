"""How a family of transformers' models lays its videos out among the prompt's tokens, and where a call's videos are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from torch import Tensor

from vidcom2.models import names
from vidcom2.models.moved import Moved


@dataclass(frozen=True)
class Video:
    """The tokens of one video among the rows of the language model.

    Attributes:
        row: Row of the batch.
        columns: int64 [n], ascending columns of the video's tokens in the padded sequence.
        positions: Rotary positions of these tokens, [n] or, for mRoPE, [3, n] (time, height, width).
    """

    row: int
    columns: Tensor
    positions: Tensor


@dataclass(frozen=True)
class FramedVideo:
    """One video, with its frames and its separators told apart.

    Attributes:
        row: Row of the batch.
        columns: int64 [T·M], ascending columns of the patch tokens in the padded sequence, frame by frame.
        frames: T. All frames have M patch tokens.
        separators: int64 [s], columns of the tokens that are no patches. They stay.
        positions: As in `Video`.
        patches: Rows and columns of the vision tower's patches of a frame, of which squares are merged into tokens.
            None where the call does not tell.
    """

    row: int
    columns: Tensor
    frames: int
    separators: Tensor
    positions: Tensor
    patches: tuple[int, int] | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of a frame, as its patches or its mRoPE positions show them; None if neither does.

        The latter waits for the device.
        """
        m = len(self.columns) // self.frames
        if self.patches is not None:
            side = math.isqrt(math.prod(self.patches) // m)
            rows, columns = (patches // max(side, 1) for patches in self.patches)
            return (rows, columns) if rows * columns == m else None
        if self.positions.ndim == 1:
            return None
        rows, columns = (1 + axis.max() - axis.min() for axis in self.positions[-2:, :m])
        return (int(rows), int(columns)) if rows * columns == m else None


@dataclass(frozen=True)
class Layout:
    """How a family of models lays out its videos.

    Attributes:
        token: Name of the config field with the id of the video's placeholder token.
        frames: Returns how many frames T a video has, given the outer model and the video without its separators. All
            frames have M = n / T tokens, in the order of the video's columns.
        separators: This many tokens at the end of every video are no patches and stay (LLaVA-OneVision's newline).
        split: Finds the videos in one row of the batch. It gets the outer model, the arguments of its call, the row's
            input ids, and the columns of all placeholders in that row, and yields the columns of each video. With None,
            the placeholders are split by the videos' lengths; see `lengths`.
        inputs: Name of the outer model's argument with the pixels, and the key of encoded videos in its argument
            `mm_encoder_outputs`.
        check: Gets the outer model and the arguments of a call with a video, and raises ValueError for what the model
            would take without a word but answer wrongly.
        lengths: Counts the placeholder tokens of each video of a call with pixels, given the outer model and the call's
            arguments. With None, the videos' grids tell, or all videos are equal.
        finish: Shortens what the family's language model gets beside embeddings, positions, mask and deepstack
            features. It gets the outer model, the arguments of its call, those of the language model (the other ones
            shortened, the mask being bool [B, rows + N'] or None), where the rows went, and how many rows the cache
            has.
        positions: Which positions the tokens that stay get unless the compressor says.
        patches: Returns rows and columns of the patches of each frame of the call's videos, given the call's arguments
            and those of generate(); None if they do not tell. For families whose positions do not show them, and whose
            frames need not be square.
    """

    token: str
    frames: Callable[[Any, Video], int]
    separators: int = 0
    split: Callable[[Any, dict[str, Any], Tensor, Tensor], Iterator[Tensor]] | None = None
    inputs: tuple[str, str] = ("pixel_values_videos", "video")
    check: Callable[[Any, dict[str, Any]], None] | None = None
    lengths: Callable[[Any, dict[str, Any]], list[int]] | None = None
    finish: Callable[[Any, dict[str, Any], dict[str, Any], Moved, int], None] | None = None
    positions: Literal["repack", "original"] = "original"
    patches: Callable[[dict[str, Any]], list[tuple[int, int]] | None] | None = None


def split_runs(columns: Tensor) -> Sequence[Tensor]:
    """Split ascending columns, int64 [n], into runs of neighbours."""
    return columns.tensor_split((columns.diff() > 1).nonzero()[:, 0].cpu() + 1)


def framed_videos(layout: Layout, outer: Any, called: dict[str, Any], positions: Tensor) -> Iterator[FramedVideo]:
    """Yield the videos of a call, in the order of the batch.

    Args:
        layout: Layout of the model's family.
        outer: The outer part of the model.
        called: Arguments of the outer part's call.
        positions: Rotary positions of all rows, [B, N] or, for mRoPE, [3 or 4, B, N].

    Raises:
        ValueError: If the call has no `input_ids`, or if its tokens or positions do not fit the layout.
    """
    for row, columns in _placeholders(layout, outer, called, positions):
        patches = len(columns) - layout.separators
        place = positions[..., row, columns[:patches]]
        video = Video(row, columns[:patches], place[-3:] if place.ndim == 2 else place)
        frames = layout.frames(outer, video)
        if frames < 1 or patches % frames:
            raise ValueError(
                f"{patches} video tokens in row {row} are not {frames} equal frames: the prompt or its positions do "
                f"not fit {outer.config.model_type}'s layout"
            )
        yield FramedVideo(row, video.columns, frames, columns[patches:], video.positions)


def with_patches(layout: Layout, videos: Iterable[FramedVideo], arguments: dict[str, Any]) -> Iterator[FramedVideo]:
    """Yield the videos of a call with the `patches` of their frames, where the layout has them from the arguments.

    Args:
        layout: Layout of the model's family.
        videos: From `framed_videos`. Beams, or several answers, are copies of a prompt in neighbouring rows.
        arguments: The call's, and those of generate(), which counts each prompt once.
    """
    patches = None if layout.patches is None else layout.patches(arguments)
    if not patches:
        yield from videos
        return
    rows = [list(own) for _, own in groupby(videos, key=lambda video: video.row)]
    copies, odd = divmod(sum(video.frames for own in rows for video in own), len(patches))
    frame = 0  # the first of the prompt's
    for number, own in enumerate(rows):
        at = frame
        for video in own:
            yield video if odd else replace(video, patches=patches[at])
            at += video.frames
        if (number + 1) % max(copies, 1) == 0:
            frame = at


def _placeholders(
    layout: Layout, outer: Any, called: dict[str, Any], positions: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Row of the batch and columns of each video, separators included."""
    ids = called.get("input_ids")
    if ids is None:
        raise ValueError("a compressor finds a video's tokens by input_ids: pass them instead of inputs_embeds")
    ids = ids.to(positions.device)
    there = ids == getattr(outer.config, layout.token)
    if layout.split is not None:
        for row in range(len(ids)):
            if len(columns := there[row].nonzero()[:, 0]):
                for video in layout.split(outer, called, ids[row], columns):
                    yield row, video
        return
    split = lengths(layout, outer, called)
    row_of, column_of = there.nonzero(as_tuple=True)
    if sum(split) != len(row_of):
        raise ValueError(f"{len(row_of)} placeholders in input_ids, but the videos are {split} tokens long")
    for rows, columns in zip(row_of.split(split), column_of.split(split), strict=True):
        if rows[0] != rows[-1]:
            raise ValueError(f"a video of {len(rows)} tokens reaches over rows {rows[0]} to {rows[-1]}")
        yield int(rows[0]), columns


def lengths(layout: Layout, outer: Any, called: dict[str, Any]) -> list[int]:
    """Return how many placeholder tokens each video of the call has, in the order of the batch."""
    pixels, modality = layout.inputs
    encoded = (called.get(names.ENCODED) or {}).get(modality)
    if encoded is not None:
        return [features.shape[:-1].numel() for features in encoded.pooler_output]
    if layout.lengths is not None:
        return layout.lengths(outer, called)
    grid = called.get("video_grid_thw")
    if grid is not None:
        merge = called.get("video_merge_sizes")  # VideoLLaMA 3 has one for each video
        return (grid.prod(dim=-1) // (outer.visual.spatial_merge_size if merge is None else merge) ** 2).tolist()
    videos = len(called[pixels])
    total = int((called["input_ids"] == getattr(outer.config, layout.token)).sum())
    return [total // videos] * videos  # one tensor of videos: all have as many frames
