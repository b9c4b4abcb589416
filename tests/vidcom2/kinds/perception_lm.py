"""PerceptionLM, whose vision tower is timm's."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import IMAGE, PATCH, ROPE, TEXT, VIDEO, Kind, Row, Visual, pixels

SIDE = 5
"""Patches per side of a frame, which is 2x2 tokens."""
M = (SIDE // 2) ** 2


def config(layers: int) -> Any:
    own = {"model_type": "llama", **TEXT, "num_hidden_layers": layers, "rope_parameters": dict(ROPE)}
    tower = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": PATCH, "global_pool": "", "init_values": 0.1}
    tower |= {"img_size": [PATCH * SIDE] * 2, "ref_feat_shape": [SIDE] * 2}
    vision = {"architecture": "vit_pe_core_tiny_patch16_384", "model_args": tower, "do_pooling": True, "num_classes": 0}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "tie_word_embeddings": False}
    return hf.PerceptionLMConfig(
        text_config=own, vision_config={"model_type": "timm_wrapper", **vision}, projector_pooling_ratio=2, **tokens
    )


def visual(modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """The size of a frame is fixed. An image is two tiles."""
    count, token = (frames, VIDEO) if modality == "video" else (2, IMAGE)
    values = pixels(count, 3, PATCH * SIDE, PATCH * SIDE, generator=generator)[None]
    media = {"pixel_values_videos" if modality == "video" else "pixel_values": values}
    shape = (frames, M) if modality == "video" else (1, count * M)
    return Row("perception_lm", [token] * (count * M), [Visual(modality, *shape, tuple(range(count * M)))], media)


KIND = Kind("perception_lm", "PerceptionLMForConditionalGeneration", config, visual, stacked=True)
