"""LLaVA on Qwen2 (upstream's `llava/model/language_model/llava_qwen.py`)."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.utils import logging

from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel

logger = logging.get_logger(__name__)


class LlavaQwenConfig(Qwen2Config):
    """A Qwen2 config with LLaVA's own fields, such as `mm_vision_tower` and `mm_projector_type`."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):
    """A Qwen2 decoder with vision tower and projector."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaMetaForCausalLM, Qwen2ForCausalLM):  # type: ignore[misc]  # our generate
    """LLaVA on Qwen2 with the language model head: LLaVA-OneVision and LLaVA-Video.

    Args:
        config: The checkpoint's config. Its rope scaling is ignored with a warning, as upstream ignores it.
    """

    config_class = LlavaQwenConfig
    _no_split_modules = ["Qwen2DecoderLayer", "VisionTransformer"]  # noqa: RUF012

    def __init__(self, config: LlavaQwenConfig):
        rope = dict(config.rope_parameters or {})
        if rope.get("rope_type", "default") != "default":
            # Upstream ignores rope scaling for Qwen2, and the published checkpoints rely on that.
            logger.warning(f"rope scaling {rope} is ignored for {type(self).__name__}, as upstream does")
            config.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        super(Qwen2ForCausalLM, self).__init__(config)  # Qwen2ForCausalLM.__init__ would build a plain Qwen2Model
        self._assemble(LlavaQwenModel(config))


AutoConfig.register("llava_qwen", LlavaQwenConfig)
AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM)
