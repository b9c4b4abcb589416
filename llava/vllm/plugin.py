"""The entry point "vllm.general_plugins" of this package."""

from __future__ import annotations

MODELS = {"LlavaQwenForCausalLM": "llava_qwen:LlavaQwen"}
"""Where the model of an architecture is, as "file:class" of this package. vLLM imports the one that it needs."""


def register() -> None:
    """Tell vLLM the models of this package, and transformers their configs.

    vLLM calls this in each of its processes, sometimes twice.
    """
    from vllm import ModelRegistry

    import llava.model.language_model.llava_qwen  # noqa: F401  # it registers its config

    for architecture, where in MODELS.items():
        ModelRegistry.register_model(architecture, f"{__package__}.{where}")
