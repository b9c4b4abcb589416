"""Families whose processor stacks all videos of a batch into one tensor: Video-LLaVA and PerceptionLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from vidcom2.models.layouts.layout import Layout, Video, split_runs


def stacked_videos(outer: Any, called: dict[str, Any], ids: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield the columns of each video in a row of the batch; see `Layout.split`.

    With pixels, their shape tells how many videos there are. Encoded videos come as one list of frames. Then a run of
    placeholders is a video.

    Raises:
        ValueError: If encoded videos have different lengths.
    """
    pixels = called.get("pixel_values_videos")
    if pixels is not None:
        total = int((called["input_ids"] == outer.config.video_token_id).sum())
        yield from columns.split(total // len(pixels))
        return
    runs = split_runs(columns)
    if len({len(run) for run in runs}) > 1:
        raise ValueError(
            f"the runs of video tokens in a prompt are {[len(run) for run in runs]} long, but all videos of "
            f"{outer.config.model_type} have as many frames: put text between two videos"
        )
    yield from runs


def video_llava_frames(outer: Any, video: Video) -> int:
    """Count the frames of Video-LLaVA. A frame is its patches and, before them, the vision tower's class token."""
    vision = outer.config.vision_config
    return len(video.columns) // ((vision.image_size // vision.patch_size) ** 2 + 1)


VIDEO_LLAVA = Layout("video_token_id", video_llava_frames, split=stacked_videos)
"""The class token of a frame counts as one of its tokens. The language model gets it as a row like the patches, and a
compressor may drop it."""


def perception_lm_frames(outer: Any, video: Video) -> int:
    """Count the frames of PerceptionLM: pooling divides both sides of the patch grid, rounding down."""
    height, width = outer.vision_tower.timm_model.patch_embed.grid_size
    ratio = outer.config.projector_pooling_ratio
    return len(video.columns) // ((height // ratio) * (width // ratio))


PERCEPTION_LM = Layout("video_token_id", perception_lm_frames, split=stacked_videos)
