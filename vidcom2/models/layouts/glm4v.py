"""The layout of GLM-4.1V, GLM-4.5V and GLM-4.6V."""

from __future__ import annotations

from vidcom2.models.layouts.layout import Layout
from vidcom2.models.layouts.qwen import qwen3_frames

GLM4V = Layout("image_token_id", qwen3_frames)
"""A video is written as images with a time stamp behind each, in the images' placeholder: a frame is a run of tokens.

The model takes no images in a call with a video, so all placeholders of such a call are the videos'.
"""
