"""LLaVA on Llama and Vicuna (upstream's `llava/model/language_model/llava_llama.py`)."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel


class LlavaConfig(LlamaConfig):
    """A Llama config with LLaVA's own fields, such as `mm_vision_tower` and `mm_projector_type`."""

    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """A Llama decoder with vision tower and projector."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM(LlavaMetaForCausalLM, LlamaForCausalLM):  # type: ignore[misc]  # our generate
    """LLaVA on Llama and Vicuna, with the language model head.

    Args:
        config: The checkpoint's config.
    """

    config_class = LlavaConfig
    _no_split_modules = ["LlamaDecoderLayer", "VisionTransformer"]  # noqa: RUF012

    def __init__(self, config: LlavaConfig):
        super(LlamaForCausalLM, self).__init__(config)  # LlamaForCausalLM.__init__ would build a plain LlamaModel
        self._assemble(LlavaLlamaModel(config))


AutoConfig.register("llava_llama", LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
