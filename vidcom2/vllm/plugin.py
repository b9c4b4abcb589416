"""The entry point "vllm.general_plugins" of this package."""

from __future__ import annotations

from vidcom2.vllm.refuses import refuse_others

MODELS = {
    "LlavaOnevisionForConditionalGeneration": "llava_onevision:LlavaOnevision",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video:LlavaNextVideo",
    "Qwen2VLForConditionalGeneration": "qwen2_vl:Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_vl:Qwen25VL",
    "Qwen3VLForConditionalGeneration": "qwen3_vl:Qwen3VL",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl:Qwen3VLMoe",
    "Qwen3_5ForConditionalGeneration": "qwen3_5:Qwen35",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5:Qwen35Moe",
    "InternVLChatModel": "internvl:InternVLChat",
    "InternVLForConditionalGeneration": "internvl:InternVL",
}
"""Where the model of an architecture is, as "file:class" of this package. vLLM imports the one that it needs."""


def register() -> None:
    """Put the models of this package in the place of vLLM's own, and refuse others if a compressor is asked for.

    vLLM calls this in each of its processes, sometimes twice.
    """
    from vllm import ModelRegistry

    refuse_others(ModelRegistry)
    for architecture, where in MODELS.items():
        ModelRegistry.register_model(architecture, f"{__package__}.{where}")
