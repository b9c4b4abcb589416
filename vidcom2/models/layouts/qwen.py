"""Frames of Qwen's videos, which their rotary positions (mRoPE: time, height, width) tell apart."""

from __future__ import annotations

from typing import Any

from vidcom2.models.layouts.layout import Video


def qwen2_frames(outer: Any, video: Video) -> int:
    """Count the frames of Qwen2-VL and Qwen2.5-VL.

    A frame begins where height and width are those of the video's first token. Time does not tell: in Qwen2.5-VL
    several frames can share a time.
    """
    require_mrope(outer, video)
    return grid_frames(video)


def grid_frames(video: Video) -> int:
    """Count the tokens with the height and width of the first one."""
    place = video.positions[-2:]
    return int((place == place[:, :1]).all(dim=0).sum())


def qwen3_frames(outer: Any, video: Video) -> int:
    """Count the frames of Qwen3-VL: every frame is a run of tokens after its time stamp."""
    frames = runs(outer, video)
    if frames < len(video.columns):  # frames of one token have the positions of text
        require_mrope(outer, video)
    return frames


def runs(outer: Any, video: Video) -> int:
    """Count the runs of neighbouring tokens, for families that put text between the frames."""
    return 1 + int((video.columns.diff() > 1).sum())


def require_mrope(outer: Any, video: Video, needs: str = "mm_token_type_ids") -> None:
    """Refuse a video that has the positions of text.

    transformers gives it these without a word where the argument `needs` is missing.

    Raises:
        ValueError: If the positions count up like those of text.
    """
    positions = video.positions if video.positions.ndim == 2 else video.positions[None]
    if len(video.columns) > 1 and bool((positions == positions[:1, :1] + video.columns - video.columns[0]).all()):
        raise ValueError(
            f"{type(outer).__name__} got text positions for a video: pass {needs}, which the processor returns with "
            "input_ids"
        )
