"""SmolVLM2, whose videos come as images with time stamps, and whose images are split into tiles."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import (
    COLON,
    END,
    FRAME,
    IMAGE,
    NEWLINE,
    PATCH,
    ROPE,
    START,
    TEXT,
    TOWER,
    WORDS,
    Kind,
    Row,
    Visual,
    pixels,
)

SIDE = 6
"""Patches per side of a frame, which is 3x3 tokens."""
M = (SIDE // 2) ** 2
TILES = (97, 98)
"""The tokens before the tiles of an image. START stands before a whole image, and END round each."""


def config(layers: int) -> Any:
    vision = {**TOWER, "image_size": PATCH * SIDE}
    own = {"model_type": "llama", **TEXT, "num_hidden_layers": layers, "rope_parameters": dict(ROPE)}
    settings = {"image_token_id": IMAGE, "scale_factor": 2, "tie_word_embeddings": False}
    return hf.SmolVLMConfig(text_config=own, vision_config=vision, **settings)


def stamp(seconds: int) -> list[int]:
    return [*(WORDS + int(i) if i != ":" else COLON for i in f"{seconds // 60:02d}:{seconds % 60:02d}"), COLON]


def visual(modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """The size of a frame is fixed."""
    words = torch.randint(1, WORDS, (4,), generator=generator).tolist()
    if modality == "video":
        ids = [*words, *stamp(13 * frames)[:-1], words[0]]
        for i in range(frames):
            ids += [NEWLINE, FRAME, *stamp(13 * i), END, START, *[IMAGE] * M, END]
        ids += [NEWLINE, NEWLINE]
    else:
        frames = len(TILES) + 1
        ids = [token for tile in TILES for token in (END, tile, *[IMAGE] * M)]
        ids += [NEWLINE, NEWLINE, END, START, *[IMAGE] * M, END]
    at = tuple(i for i, token in enumerate(ids) if token == IMAGE)
    shape = (frames, M) if modality == "video" else (1, len(at))
    values = pixels(frames, 1, 3, PATCH * SIDE, PATCH * SIDE, generator=generator)
    return Row("smolvlm", ids, [Visual(modality, *shape, at)], {"pixel_values": values})


KIND = Kind("smolvlm", "SmolVLMForConditionalGeneration", config, visual)
