"""Frames of LLaVA's models in transformers, which all have as many tokens as the pooled patch grid has cells."""

from __future__ import annotations

from typing import Any

from vidcom2.models.layouts.layout import Video


def onevision_frames(outer: Any, video: Video) -> int:
    """Count the frames of LLaVA-OneVision: bilinear pooling halves the side of the patch grid, rounding up."""
    vision = outer.config.vision_config
    side = -(-(vision.image_size // vision.patch_size) // 2)
    return len(video.columns) // side**2


def next_video_frames(outer: Any, video: Video) -> int:
    """Count the frames of LLaVA-NeXT-Video: pooling divides the side by a stride, rounding down."""
    vision = outer.config.vision_config
    side = vision.image_size // vision.patch_size // outer.config.spatial_pool_stride
    return len(video.columns) // side**2
