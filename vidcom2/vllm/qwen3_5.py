"""Qwen3.5, dense and MoE, in vLLM, with a compressor behind the tower. Kept tokens keep their mRoPE positions.

Prompts, tower and positions are Qwen3-VL's, without DeepStack. Gated delta nets have no positions: they read the rows
that stay, in order.
"""

from __future__ import annotations

from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from vidcom2.vllm.qwen3_vl import Compressed, Processor


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen3_5ProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen35(Compressed, Qwen3_5ForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen3_5MoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen35Moe(Compressed, Qwen3_5MoeForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""
