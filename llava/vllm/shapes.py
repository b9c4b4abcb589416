"""How many rows of the LLM a whole video has, from a checkpoint's config alone. This file needs no vLLM."""

from __future__ import annotations

import math
from typing import Any

import torch

from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.visual_layout import arrange_video, video_newlines


def tower_of(config: Any) -> Any:
    """Return a checkpoint's vision tower without weights: its geometry, and its image processor."""
    with torch.device("meta"):
        return build_vision_tower(config)


def tokens_per_frame(config: Any, tower: Any) -> int:
    """Return M, the tokens of a pooled frame."""
    side: int = tower.num_patches_per_side
    stride = getattr(config, "mm_spatial_pool_stride", None) or 2
    bilinear = getattr(config, "mm_spatial_pool_mode", None) == "bilinear"
    return (math.ceil(side / stride) if bilinear else side // stride) ** 2


def newlines(config: Any, frames: int, m: int) -> int:
    """Return how many newlines a video of T=frames with M=m has."""
    whole = arrange_video(torch.empty(frames, m, 1), torch.empty(1), video_newlines(config), None, "released")
    return whole.separators[0]
