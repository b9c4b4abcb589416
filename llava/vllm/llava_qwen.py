"""LLaVA on Qwen2 as a model of vLLM: the tree's way from pixels to rows, and vLLM's Qwen2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.sight import Sight
from llava.model.visual_inputs import VisualInput
from llava.vllm.processing import SLOTS, Dummies, Info, Processor
from vidcom2.vllm.serves import announce
from vidcom2.vllm.serving import serving_of


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummies)
class LlavaQwen(Sight, nn.Module, SupportsMultiModal, SupportsPP):
    """LLaVA-OneVision or LLaVA-Video in LLaVA-NeXT's layout, whose videos are compressed.

    Args:
        vllm_config: vLLM's settings.
        prefix: The model's name in a larger one.

    Attributes:
        compresses_videos: Tells that this model compresses; see `vidcom2.vllm.refuses`.
        compressor: The compressor of the engine; None for nothing.
    """

    compresses_videos = True
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.vision_tower.": "vision_tower.",
            "model.mm_projector.": "mm_projector.",
            "model.image_newline": "image_newline",
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        self.config = config = vllm_config.model_config.hf_config
        serving = serving_of(config, "repack")
        self.compressor = serving.compressor if serving.compressor.drops else None
        with self._mark_tower_model(vllm_config, set(SLOTS)):  # type: ignore[operator]
            self.vision_tower = build_vision_tower(config)
            self.mm_projector = build_vision_projector(config)
            if "unpad" in getattr(config, "mm_patch_merge_type", "flat"):
                self.image_newline = nn.Parameter(torch.empty(config.hidden_size))
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["Qwen2ForCausalLM"],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        announce(serving, type(self), vllm_config)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what stands in a chat for an image or video."""
        return SLOTS[modality.split("_")[0]]

    def get_model(self) -> Any:
        """Return the module with projector and newline."""
        return self

    def get_vision_tower(self) -> Any:
        """Return the vision tower."""
        return self.vision_tower

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Return the rows [N, D] of each image or video of a batch. All are of one modality."""
        sizes = kwargs.get("image_sizes", [])
        inputs = [VisualInput(views, "video", None) for views in kwargs.get("pixel_values_videos", [])]
        for views, size in zip(kwargs.get("pixel_values", []), sizes, strict=True):
            width, height = size.tolist()
            inputs.append(VisualInput(views, "image", (width, height)))
        return [visual.rows for visual in self.visual_rows(inputs)]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the LLM on the rows of a step."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits [rows, vocabulary] of hidden states [rows, D]."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load a checkpoint. A tower that it lacks comes from the tower's own files."""
        loaded = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        own = {f"vision_tower.vision_tower.{name}" for name in self.vision_tower.vision_tower.state_dict()}
        if missing := own - loaded:
            self.vision_tower.load_model(only=[name.removeprefix("vision_tower.vision_tower.") for name in missing])
        return loaded | missing
