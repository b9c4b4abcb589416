from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel


class LlavaConfig(LlamaConfig):
    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    config_class = LlavaConfig


class LlavaLlamaForCausalLM(LlavaMetaForCausalLM, LlamaForCausalLM):  # type: ignore[misc]  # our generate
    """LLaVA on Llama and Vicuna."""

    config_class = LlavaConfig
    _no_split_modules = ["LlamaDecoderLayer", "VisionTransformer"]  # noqa: RUF012

    def __init__(self, config: LlavaConfig):
        super(LlamaForCausalLM, self).__init__(config)  # which would build a plain LlamaModel
        self._assemble(LlavaLlamaModel(config))


AutoConfig.register("llava_llama", LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
