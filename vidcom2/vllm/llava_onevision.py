"""LLaVA-OneVision in vLLM, with a compressor between pooling and LLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from vidcom2.vllm.serves import Serves, Watches
from vidcom2.vllm.serving import serving_of


class Info(LlavaOnevisionProcessingInfo):
    """Counts a video's tokens as they are after compression."""

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        """Return the kept tokens of T=num_frames frames, and the newline behind them."""
        m = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return serving_of(self.get_hf_config(), "repack").total(num_frames, m) + 1


class Processor(Watches, LlavaOnevisionMultiModalProcessor):
    """vLLM's."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaOnevisionDummyInputsBuilder)
class LlavaOnevision(Serves, LlavaOnevisionForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        """Return the rows of each video: [N, D] kept tokens, then the newline."""
        videos = list(inputs["pixel_values_videos"])  # [T, 3, H, W] each
        features = self._video_pixels_to_features(self.vision_tower, torch.cat(videos))
        newline = self.image_newline[None]
        return [
            torch.cat((self.serving.keep(video), newline.to(video)))
            for video in features.split([len(video) for video in videos])
        ]
