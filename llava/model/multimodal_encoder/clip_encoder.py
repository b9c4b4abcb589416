"""The CLIP tower (upstream's `llava/model/multimodal_encoder/clip_encoder.py`)."""

from __future__ import annotations

from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.multimodal_encoder.vit import VisionConfig


class CLIPVisionTower(VisionTower):
    """CLIP up to transformers' `hidden_states[select_layer]`.

    All layers are built, because LLaVA checkpoints may hold them all, but only the needed ones run.

    Args:
        source: Directory or hub name of the tower's own files.
        config: The tower's geometry.
        select_layer: Index into the hidden states; the last layer's is -1.
        select_feature: "patch" drops the class token, "cls_patch" keeps it in front.

    Raises:
        ValueError: If there is no such layer or feature.
    """

    def __init__(self, source: str, config: VisionConfig, select_layer: int, select_feature: str):
        if select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"mm_vision_select_feature={select_feature!r} is not supported; use patch or cls_patch")
        depth = config.num_hidden_layers
        used = select_layer if select_layer >= 0 else depth + 1 + select_layer
        if not 0 <= used <= depth:
            raise ValueError(f"mm_vision_select_layer={select_layer} does not exist in a tower of {depth} layers")
        super().__init__(source, config, layers=depth, used=used)
        self.select_feature = select_feature
        size = config.image_size
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )

    def feature_select(self, hidden: Tensor) -> Tensor:
        """Drop the class token if `select_feature` is "patch": [N, 1 + patches, D] -> [N, patches, D]."""
        return hidden[:, 1:] if self.select_feature == "patch" else hidden
