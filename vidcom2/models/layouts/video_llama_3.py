"""The layout of VideoLLaMA 3, which writes a time stamp before every frame and can drop tokens of its own."""

from __future__ import annotations

from typing import Any

from vidcom2.models.layouts.layout import Layout
from vidcom2.models.layouts.qwen import runs


def check_frames(outer: Any, called: dict[str, Any]) -> None:
    """Refuse a video of which the processor dropped tokens, since its frames are not equal; see `Layout.check`.

    Raises:
        ValueError: If `video_compression_mask` drops tokens.
    """
    mask = called.get("video_compression_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError(
            f"VideoLLaMA 3's processor dropped {int((~mask.bool()).sum())} of {mask.numel()} video tokens, which "
            "change little from frame to frame. The frames left are unequal, and a compressor needs equal ones: pass "
            "use_token_compression=False to the processor"
        )


def _patches(arguments: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Rows and columns of each frame; see `Layout.patches`."""
    grids = arguments.get("video_grid_thw")
    return None if grids is None else [(h, w) for t, h, w in grids.tolist() for _ in range(t)]


VIDEO_LLAMA_3 = Layout("video_token_id", runs, check=check_frames, patches=_patches)
