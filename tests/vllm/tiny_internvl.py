"""A tiny InternVL in OpenGVLab's layout, with the weights of one in transformers' layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.vllm.tiny import internvl, text_config

CONFIG = """
from transformers import PretrainedConfig, Qwen2Config


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    has_no_defaults_at_init = True

    def __init__(self, vision_config=None, llm_config=None, **rest):
        self.vision_config = PretrainedConfig(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
        super().__init__(**rest)
"""
"""The checkpoints on the hub bring their own config class along."""
NAMES = {
    "vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "vision_tower.embeddings.patch_embeddings.projection": "vision_model.embeddings.patch_embedding",
    "vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "vision_tower.encoder.layer.": "vision_model.encoder.layers.",
    ".attention.projection_layer.": ".attn.proj.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".lambda_1": ".ls1",
    ".lambda_2": ".ls2",
    "multi_modal_projector.layer_norm": "mlp1.0",
    "multi_modal_projector.linear_1": "mlp1.1",
    "multi_modal_projector.linear_2": "mlp1.3",
}
"""Parts of names in transformers' layout, and in OpenGVLab's."""
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def internvl_chat(path: Path, seed: int = 0, image: int = 48) -> Path:
    """An InternVL in OpenGVLab's layout; path/transformers has the same model in transformers' layout."""
    origin = internvl(path / "transformers", seed, image)
    processors = json.loads((origin / "processor_config.json").read_text(encoding="utf-8"))
    for name in ("image_processor", "video_processor"):
        processors[name] |= {"image_mean": MEAN, "image_std": STD}
    (origin / "processor_config.json").write_text(json.dumps(processors), encoding="utf-8")
    save_file(renamed(load_file(origin / "model.safetensors")), path / "model.safetensors", metadata={"format": "pt"})
    vision = json.loads((origin / "config.json").read_text(encoding="utf-8"))["vision_config"]
    vision |= {"image_size": image, "patch_size": 6, "qkv_bias": False, "qk_normalization": False}
    vision |= {"norm_type": "layer_norm", "initializer_factor": 1.0}
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "vision_config": vision,
        "llm_config": text_config().to_dict() | {"architectures": ["Qwen2ForCausalLM"]},
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": image,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 2,
        "dynamic_image_size": True,
        "use_thumbnail": True,
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "configuration_internvl_chat.py").write_text(CONFIG, encoding="utf-8")
    for file in origin.glob("*token*"):
        shutil.copy(file, path)
    return path


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by OpenGVLab's names, in which query, key and value are one."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attention.k_proj." in name or ".attention.v_proj." in name:
            continue
        if ".attention.q_proj." in name:
            weight = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace(".attention.q_proj.", ".attn.qkv.")
        for part, theirs in NAMES.items():
            name = name.replace(part, theirs)
        found[name] = weight
    found["language_model.lm_head.weight"] = found["language_model.model.embed_tokens.weight"].clone()  # they are tied
    return found
