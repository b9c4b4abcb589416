"""Qwen3.5, dense and MoE, in vLLM, with a compressor behind the tower. Kept tokens keep their mRoPE positions.

Prompts, tower and positions are Qwen3-VL's, without DeepStack. Gated delta nets have no positions: they read the rows
that stay, in order.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform

from vidcom2.vllm.qwen3_vl import Compressed, Processor


def require_dtype(dtype: torch.dtype) -> None:
    """Check that vLLM has gated delta nets for a dtype here.

    Raises:
        ValueError: It has none. vLLM itself would fail at the first question.
    """
    if current_platform.is_cpu() and dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"--dtype {name}: vLLM's gated delta nets on CPUs are bfloat16 only: use --dtype bfloat16")


class Hybrid(Compressed):
    """What dense and MoE models have in common."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        require_dtype(vllm_config.model_config.dtype)
        super().__init__(vllm_config=vllm_config, prefix=prefix)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen3_5ProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen35(Hybrid, Qwen3_5ForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen3_5MoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen35Moe(Hybrid, Qwen3_5MoeForConditionalGeneration):
    """vLLM's model, whose videos are compressed."""
