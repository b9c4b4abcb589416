"""Random LLaVA models that are small enough to build in every test. Their weights make greedy tokens differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

SIZE, SIDE = 56, 7
"""Pixels and patches per side of the tiny towers; a video frame is pooled to 4x4 (bilinear) or 3x3 (average, max)."""
VOCAB = 97
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": SIZE // SIDE,
}
LANGUAGE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
MULTIMODAL = {
    "mm_hidden_size": TOWER["hidden_size"],
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "one_token",
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[SIZE * w, SIZE * h] for w in (1, 2, 3) for h in (1, 2, 3)],
}
FAMILIES = {
    "qwen": (LlavaQwenConfig, LlavaQwenForCausalLM),
    "llama": (LlavaConfig, LlavaLlamaForCausalLM),
}


def tower_directory(path: Path, tower: str = "siglip") -> Path:
    """A tower directory with a config.json and no weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": f"{tower}_vision_model", **TOWER}))
    return path


def tiny_model(path: Path, family: str = "qwen", tower: str = "siglip", seed: int = 0, **config: Any) -> Any:
    """Return a LLaVA on the CPU in float32, in eval mode. Its tower's config.json is written under `path`."""
    directory = tower_directory(path / f"tiny-{tower}-tower", tower)
    config_class, model_class = FAMILIES[family]
    # transformers keeps references to its arguments, so every config gets its own copies.
    settings = json.loads(json.dumps({**LANGUAGE, **MULTIMODAL, "mm_vision_tower": str(directory), **config}))
    model = model_class(config_class(**settings))
    randomise(model, seed)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter: matrices that keep the scale of their input, norms near 1, small biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.copy_(1 + 0.2 * noise)
        elif name.endswith("bias"):
            weight.copy_(0.2 * noise)
        elif "embed" in name or "newline" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(1.5 * noise / weight[0].numel() ** 0.5)


def video(frames: int, seed: int = 0) -> Tensor:
    """Pixels [T, 3, S, S] of frames that share a background and differ in a changing part."""
    generator = torch.Generator().manual_seed(1000 + seed)
    background = torch.randn(1, 3, SIZE, SIZE, generator=generator)
    return 0.7 * background + 0.7 * torch.randn(frames, 3, SIZE, SIZE, generator=generator)


def prompt(*parts: int | str, seed: int = 0) -> Tensor:
    """Return token ids [n]. An int stands for that many random text tokens, a string for an image slot."""
    generator = torch.Generator().manual_seed(2000 + seed)
    pieces = [
        torch.randint(1, VOCAB, (part,), generator=generator)
        if isinstance(part, int)
        else torch.tensor([IMAGE_TOKEN_INDEX])
        for part in parts
    ]
    return torch.cat(pieces)
