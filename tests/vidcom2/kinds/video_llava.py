"""Video-LLaVA, whose frames have a class token."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import IMAGE, PATCH, ROPE, TEXT, TOWER, VIDEO, Kind, Row, Visual, pixels

SIDE = 3
NAMES = inspect.signature(hf.VideoLlavaModel.forward).parameters
IMAGES = "pixel_values" if "pixel_values" in NAMES else "pixel_values_images"  # the latter in 5.17


def config(layers: int) -> Any:
    vision = {"model_type": "clip_vision_model", "projection_dim": 32, **TOWER, "image_size": PATCH * SIDE}
    own = {"model_type": "llama", **TEXT, "num_hidden_layers": layers, "rope_parameters": dict(ROPE)}
    tokens = {"image_token_index": IMAGE, "video_token_index": VIDEO, "tie_word_embeddings": False}
    return hf.VideoLlavaConfig(text_config=own, vision_config=vision, **tokens)


def visual(modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """The size of a frame is fixed. Images go without the class token."""
    values = pixels(frames, 3, PATCH * SIDE, PATCH * SIDE, generator=generator)
    if modality == "video":
        m, token, media = SIDE**2 + 1, VIDEO, {"pixel_values_videos": values[None]}
    else:
        m, token, media = SIDE**2, IMAGE, {IMAGES: values}
    return Row("video_llava", [token] * (frames * m), [Visual(modality, frames, m, tuple(range(frames * m)))], media)


KIND = Kind("video_llava", "VideoLlavaForConditionalGeneration", config, visual, stacked=True)
