"""The SigLIP tower (upstream's `llava/model/multimodal_encoder/siglip_encoder.py`)."""

from __future__ import annotations

from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.multimodal_encoder.vit import VisionConfig


class SigLipVisionTower(VisionTower):
    """SigLIP without its last layer, its head and its last norm: transformers' `hidden_states[-2]`.

    Args:
        source: Directory or hub name of the tower's own files.
        config: The tower's geometry.
    """

    def __init__(self, source: str, config: VisionConfig):
        layers = config.num_hidden_layers - 1
        super().__init__(source, config, layers, used=layers)
        size = config.image_size
        self.image_processor = SigLipImageProcessor(size=(size, size), crop_size={"height": size, "width": size})
