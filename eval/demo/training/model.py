"""The demo model's sizes, and a model that has learned nothing yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

from ..world import BACKGROUNDS, COLOURS, SHAPES, SIZE

PATCH = 6
"""Width and height of a patch, in pixels."""
TOWER_WIDTH, TOWER_LAYERS = 64, 2
"""Hidden size of the vision tower, and how many of its layers LLaVA uses."""
WIDTH = 128
"""Hidden size D of the LLM."""
BASE_LAYERS, LAYERS = 6, 8
"""Layers of the LLM at first, and in the last lesson."""


def build_model(root: Path, tokenizer: PreTrainedTokenizerFast, seed: int, layers: int = BASE_LAYERS) -> Any:
    """Build a model with fresh weights.

    Args:
        root: The directory for the checkpoint. The tower's config.json is written below it.
        tokenizer: Its tokenizer.
        seed: Seed of the weights.
        layers: Layers of the LLM. Those above BASE_LAYERS change nothing before they are trained.
    """
    write_tower_config(root)
    config = LlavaQwenConfig(**llava_fields(tokenizer, layers))
    config._name_or_path = str(root)
    torch.manual_seed(seed)
    model = LlavaQwenForCausalLM(config)
    # At first every head looks for tokens that are like its own (mimetic initialisation, arXiv 2305.09828). Otherwise
    # the LLM takes very long to discover that two places of a text can hold the same word.
    every: Any = model.model.layers
    for layer in every:
        layer.self_attn.q_proj.weight.data.mul_(3)
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)
    for layer in every[BASE_LAYERS:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return model


def write_tower_config(root: Path) -> None:
    """Write the SigLIP tower's config.json into `root`/vision_tower."""
    tower = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 4 * TOWER_WIDTH,
        "num_hidden_layers": TOWER_LAYERS + 1,  # LLaVA does not use the last one
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": False,
    }
    (root / "vision_tower").mkdir(parents=True, exist_ok=True)
    (root / "vision_tower" / "config.json").write_text(json.dumps(tower, indent=2) + "\n", encoding="utf-8")


def llava_fields(tokenizer: PreTrainedTokenizerFast, layers: int) -> dict[str, Any]:
    """The fields of the model's config.json."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": True,
        "initializer_range": 0.04,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": TOWER_WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 4096,
        "tokenizer_padding_side": "right",
    }


class PatchHeads(nn.Module):
    """Heads that tell from a patch's features what it shows and where it is. Only the vision lesson needs them.

    They tell colour, shape, background, row and column. Without row and column the LLM never learns in which direction
    something moves: it cannot tell a token's place from the order of the tokens, since some are missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.shape = nn.Linear(TOWER_WIDTH, len(COLOURS) + 8), nn.Linear(TOWER_WIDTH, len(SHAPES) + 1)
        self.background = nn.Linear(TOWER_WIDTH, len(BACKGROUNDS))
        self.row, self.column = (nn.Linear(TOWER_WIDTH, SIZE // PATCH) for _ in range(2))

    def loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Compare what the heads tell with the truth.

        Args:
            features: The tower's features of N frames, [N, P, D].
            labels: What `looks` gives, [N, P, 3].

        Returns:
            The loss, and the share of patches with an object whose colour and shape are both right.
        """
        outs = [head(features).float() for head in (self.colour, self.shape, self.background)]
        covered = labels[..., 0] > 0
        weight = torch.where(covered, 1.0, 0.1)  # Most patches show the background, which is soon learned.
        losses = [cross_entropy(out.mT, labels[..., i], reduction="none") for i, out in enumerate(outs)]
        loss = sum(((each * weight).sum() / weight.sum() for each in losses), torch.zeros(()))
        place = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
        for head, which in ((self.row, place // (SIZE // PATCH)), (self.column, place % (SIZE // PATCH))):
            loss = loss + cross_entropy(head(features).float().mT, which)
        right = (outs[0].argmax(-1) == labels[..., 0]) & (outs[1].argmax(-1) == labels[..., 1])
        return loss, float(right[covered].float().mean())
