"""The vision transformer of SigLIP and CLIP, with the key names of their published checkpoints.

transformers' own classes do not fit. Their key prefixes changed between releases, while LLaVA checkpoints keep the old
ones, and a LLaVA tower stops before the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import ACT2FN


@dataclass(frozen=True)
class VisionConfig:
    """Geometry of a SigLIP or CLIP tower. The fields are named as in the tower's config.json.

    Attributes:
        model_type: "siglip" or "clip".
        hidden_size: Size D of a token.
        intermediate_size: Hidden size of the MLP.
        num_hidden_layers: Published depth. A LLaVA tower runs fewer layers.
        num_attention_heads: Attention heads.
        image_size: Side S of an image in pixels.
        patch_size: Side of a patch in pixels.
        num_channels: Colour channels.
        hidden_act: Activation of the MLP, by transformers' name.
        layer_norm_eps: Epsilon of the layer norms.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> VisionConfig:
        """Read the geometry from a config.json.

        Args:
            config: The config of a vision model, or of a full SigLIP or CLIP model with a `vision_config` inside.
                Fields that it leaves out have transformers' defaults.

        Returns:
            The geometry.

        Raises:
            ValueError: If it is neither a SigLIP nor a CLIP model.
        """
        kind = str(config.get("model_type", ""))
        family = "siglip" if kind.startswith("siglip") else "clip" if kind.startswith("clip") else None
        if family is None or kind.startswith("siglip2"):
            raise ValueError(f"vision tower of model_type {kind!r} is not supported; use a SigLIP or a CLIP one")
        known = {f.name for f in fields(cls)} - {"model_type"}
        given = config.get("vision_config", config)
        return cls(family, **(_DEFAULTS[family] | {k: v for k, v in given.items() if k in known}))

    @property
    def num_patches_per_side(self) -> int:
        """Patches per side of an image."""
        return self.image_size // self.patch_size


# transformers leaves a field out of a config.json if it equals this default of the base-size model.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "siglip": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    "clip": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
}


class VisionModel(nn.Module):
    """Holds the transformer under `vision_model.`, the key prefix of the checkpoints.

    Args:
        config: The tower's geometry.
        layers: How many layers are built.
        used: How many of them run.
    """

    def __init__(self, config: VisionConfig, layers: int, used: int):
        super().__init__()
        self.vision_model = VisionTransformer(config, layers, used)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pixels [N, 3, S, S] to hidden states [N, tokens, D]."""
        return self.vision_model(pixel_values)


class VisionTransformer(nn.Module):
    """Pixels [N, 3, S, S] -> hidden states [N, tokens, D] after `used` of the `layers` layers.

    There are (S / patch_size)² tokens; CLIP adds the class token in front. The last norm is not applied.

    Args:
        config: The tower's geometry.
        layers: How many layers are built.
        used: How many of them run.
    """

    def __init__(self, config: VisionConfig, layers: int, used: int):
        super().__init__()
        clip = config.model_type == "clip"
        self.embeddings = Embeddings(config, class_token=clip)
        if clip:
            self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # spelled as in the checkpoints
        self.encoder = Encoder(config, layers, used)
        # Every checkpoint has it, though the features do not pass through it.
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pixels [N, 3, S, S] to hidden states [N, tokens, D]."""
        hidden = self.embeddings(pixel_values)
        if hasattr(self, "pre_layrnorm"):
            hidden = self.pre_layrnorm(hidden)
        return self.encoder(hidden)


class Embeddings(nn.Module):
    """Patch and position embeddings, with CLIP's class token in front if there is one."""

    def __init__(self, config: VisionConfig, class_token: bool):
        super().__init__()
        d, p = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, d, p, stride=p, bias=not class_token)
        self.position_embedding = nn.Embedding(config.num_patches_per_side**2 + class_token, d)
        if class_token:
            self.class_embedding = nn.Parameter(torch.zeros(d))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed pixels [N, 3, S, S] as tokens [N, tokens, D]."""
        patches = self.patch_embedding(pixel_values).flatten(2).mT  # [N, patches, D]
        if hasattr(self, "class_embedding"):
            patches = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return patches + self.position_embedding(torch.arange(patches.shape[1], device=patches.device))


class Encoder(nn.Module):
    """A stack of `layers` layers. Only the first `used` run."""

    def __init__(self, config: VisionConfig, layers: int, used: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(layers))
        self.used = used

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform tokens [N, tokens, D]."""
        for layer in self.layers[: self.used]:
            hidden = layer(hidden)
        return hidden


class Layer(nn.Module):
    """One transformer layer: attention and MLP, each after a layer norm and with a residual connection."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform tokens [N, tokens, D]."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class Attention(nn.Module):
    """Multi-head self-attention without a mask."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.v_proj, self.out_proj = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform tokens [N, tokens, D]."""
        q, k, v = (
            proj(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, tokens, D / heads]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform tokens [N, tokens, D]."""
        return self.fc2(self.activation(self.fc1(hidden)))
