"""MiniCPM-V 4.6 and 4.7, with the language model of Qwen3.5. 4.6 has the positions of text, 4.7 has mRoPE."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf

from tests.vidcom2.kinds import qwen3_5
from tests.vidcom2.rows import (
    COLON,
    END,
    FRAME,
    IMAGE,
    NEWLINE,
    PATCH,
    START,
    TOWER,
    VIDEO,
    WORDS,
    Kind,
    Row,
    Visual,
    pixels,
)

SIDE = 4
"""Patches per side of a token."""


def config(layers: int, version: str = "4_6") -> Any:
    text = qwen3_5.config("qwen3_5", layers).text_config.to_dict() | {"model_type": "qwen3_5_text"}
    vision = {**TOWER, "image_size": 64}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    if version == "4_7":
        tokens |= {"image_start_id": START, "image_end_id": END, "newline_id": NEWLINE}
        tokens |= {"slice_start_id": FRAME, "slice_end_id": COLON}
    family = getattr(hf, f"MiniCPMV{version}Config")
    return family(text_config=text, vision_config=vision, insert_layer_id=1, **tokens)


def visual(kind: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """Frames side by side, behind the number of the video."""
    placeholder = VIDEO if modality == "video" else IMAGE
    ids = [WORDS - 1, WORDS, WORDS - 2]
    for _ in range(frames):
        ids += [START, *[placeholder] * (h * w), END]
    at = tuple(i for i, token in enumerate(ids) if token == placeholder)
    patches = h * w * SIDE**2
    values = pixels(frames, 3, PATCH, patches * PATCH, generator=generator)
    packed = values.permute(1, 2, 0, 3).reshape(1, 3, PATCH, -1)
    names = ("pixel_values_videos", "target_sizes_videos") if modality == "video" else ("pixel_values", "target_sizes")
    sizes = torch.tensor([[SIDE * h, SIDE * w]] * frames, dtype=torch.int32)
    media = dict(zip(names, (packed, sizes), strict=True))
    return Row(kind, ids, [Visual(modality, frames, h * w, at, (h, w))], media)


MIXED = tuple(map(int, hf.__version__.split(".")[:2])) >= (5, 23)
"""Whether the tower takes frames of several sizes in a call, which fails in 5.17."""


def _kind(version: str, **settings: Any) -> Kind:
    name = f"minicpmv{version}"
    built = functools.partial(config, version=version), functools.partial(visual, name)
    return Kind(name, f"MiniCPMV{version}ForConditionalGeneration", *built, packed=True, stacked=not MIXED, **settings)


KINDS = (_kind("4_6"), _kind("4_7", typed=True))
