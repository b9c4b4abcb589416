"""Gemma 4. Small models have an embedding for each layer; in large ones the tokens of a frame see each other.

Both have layers with a sliding window, here of fewer rows than any prompt has.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.vidcom2.rows import (
    END,
    FRAME,
    IMAGE,
    PATCH,
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

WINDOW, POOL, ROOM = 9, 2, 16
"""Rows of a window, patches per side of a token, and the most tokens of a frame."""
STACKED = "num_frames_per_video" not in inspect.signature(hf.Gemma4Model.forward).parameters
"""Before 5.23 videos have an axis of their own."""


def config(large: bool, layers: int) -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"num_key_value_heads": 4, "head_dim": 8, "patch_size": PATCH, "pooling_kernel_size": POOL}
    vision |= {"position_embedding_size": 64}
    count = layers + 1
    own = {**TEXT, "num_hidden_layers": count, "head_dim": 12, "global_head_dim": 16, "sliding_window": WINDOW}
    own |= {"layer_types": (["sliding_attention", "full_attention"] * count)[-count:]}
    own["rope_parameters"] = {
        "sliding_attention": dict(ROPE),
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e5},
    }
    if large:
        own |= {"use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0, "attention_k_eq_v": True}
        own |= {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}
    else:
        own |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": own["vocab_size"]}
        own |= {"num_kv_shared_layers": 2}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "boi_token_id": START, "eoi_token_id": END}
    tokens |= {"audio_token_id": FRAME, "tie_word_embeddings": False}
    return hf.Gemma4Config(text_config=own, vision_config=vision, audio_config=None, **tokens)


def visual(name: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """Each frame of a video has a time stamp. Patches are padded to those of the largest frame."""
    token, ids = (VIDEO, []) if modality == "video" else (IMAGE, [])
    for _ in range(frames):
        stamp = torch.randint(1, WORDS, (2,), generator=generator).tolist() if modality == "video" else []
        ids += [*stamp, START, *[token] * (h * w), END]
    at = tuple(i for i, own in enumerate(ids) if own == token)
    y, x = torch.meshgrid(torch.arange(h * POOL), torch.arange(w * POOL), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], dim=-1).expand(frames, -1, -1)
    patches = pixels(frames, h * w * POOL**2, 3 * PATCH**2, generator=generator)
    padding = (ROOM - h * w) * POOL**2
    places = nn.functional.pad(places, (0, 0, 0, padding), value=-1)
    patches = nn.functional.pad(patches, (0, 0, 0, padding))
    if modality == "image":
        media = {"pixel_values": patches, "image_position_ids": places}
    elif STACKED:
        media = {"pixel_values_videos": patches[None], "video_position_ids": places[None]}
    else:
        media = {"pixel_values_videos": patches, "video_position_ids": places}
        media["num_frames_per_video"] = torch.tensor([frames])
    return Row(name, ids, [Visual(modality, frames, h * w, at, (h, w))], media)


def extra(model: Any, ids: Sequence[int], groups: Sequence[int | None]) -> dict[str, Any]:
    """Masks and embeddings of the layers, row by row. groups: number of the frame that a row is of; None for text."""
    lm, count = model.model.language_model, len(ids)
    together = lm.config.use_bidirectional_attention == "vision"
    full, near = torch.full((2, count, count), torch.finfo(torch.float32).min)
    for q in range(count):
        for k in range(count):
            if k <= q:
                full[q, k] = 0
            alike = together and groups[q] is not None and groups[q] == groups[k]
            if q - k < lm.config.sliding_window and (k <= q or alike):
                near[q, k] = 0
    found: dict[str, Any] = {
        "attention_mask": {"full_attention": full[None, None], "sliding_attention": near[None, None]}
    }
    if lm.hidden_size_per_layer_input:
        words: list[Tensor] = [
            lm.embed_tokens_per_layer(torch.tensor(0 if token in (IMAGE, VIDEO) else token)) for token in ids
        ]
        found["per_layer_inputs"] = torch.stack(words).view(1, count, -1, lm.hidden_size_per_layer_input)
    return found


def _kind(name: str, large: bool) -> Kind:
    made = functools.partial(config, large), functools.partial(visual, name)
    return Kind(name, "Gemma4ForConditionalGeneration", *made, typed=True, stacked=STACKED, extra=extra)


KINDS = (_kind("gemma4", False), _kind("gemma4-large", True))
