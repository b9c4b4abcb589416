"""The thinkers of Qwen2.5-Omni and Qwen3-Omni."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor

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
    Kind,
    Row,
    Visual,
    pixels,
)

AUDIO, AUDIO_START, AUDIO_END = 97, 98, 99
MELS, MEL_FRAMES = 8, 800
"""Mel bins, and the frames (10 ms each) that the audio of every prompt is padded to."""
RATE = {"qwen2_5_omni_thinker": 25, "qwen3_omni_moe_thinker": 13}
"""Audio tokens of a second, and how far positions count on in a second of video."""
CHUNK = 2
"""Qwen2.5-Omni's prompts have so many seconds of video and then as many of audio."""


def config(kind: str, layers: int) -> Any:
    audio = {"num_mel_bins": MELS, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    audio |= {"d_model": 32, "output_dim": HIDDEN}
    vision = {**QWEN_TOWER, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
    own = {**TEXT, "num_hidden_layers": layers, "rope_parameters": {**ROPE, "mrope_section": [2, 2, 2]}}
    tokens = {"vision_start_token_id": START, "vision_end_token_id": END, "audio_start_token_id": AUDIO_START}
    tokens |= {"audio_end_token_id": AUDIO_END, "position_id_per_seconds": RATE[kind], "tie_word_embeddings": False}
    if kind == "qwen2_5_omni_thinker":
        # Windows of 2x2 tokens, so that the tower reorders its tokens.
        vision |= {"depth": 2, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
        tokens |= {"audio_token_index": AUDIO, "image_token_index": IMAGE, "video_token_index": VIDEO}
        tokens |= {"seconds_per_chunk": CHUNK}
        return hf.Qwen2_5OmniThinkerConfig(audio_config=audio, vision_config=vision, text_config=own, **tokens)
    audio |= {"downsample_hidden_size": 8}
    vision |= {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    own |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 12}
    tokens |= {"audio_token_id": AUDIO, "image_token_id": IMAGE, "video_token_id": VIDEO}
    return hf.Qwen3OmniMoeThinkerConfig(audio_config=audio, vision_config=vision, text_config=own, **tokens)


def visual(kind: str, modality: str, frames: int, h: int, w: int, generator: torch.Generator) -> Row:
    """A video without its sound, or an image."""
    n = frames * h * w
    ids = [START, *[VIDEO if modality == "video" else IMAGE] * n, END]
    seen = Visual(modality, frames, h * w, tuple(range(1, 1 + n)), (h, w))
    return Row(kind, ids, [seen], picture(modality, frames, h, w, 0.4 if frames % 2 else 1.5, generator))


def sound(kind: str, mels: int, generator: torch.Generator) -> Row:
    """So many mel frames of audio."""
    n = audio_tokens(kind, mels)
    at = tuple(range(1, 1 + n))
    return Row(kind, [AUDIO_START, *[AUDIO] * n, AUDIO_END], [Visual("audio", 1, n, at)], heard(mels, generator))


def film(kind: str, frames: int, h: int, w: int, seconds: float, mels: int, generator: torch.Generator) -> Row:
    """A video and its sound, as the processor writes them with use_audio_in_video.

    seconds: between two frames, at most CHUNK. mels: mel frames of the sound.
    """
    n = audio_tokens(kind, mels)
    starts = [frame * seconds for frame in range(frames)]
    if kind == "qwen2_5_omni_thinker":  # in chunks: first what is seen, then what is heard
        order = [(start // CHUNK, 0, VIDEO) for start in starts for _ in range(h * w)]
        order += [(i // (CHUNK * RATE[kind]), 1, AUDIO) for i in range(n)]
    else:
        order = [(start * RATE[kind], 0, VIDEO) for start in starts for _ in range(h * w)]
        order += [(i, 1, AUDIO) for i in range(n)]
    between = [token for _, _, token in sorted(order)]
    ids = [START, AUDIO_START, *between, AUDIO_END, END]
    visuals = [
        Visual("video", frames, h * w, tuple(i for i, token in enumerate(ids) if token == VIDEO), (h, w)),
        Visual("audio", 1, n, tuple(i for i, token in enumerate(ids) if token == AUDIO)),
    ]
    return Row(kind, ids, visuals, picture("video", frames, h, w, seconds, generator) | heard(mels, generator))


def audio_tokens(kind: str, mels: int) -> int:
    """Tokens of an audio: each layer of the tower with a stride of 2 halves it; Qwen3-Omni's sees seconds apart."""
    if kind == "qwen2_5_omni_thinker":
        return -(-mels // 2) // 2
    return sum(-(-min(100, mels - start) // 8) for start in range(0, mels, 100))


def picture(
    modality: str, frames: int, h: int, w: int, seconds: float, generator: torch.Generator
) -> dict[str, Tensor]:
    values = "pixel_values_videos" if modality == "video" else "pixel_values"
    patches = pixels(frames, h * w * MERGE**2, 3 * 2 * PATCH**2, generator=generator).flatten(0, 1)
    media = {values: patches, f"{modality}_grid_thw": torch.tensor([[frames, MERGE * h, MERGE * w]])}
    return media | ({"video_second_per_grid": torch.tensor([seconds])} if modality == "video" else {})


def heard(mels: int, generator: torch.Generator) -> dict[str, Tensor]:
    mask = (torch.arange(MEL_FRAMES) < mels).long()[None]
    return {"input_features": torch.randn(1, MELS, MEL_FRAMES, generator=generator), "feature_attention_mask": mask}


def with_sound(row: Row) -> bool:
    """Whether the row has a video with its sound: what its model must be told by use_audio_in_video."""
    return any(pair == (START, AUDIO_START) for pair in zip(row.ids, row.ids[1:], strict=False))


def rope(row: Row) -> dict[str, Any]:
    """Arguments of get_rope_index."""
    names = {"video_grid_thw": "video_grid_thw", "image_grid_thw": "image_grid_thw"}
    names |= {"video_second_per_grid": "second_per_grids"}
    found = {theirs: row.media[ours] for ours, theirs in names.items() if ours in row.media}
    if "feature_attention_mask" in row.media:
        found["audio_seqlens"] = row.media["feature_attention_mask"].sum(dim=1)
    return row.text | found | {"use_audio_in_video": with_sound(row)}


def kind(name: str, model: str) -> Kind:
    of: Callable[..., Any] = partial
    return Kind(name, model, of(config, name), of(visual, name), rope=rope)


QWEN2_5 = kind("qwen2_5_omni_thinker", "Qwen2_5OmniThinkerForConditionalGeneration")
QWEN3 = kind("qwen3_omni_moe_thinker", "Qwen3OmniMoeThinkerForConditionalGeneration")
