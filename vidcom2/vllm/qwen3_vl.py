"""Qwen3-VL, dense and MoE, in vLLM, with a compressor behind the tower. Kept tokens keep their mRoPE positions.

In the prompt, each frame of a video has a time stamp before it and markers around it. How many tokens a frame keeps is
not known when vLLM lays out the prompt. So one block of rows stands for the whole video, stamps included, and the model
fills it when it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from vidcom2.vllm.places import Medium, Placed, PlacedRows, grid_places, prompt_positions
from vidcom2.vllm.serves import Serves, Watches
from vidcom2.vllm.serving import serving_of


class Processor(Watches, Qwen3VLMultiModalProcessor):
    """vLLM's processor, with a block of as many rows per video as stay."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)

        def block(item: int) -> list[int]:
            video = out_mm_kwargs["video"][item]
            return self._block(*self._shape(video["video_grid_thw"].data.tolist()), video["timestamps"].data)

        if not self._drops:
            return updates
        return [replace(update, replacement=block) if update.modality == "video" else update for update in updates]

    @property
    def _drops(self) -> bool:
        return serving_of(self.info.get_hf_config(), "original").compressor.drops

    def _shape(self, grid_thw: Sequence[int]) -> tuple[int, int]:
        """(T, M) of a grid of patches."""
        t, h, w = grid_thw
        return t, h * w // self.info.get_hf_config().vision_config.spatial_merge_size ** 2

    def _block(self, t: int, m: int, stamps: Sequence[float]) -> list[int]:
        """The rows of a compressed video: all its kept tokens in the first frame, for lack of knowledge."""
        total = serving_of(self.info.get_hf_config(), "original").total(t, m)
        return self._layout([total, *[0] * (t - 1)], stamps)

    def _layout(self, tokens: Sequence[int], stamps: Sequence[float]) -> list[int]:
        """The ids of a video with so many tokens in each frame."""
        return layout(self.info.get_hf_config(), self.info.get_tokenizer(), tokens, stamps)


def layout(config: Any, tokenizer: Any, tokens: Sequence[int], stamps: Sequence[float]) -> list[int]:
    """Return the ids of a video with tokens[t] tokens and stamps[t] seconds in frame t."""
    details = Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=list(tokens),
        timestamps=stamps,
        tokenizer=tokenizer,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        video_token_id=config.video_token_id,
    )
    return list(details.full)


class Compressed(Serves, PlacedRows):
    """What dense and MoE models have in common."""

    numbering = "original"
    _tokenizer: Any
    visual_dim: int

    def _process_video_input(self, video_input: Any) -> Sequence[Tensor]:
        """Return the block of each video, [rows, D and the DeepStack levels], with its places."""
        videos = super()._process_video_input(video_input)  # type: ignore[misc]
        if not self.serving.compressor.drops:
            return videos
        grids = video_input["video_grid_thw"].tolist()
        return [self._block(*one) for one in zip(videos, grids, video_input["timestamps"], strict=True)]

    def _block(self, video: Tensor, grid_thw: Sequence[int], stamps: Sequence[float]) -> Tensor:
        """Compress a video [T·M, ...] and put its stamps around its frames.

        The first D channels are the tower's output, which ranks. The DeepStack levels follow their tokens.
        """
        t, h, w = self._merged(grid_thw)
        kept = self.serving.select(video[:, : self.visual_dim].reshape(t, h * w, -1), (h, w))
        rows = video[kept.index]
        if kept.features is not None:
            rows = torch.cat((kept.features, rows[:, self.visual_dim :]), dim=1)
        tokens = kept.budgets.tolist()
        block = self._create_final_video_embeddings(  # type: ignore[attr-defined]
            video_embeddings=rows,
            num_tokens_per_frame=tokens,
            timestamps=stamps,
            video_grid_thw=grid_thw,
            retention_mask=None,
        )
        whole, _ = self._whole(t, h, w, stamps)
        ids = torch.tensor(layout(self.config, self._tokenizer, [h * w] * t, stamps))
        stays = ids != self.config.video_token_id
        stays[(~stays).nonzero().flatten()[kept.index.cpu()]] = True
        return Placed.of(block, whole[stays].to(block.device))

    def _whole(self, t: int, h: int, w: int, stamps: Sequence[float]) -> tuple[Tensor, int]:
        """The places of a video that keeps everything, int64 [rows, 3], and the first place behind it."""
        ids = layout(self.config, self._tokenizer, [h * w] * t, stamps)
        is_video = torch.tensor(ids) == self.config.video_token_id
        first = is_video.nonzero().flatten()[:: h * w]
        frame = grid_places(1, h, w)
        positions, delta = prompt_positions(len(ids), [Medium.image(int(row), frame) for row in first])
        return positions.T, len(ids) + delta

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[Tensor, int]:
        """Return a prompt's positions, int64 [3, L], and what to add behind it; see `places`."""
        if not self.serving.compressor.drops:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        media = []
        for feature in sorted(mm_features, key=lambda one: one.mm_position.offset):
            offset = feature.mm_position.offset
            t, h, w = self._merged(feature.data[f"{feature.modality}_grid_thw"].data.tolist())
            if feature.modality == "video":
                _, end = self._whole(t, h, w, feature.data["timestamps"].data)
                media.append(Medium(offset, torch.zeros(feature.mm_position.length, 3, dtype=torch.int64), end))
            else:
                media.append(Medium.image(offset, grid_places(t, h, w)))
        return prompt_positions(len(input_tokens), media)

    def _merged(self, grid_thw: Sequence[int]) -> tuple[int, int, int]:
        """The grid of tokens of a grid of patches."""
        merge = self.config.vision_config.spatial_merge_size
        return grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen3VL(Compressed, Qwen3VLForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen3VLMoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen3VLMoe(Compressed, Qwen3VLMoeForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""
