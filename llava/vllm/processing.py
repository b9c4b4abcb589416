"""From a request's images and videos to pixels and to places in the prompt, without a processor of transformers.

A request writes "<image>" for an image and "<video>" for a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems, VideoProcessorItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from llava.mm_utils import process_images
from llava.model.visual_layout import arrange_image
from llava.vllm.shapes import newlines, tokens_per_frame, tower_of
from vidcom2.vllm.serves import Watches
from vidcom2.vllm.serving import Serving, serving_of

SLOTS = {"image": "<image>", "video": "<video>"}
"""What stands in a prompt for an image and for a video."""
MOST_FRAMES = 64
"""Frames of the video with which vLLM measures its memory, if the context has room for them."""


class Info(BaseProcessingInfo):
    """What vLLM asks about a checkpoint before it loads the weights."""

    @cached_property
    def tower(self) -> Any:
        """The tower without weights: its geometry, and its image processor."""
        return tower_of(self.config)

    @property
    def config(self) -> Any:
        """The checkpoint's config."""
        return self.get_hf_config()

    @cached_property
    def serving(self) -> Serving:
        """The compressor of the engine.

        Raises:
            ValueError: As `serving_of`, or it asks for newlines whose number depends on the video.
        """
        found = serving_of(self.config, "repack")
        if found.compressor.drops and found.compressor.newlines != "released":
            raise ValueError(
                f"{found.asked.spec}: with newlines={found.compressor.newlines}, the number of a video's newlines "
                "depends on what is kept, and vLLM must know it before: leave newlines out"
            )
        return found

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return the most images and videos of a prompt: any number."""
        return dict.fromkeys(SLOTS)

    def video_rows(self, frames: int) -> int:
        """Return how many rows of the LLM a video of T=frames has."""
        m = tokens_per_frame(self.config, self.tower)
        return self.serving.total(frames, m) + newlines(self.config, frames, m)

    def image_rows(self, views: int, size: tuple[int, int]) -> int:
        """Return how many rows an image of so many views and of size (width, height) has."""
        features = torch.empty(views, self.tower.num_patches, 1)
        newline = torch.empty(1) if "unpad" in getattr(self.config, "mm_patch_merge_type", "flat") else None
        return len(arrange_image(features, newline, self.config, size, self.tower.image_size).rows)


class Dummies(BaseDummyInputsBuilder[Info]):
    """The largest inputs of a prompt, for vLLM to measure its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return a prompt with a slot for each."""
        return "".join(SLOTS[modality] * count for modality, count in mm_counts.items())

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """Return images and videos that fill a prompt of seq_len rows, as far as they can."""
        side, videos = self.info.tower.image_size, mm_counts.get("video", 0)
        room, frames = seq_len // max(1, videos), 1
        while frames < MOST_FRAMES and self.info.video_rows(frames + 1) <= room:
            frames += 1
        return {
            "image": self._get_dummy_images(width=side, height=side, num_images=mm_counts.get("image", 0)),
            "video": self._get_dummy_videos(width=side, height=side, num_frames=frames, num_videos=videos),
        }


class Processor(Watches, BaseMultiModalProcessor[Info]):
    """Makes pixels as the llava tree does, and leaves room for as many rows as an image or video will have."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """Make pixels: of each video [T, 3, S, S], of each image [V, 3, S, S].

        Raises:
            ValueError: A request has settings for the processor: this one has none.
        """
        if hf_kwargs:
            raise ValueError(f"mm_processor_kwargs {dict(hf_kwargs)} have no effect on this model: leave them out")
        processor = self.info.tower.image_processor
        found: dict[str, Any] = {}
        videos: Any = hf_data.get("videos", [])
        images: Any = hf_data.get("images", [])
        if videos:
            found["pixel_values_videos"] = [
                processor.preprocess([Image.fromarray(frame) for frame in frames_of(video)], return_tensors="pt")[
                    "pixel_values"
                ]
                for video in videos
            ]
        if images:
            pictures = [image.convert("RGB") for image in images]
            pixels = [process_images([one], processor, self.info.config)[0] for one in pictures]
            found["pixel_values"] = [one if one.ndim == 4 else one[None] for one in pixels]
            found["image_sizes"] = torch.tensor([one.size for one in pictures])
        return BatchFeature(found)

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Mapping[str, Any]:
        return {
            "pixel_values": MultiModalFieldConfig.batched("image"),
            "image_sizes": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            "pixel_values_videos": MultiModalFieldConfig.batched("video"),
        }

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        tokenizer = self.info.get_tokenizer()
        row = tokenizer.convert_tokens_to_ids("<|endoftext|>")

        def video(item: int) -> list[int]:
            frames = mm_items.get_items("video", VideoProcessorItems).get_num_frames(item)
            return [row] * self.info.video_rows(frames)

        def image(item: int) -> list[int]:
            mm_items.get_items("image", ImageProcessorItems)
            kwargs = out_mm_kwargs["image"][item]
            width, height = kwargs["image_sizes"].data.tolist()
            return [row] * self.info.image_rows(len(kwargs["pixel_values"].data), (width, height))

        rows = {"image": image, "video": video}
        slots = {modality: tokenizer.encode(slot, add_special_tokens=False) for modality, slot in SLOTS.items()}
        return [PromptReplacement(modality, slots[modality], rows[modality]) for modality in SLOTS]


def frames_of(video: Any) -> Any:
    """Return the frames, uint8 [T, H, W, 3], of a request's video: bare, or with metadata behind them."""
    return video[0] if isinstance(video, tuple) else video
