"""Warning of a call with images where a video may have been meant."""

from __future__ import annotations

import warnings
from typing import Any

from vidcom2.models import names


def count_images(called: dict[str, Any]) -> int:
    """Return how many images a call of the outer model has, as pixels or encoded."""
    encoded = (called.get(names.ENCODED) or {}).get("image")
    if encoded is not None:
        return len(encoded.pooler_output)
    pixels, grid = called.get("pixel_values"), called.get("image_grid_thw")
    if pixels is None:
        return 0
    return len(pixels if grid is None else grid)  # Qwen's pixels are one list of patches for all images


def warn_of_images(called: dict[str, Any], spec: str) -> bool:
    """Warn if prompts hold several images each and no video. Return whether it warned.

    Args:
        called: Arguments of the outer model's call.
        spec: The compressor's spec.
    """
    images, ids = count_images(called), called.get("input_ids")
    if ids is None or images <= len(ids):
        return False
    warnings.warn(
        f"{images} images and no video came for a batch of {len(ids)}: {spec} compresses videos, and leaves images as "
        "they are. Where they are the frames of a video, hand them over as one: processor(text=..., videos=[frames]) "
        'with {"type": "video"} in the chat',
        RuntimeWarning,
        stacklevel=2,
    )
    return True
