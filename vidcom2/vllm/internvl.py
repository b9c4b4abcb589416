"""InternVL in vLLM, OpenGVLab's checkpoints and transformers', with a compressor behind the projector.

In the prompt, each frame of a video has its number before it and markers around it. How many tokens a frame keeps is
not known when vLLM lays out the prompt. So one block of rows stands for the whole video, numbers included, and the
model fills it when it knows. Rows are numbered anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.model_executor.models.internvl import (
    InternVLChatModel,
    InternVLDummyInputsBuilder,
    InternVLMultiModalProcessor,
    InternVLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import cached_encode
from vllm.tokenizers.registry import cached_tokenizer_from_config

from vidcom2.vllm.serves import Serves, Watches
from vidcom2.vllm.serving import serving_of


class Blocks(Watches):
    """Mixin of vLLM's processors: a block of as many rows per video as stay.

    Attributes:
        between: What the prompt has between two frames.
    """

    between: ClassVar[str]
    info: Any

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        serving = serving_of(self.info.get_hf_config(), "repack")
        if not serving.compressor.drops:
            return updates

        def block(whole: Any, item: int) -> list[int]:
            """The ids of a whole video, less as many of its last tokens as will be dropped, for lack of knowledge."""
            fields = out_mm_kwargs["video"][item]
            t, video = int(fields["video_num_patches"].data), int(fields["video_token_id"].data)
            ids = whole(item).full
            m = ids.count(video) // t
            ours = layout(self.info.get_tokenizer(), t, m, video, self.between)
            if ids != ours:
                raise RuntimeError(
                    f"this vLLM writes a video of {t} frames in another way than 0.32: {len(ids)} ids and not "
                    f"{len(ours)}, or others. Use vLLM 0.32, or report this"
                )
            places = [row for row, token in enumerate(ids) if token == video]
            dropped = set(places[serving.total(t, m) :])
            return [token for row, token in enumerate(ids) if row not in dropped]

        return [
            replace(update, replacement=lambda item, whole=update.replacement: block(whole, item))
            if update.modality == "video"
            else update
            for update in updates
        ]


def layout(tokenizer: Any, t: int, m: int, video: int, between: str) -> list[int]:
    """Return the ids of a whole video in the prompt.

    Args:
        tokenizer: The model's.
        t: Frames T.
        m: Tokens per frame M.
        video: The id that stands for a token of a video.
        between: The text between two frames.
    """
    tokens = tokenizer.convert_ids_to_tokens(video) * m
    frames = [f"Frame{number}: <img>{tokens}</img>" for number in range(1, t + 1)]
    return list(cached_encode(tokenizer, between.join(frames), add_special_tokens=False))


class Compressed(Serves):
    """Mixin of vLLM's models: fills the block of a video.

    Attributes:
        between: What the prompt has between two frames.
    """

    between: ClassVar[str]
    video_context_token_id: int
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._tokenizer = cached_tokenizer_from_config(vllm_config.model_config)

    def _process_vision_input(self, image_input: Any) -> Sequence[Tensor]:
        """Return the rows [N, D] of each image, or the block of each video."""
        inputs = super()._process_vision_input(image_input)  # type: ignore[misc]
        if image_input["type"] != "pixel_values_videos" or not self.serving.compressor.drops:
            return inputs
        return [self._block(video, int(t)) for video, t in zip(inputs, image_input["num_patches"], strict=True)]

    def _block(self, video: Tensor, t: int) -> Tensor:
        """Compress a video [T·M, D] and put the frames' numbers around it."""
        x = video.view(t, -1, video.shape[-1])
        kept = self.serving.select(x)
        token = self.video_context_token_id
        ids = torch.tensor(layout(self._tokenizer, t, x.shape[1], token, self.between), device=video.device)
        is_video = ids == token
        stays = ~is_video
        stays[is_video.nonzero().flatten()[kept.index]] = True
        rows = self.language_model.embed_input_ids(ids[stays])
        rows[is_video[stays]] = kept.apply(x).to(rows.dtype)
        return rows


class ChatProcessor(Blocks, InternVLMultiModalProcessor):
    """That of OpenGVLab's checkpoints."""

    between = ""


class Processor(Blocks, InternS1MultiModalProcessor):
    """That of checkpoints in transformers' layout."""

    between = "\n"


@MULTIMODAL_REGISTRY.register_processor(
    ChatProcessor, info=InternVLProcessingInfo, dummy_inputs=InternVLDummyInputsBuilder
)
class InternVLChat(Compressed, InternVLChatModel):
    """vLLM's model, whose videos are compressed."""

    between = ""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=InternS1ProcessingInfo, dummy_inputs=InternS1DummyInputsBuilder)
class InternVL(Compressed, InternS1ForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""

    between = "\n"
