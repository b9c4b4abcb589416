"""Tiny random checkpoints that vLLM and transformers both load, with processors.

Heads are 32 wide, the least that vLLM's CPU attention takes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.eval.qwen_tiny import make_qwen

BYTES = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
SPECIAL = ("<|endoftext|>", "<image>", "<video>")
IDS = {name: len(BYTES) + i for i, name in enumerate(SPECIAL)}
VOCAB = 320


def tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """One token per byte. more: arguments of the tokenizer."""
    bpe = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        additional_special_tokens=list(SPECIAL[1:]),
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        **more,
    )


def text_config() -> Qwen2Config:
    """An LLM of 3 layers."""
    return Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=IDS["<|endoftext|>"],
        pad_token_id=IDS["<|endoftext|>"],
    )


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that make attention look somewhere and answers differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 1.0 if "embed" in name or "lm_head" in name else 1.6 / parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            elif "newline" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def save(model: torch.nn.Module, path: Path) -> None:
    """Write a checkpoint with the hub's keys: those of the vision tower have a vision_model that transformers drops."""
    model.save_pretrained(path)
    weights = path / "model.safetensors"
    named = load_file(weights)
    save_file(
        {
            re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", key): value
            for key, value in named.items()
        },
        weights,
        metadata={"format": "pt"},
    )


def llava_onevision(path: Path, seed: int = 0, image: int = 48) -> Path:
    """A LLaVA-OneVision: patches of 6 pixels, so 64 of a 48-pixel frame, 16 tokens per frame."""
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=image, patch_size=6
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text_config(),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_grid_pinpoints=[[image, image], [image, 2 * image], [2 * image, image]],
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    randomise(model, seed)
    save(model, path)
    size = {"height": image, "width": image}
    LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=config.image_grid_pinpoints),
        tokenizer=tokenizer(),
        video_processor=LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        num_image_tokens=(image // 6) ** 2,
        vision_feature_select_strategy="full",
    ).save_pretrained(path)
    return path


def llava_next_video(path: Path, seed: int = 0, image: int = 48) -> Path:
    """A LLaVA-NeXT-Video: 16 tokens per frame."""
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=image, patch_size=6
    )
    config = LlavaNextVideoConfig(
        vision_config=vision,
        text_config=text_config(),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        image_grid_pinpoints=[[image, image], [image, 2 * image]],
        spatial_pool_stride=2,
        spatial_pool_mode="average",
    )
    model = LlavaNextVideoForConditionalGeneration(config).eval()
    randomise(model, seed)
    save(model, path)
    size = {"shortest_edge": image}
    crop = {"height": image, "width": image}
    LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessor(
            size=size, crop_size=crop, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer(),
        video_processor=LlavaNextVideoVideoProcessor(size=size, crop_size=crop, do_sample_frames=False),
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(path)
    return path


def internvl(path: Path, seed: int = 0, image: int = 48) -> Path:
    """An InternVL in transformers' layout: patches of 6 pixels, 16 tokens per frame."""
    vision = InternVLVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[image, image],
        patch_size=[6, 6],
    )
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(extra_special_tokens={**names, "video_token": "<video>"})
    words.add_tokens("<|video_pad|>", special_tokens=True)  # OpenGVLab's layout needs it
    words.add_tokens("Frame")  # the hooks know the frames of a video by their numbers, behind a word of one token
    config = InternVLConfig(
        vision_config=vision,
        text_config=text_config(),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(image // 12) ** 2,
    )
    model = InternVLForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.save_pretrained(path)
    size = {"height": image, "width": image}
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=2),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=size, do_sample_frames=False),
        image_seq_length=config.image_seq_length,
    ).save_pretrained(path)
    return path


def qwen(path: Path, kind: str, seed: int = 0, **more: Any) -> Path:
    """A Qwen by its model type, with heads of 32. more: settings of its LLM."""
    made = make_qwen(path.parent, kind, seed, wide=True, **more)
    made.rename(path)
    return path


def qwen2_vl(path: Path, seed: int = 0) -> Path:
    return qwen(path, "qwen2_vl", seed)


def qwen2_5_vl(path: Path, seed: int = 0) -> Path:
    return qwen(path, "qwen2_5_vl", seed)


def qwen3_vl(path: Path, seed: int = 0) -> Path:
    return qwen(path, "qwen3_vl", seed)


def qwen3_5(path: Path, seed: int = 0) -> Path:
    return qwen(path, "qwen3_5", seed)


def qwen3_5_moe(path: Path, seed: int = 0) -> Path:
    return qwen(path, "qwen3_5_moe", seed)


def qwen3_vl_moe(path: Path, seed: int = 0) -> Path:
    """With the hub's layout of experts, which transformers turns round when it loads them, not when it saves them."""
    weights = qwen(path, "qwen3_vl_moe", seed) / "model.safetensors"
    named = load_file(weights)
    turned = {key: value.mT.contiguous() if ".experts." in key else value for key, value in named.items()}
    save_file(turned, weights, metadata={"format": "pt"})
    return path
