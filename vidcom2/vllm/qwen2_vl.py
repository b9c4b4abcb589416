"""Qwen2-VL and Qwen2.5-VL in vLLM, with a compressor behind the tower. Kept tokens keep their mRoPE positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from vidcom2.vllm.places import Medium, Placed, PlacedRows, grid_places, prompt_positions
from vidcom2.vllm.serves import Serves, Watches
from vidcom2.vllm.serving import serving_of


class Compressed(Serves, PlacedRows):
    """What both models have in common."""

    numbering = "original"

    def _process_video_input(self, video_input: Any) -> Sequence[Tensor]:
        """Return the kept rows [N, D] of each video, with their places in its grid."""
        videos = super()._process_video_input(video_input)  # type: ignore[misc]
        if not self.serving.compressor.drops:
            return videos
        grids = video_input["video_grid_thw"].tolist()
        seconds = video_input.get("second_per_grid_ts")
        steps = [1.0] * len(grids) if seconds is None else seconds.tolist()
        return [self._keep(*one) for one in zip(videos, grids, steps, strict=True)]

    def _keep(self, video: Tensor, grid_thw: Sequence[int], seconds: float) -> Tensor:
        """Compress a video [T·M, D] of a grid of patches."""
        t, h, w = self._merged(grid_thw)
        x = video.view(t, h * w, -1)
        kept = self.serving.select(x, (h, w))
        places = grid_places(t, h, w, seconds * self._positions_per_second).to(kept.index.device)
        return Placed.of(kept.apply(x), places[kept.index])

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[Tensor, int]:
        """Return a prompt's positions, int64 [3, L], and what to add behind it; see `places`."""
        if not self.serving.compressor.drops:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        media = []
        ordered = sorted(mm_features, key=lambda one: one.mm_position.offset)
        grids = self.iter_mm_grid_thw(mm_features)  # type: ignore[attr-defined]
        for feature, (offset, t, h, w, seconds) in zip(ordered, grids, strict=True):
            places = grid_places(t, h, w, seconds)
            if feature.modality == "video":
                media.append(Medium.compressed(offset, self.serving.total(t, h * w), places))
            else:
                media.append(Medium.image(offset, places))
        return prompt_positions(len(input_tokens), media)

    def _merged(self, grid_thw: Sequence[int]) -> tuple[int, int, int]:
        """The grid of tokens of a grid of patches."""
        merge = self.config.vision_config.spatial_merge_size
        return grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge

    @property
    def _positions_per_second(self) -> float:
        return getattr(self.config.vision_config, "tokens_per_second", 1.0)


class Counting(Watches):
    """Mixin of vLLM's processors: a video has as many placeholders as tokens that stay."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        config = self.info.get_hf_config()
        serving = serving_of(config, "original")
        if not serving.compressor.drops:
            return updates
        merge = config.vision_config.spatial_merge_size

        def placeholders(item: int) -> list[int]:
            t, h, w = out_mm_kwargs["video"][item]["video_grid_thw"].data.tolist()
            return [config.video_token_id] * serving.total(t, h * w // merge**2)

        return [
            replace(update, replacement=placeholders) if update.modality == "video" else update for update in updates
        ]


class Processor2(Counting, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's."""


class Processor25(Counting, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's."""


@MULTIMODAL_REGISTRY.register_processor(Processor2, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder)
class Qwen2VL(Compressed, Qwen2VLForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor25, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class Qwen25VL(Compressed, Qwen2_5_VLForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""
