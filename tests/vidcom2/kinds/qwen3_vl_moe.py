"""Qwen3-VL with a mixture of experts."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import (
    END,
    HIDDEN,
    IMAGE,
    MERGE,
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


def config(layers: int) -> Any:
    vision = {**QWEN_TOWER, "depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    own = {**TEXT, "num_hidden_layers": layers, "head_dim": 12}
    own |= {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 2]}}
    own |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
    tokens |= {"vision_end_token_id": END, "tie_word_embeddings": False}
    return hf.Qwen3VLMoeConfig(text_config=own, vision_config=vision, **tokens)


def visual(kind: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """Each frame of a video has its time stamp and its own start and end, in Qwen3.5 as well."""
    if modality == "video":
        ids = [START]
        for _ in range(frames):
            ids += [*torch.randint(1, WORDS, (3,), generator=generator).tolist(), START, *[VIDEO] * (h * w), END]
        ids.append(END)
    else:
        ids = [START, *[IMAGE] * (h * w), END]
    at = tuple(i for i, token in enumerate(ids) if token == (VIDEO if modality == "video" else IMAGE))
    patches = pixels(frames, h * w * MERGE**2, 3 * 2 * PATCH**2, generator=generator).flatten(0, 1)
    values = "pixel_values_videos" if modality == "video" else "pixel_values"
    media = {values: patches, f"{modality}_grid_thw": torch.tensor([[frames, MERGE * h, MERGE * w]])}
    return Row(kind, ids, [Visual(modality, frames, h * w, at, (h, w))], media)


NAME = "qwen3_vl_moe"
KIND = Kind(NAME, "Qwen3VLMoeForConditionalGeneration", config, functools.partial(visual, NAME), typed=True)
