"""VideoLLaMA 3, whose videos and images have merge sizes of their own."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from tests.vidcom2.rows import COLON, IMAGE, PATCH, ROPE, TEXT, VIDEO, WORDS, Kind, Row, Visual, pixels

COMMA = WORDS - 1
MERGES = {"video": 2, "image": 1}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": PATCH,
}


def config(layers: int) -> Any:
    own = {"model_type": "qwen2", **TEXT, "num_hidden_layers": layers, "rope_parameters": dict(ROPE)}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "tie_word_embeddings": False}
    return hf.VideoLlama3Config(text_config=own, vision_config=dict(TOWER), **tokens)


def visual(modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """Each frame of a video has its time stamp, and a comma before the next."""
    token, merge = (VIDEO if modality == "video" else IMAGE), MERGES[modality]
    ids: list[int] = []
    for i in range(frames):
        if modality == "video":
            ids += [*[COMMA] * (i > 0), *torch.randint(1, WORDS, (2,), generator=generator).tolist(), COLON]
        ids += [token] * (h * w)
    at = tuple(i for i, each in enumerate(ids) if each == token)
    patches = pixels(frames, h * w * merge**2, 3 * PATCH**2, generator=generator).flatten(0, 1)
    media = {
        "pixel_values_videos" if modality == "video" else "pixel_values": patches,
        f"{modality}_grid_thw": torch.tensor([[frames, merge * h, merge * w]]),
        f"{modality}_merge_sizes": torch.tensor([merge]),
    }
    if modality == "video":
        media["video_compression_mask"] = torch.ones(frames * h * w, dtype=torch.bool)
    return Row("video_llama_3", ids, [Visual(modality, frames, h * w, at, (h, w))], media)


KIND = Kind("video_llama_3", "VideoLlama3ForConditionalGeneration", config, visual)
