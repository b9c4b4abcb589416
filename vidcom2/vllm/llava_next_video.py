"""LLaVA-NeXT-Video in vLLM, with a compressor between projector and LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_next_video import (
    LlavaNextVideoDummyInputsBuilder,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoMultiModalProcessor,
    LlavaNextVideoProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from vidcom2.vllm.serves import Serves, Watches
from vidcom2.vllm.serving import serving_of


class Info(LlavaNextVideoProcessingInfo):
    """Counts a video's tokens as they are after compression."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return that a prompt may have any number of videos. vLLM allows one, though its model has no such limit."""
        return {"video": None}

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        """Return the kept tokens of T=num_frames frames."""
        m = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return serving_of(self.get_hf_config(), "repack").total(num_frames, m)


class Processor(Watches, LlavaNextVideoMultiModalProcessor):
    """vLLM's."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaNextVideoDummyInputsBuilder)
class LlavaNextVideo(Serves, LlavaNextVideoForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        """Return the kept tokens [N, D] of each video."""
        videos = list(inputs["pixel_values_videos"])  # [T, 3, H, W] each
        features = self._video_pixels_to_features(self.vision_tower, torch.cat(videos))
        return [self.serving.keep(video) for video in features.split([len(video) for video in videos])]
