"""The layouts of transformers' models: one line for each family, and one for a model of your own."""

from __future__ import annotations

from dataclasses import replace

from vidcom2.models.layouts.internvl import numbered_frames, one_video
from vidcom2.models.layouts.layout import FramedVideo, Layout, Video, framed_videos
from vidcom2.models.layouts.pooled import next_video_frames, onevision_frames
from vidcom2.models.layouts.qwen import qwen2_frames, qwen3_frames, runs

LAYOUTS: dict[str, Layout] = {
    "qwen2_vl": Layout("video_token_id", qwen2_frames),
    "qwen2_5_vl": Layout("video_token_id", qwen2_frames),
    "qwen3_vl": Layout("video_token_id", qwen3_frames),
    "qwen3_vl_moe": Layout("video_token_id", qwen3_frames),
    "qwen3_5": Layout("video_token_id", qwen3_frames),
    "qwen3_5_moe": Layout("video_token_id", qwen3_frames),
    "qwen4_exp": Layout("video_token_id", qwen3_frames),
    "llava_onevision": Layout("video_token_id", onevision_frames, separators=1),
    "llava_next_video": Layout("video_token_id", next_video_frames),
    "internvl": Layout("image_token_id", runs, split=numbered_frames, inputs=("pixel_values", "image")),
}
"""Layouts by `config.model_type`. Add a line for a model of your own."""

INTERNVL_ONE_VIDEO = replace(LAYOUTS["internvl"], split=one_video)
"""Another layout for LAYOUTS["internvl"]: all images of a prompt are the frames of one video, whatever text stands
between them."""

__all__ = ["INTERNVL_ONE_VIDEO", "LAYOUTS", "FramedVideo", "Layout", "Video", "framed_videos"]
