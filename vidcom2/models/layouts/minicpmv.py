"""MiniCPM-V's videos, whose frames stand side by side between a start and an end token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vidcom2.models.layouts.layout import Layout, split_runs
from vidcom2.models.layouts.qwen import runs


def adjacent_frames(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of each video in a row of the batch; see `Layout.split`.

    The processor writes "<image>", the tokens and "</image>" for each frame, and nothing else between two frames of a
    video. Between two videos there is text, or the number that 4.6 gives each. Without either they are one video; the
    positions of 4.7 take them for one as well.

    Args:
        outer: The outer part of the model, unused.
        called: Arguments of its call, unused.
        ids: int64 [N], input ids of the row.
        columns: int64 [n], columns of all placeholders in the row.

    Raises:
        ValueError: If frames are cut into slices, or if the frames of a video differ in size.
    """
    frames = split_runs(columns)
    opening = ids[frames[0][0] - 1]  # the first run is a whole frame, also where its slices follow
    videos: list[list[Tensor]] = []
    for frame in frames:
        if ids[frame[0] - 1] != opening:
            raise ValueError(
                "MiniCPM-V's processor cut the frames of a video into slices, which a compressor cannot take for "
                'frames: pass videos_kwargs={"max_slice_nums": 1} to the processor'
            )
        if videos and frame[0] - videos[-1][-1][-1] == 3:  # the end of a frame and the start of the next
            videos[-1].append(frame)
        else:
            videos.append([frame])
    for video in videos:
        if len(sizes := {len(frame) for frame in video}) > 1:
            raise ValueError(
                f"the frames of a video have {' and '.join(map(str, sorted(sizes)))} tokens, but a compressor needs "
                "equal frames: pass stack_frames=1 to MiniCPM-V's processor, and keep text between videos"
            )
        yield torch.cat(video)


def _patches(arguments: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Rows and columns of each frame; see `Layout.patches`."""
    sizes = arguments.get("target_sizes_videos")
    return None if sizes is None else [(h, w) for h, w in sizes.tolist()]


MINICPMV = Layout("video_token_id", runs, split=adjacent_frames, patches=_patches)
