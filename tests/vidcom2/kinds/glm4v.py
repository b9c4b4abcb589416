"""GLM-4.1V, 4.5V (a mixture of experts) and 4.6V, whose videos have the placeholder of images."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import (
    COLON,
    END,
    FRAME,
    HIDDEN,
    IMAGE,
    MERGE,
    NEWLINE,
    PATCH,
    QWEN_TOWER,
    ROPE,
    START,
    TEXT,
    VIDEO,
    WORDS,
    Kind,
    Row,
    Visual,
    pixels,
)


def config(name: str, layers: int) -> Any:
    vision = {**QWEN_TOWER, "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
    vision |= {"image_size": 8 * PATCH}
    own = {**TEXT, "num_hidden_layers": layers}
    own |= {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 2], "partial_rotary_factor": 1.0}}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": START}
    tokens |= {"image_end_token_id": END, "video_start_token_id": FRAME, "video_end_token_id": COLON}
    tokens |= {"tie_word_embeddings": False}
    if name == "glm4v_moe":
        own |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        return hf.Glm4vMoeConfig(text_config=own, vision_config=vision, **tokens)
    if name == "glm4v":
        return hf.Glm4vConfig(text_config=own, vision_config=vision, **tokens)
    own, vision = {"model_type": "glm4v_text", **own}, {"model_type": "glm4v_vision", **vision}
    return hf.Glm46VConfig(text_config=own, vision_config=vision, **tokens)


def visual(name: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """Each frame of a video is an image, and its time stamp follows."""
    ids = [NEWLINE, START, *[IMAGE] * (h * w), END]
    if modality == "video":
        ids = [FRAME]
        for _ in range(frames):
            ids += [START, *[IMAGE] * (h * w), END, *torch.randint(1, WORDS, (2,), generator=generator).tolist()]
        ids.append(COLON)
    at = tuple(i for i, token in enumerate(ids) if token == IMAGE)
    patches = pixels(frames, h * w * MERGE**2, 3 * 2 * PATCH**2, generator=generator).flatten(0, 1)
    values = "pixel_values_videos" if modality == "video" else "pixel_values"
    media = {values: patches, f"{modality}_grid_thw": torch.tensor([[frames, MERGE * h, MERGE * w]])}
    return Row(name, ids, [Visual(modality, frames, h * w, at, (h, w))], media)


def _kind(name: str, model: str) -> Kind:
    made = functools.partial(config, name), functools.partial(visual, name)
    return Kind(name, model, *made, typed=True, images=False)


KINDS = (
    _kind("glm4v", "Glm4vForConditionalGeneration"),
    _kind("glm4v_moe", "Glm4vMoeForConditionalGeneration"),
    _kind("glm46v", "Glm46VForConditionalGeneration"),
)
