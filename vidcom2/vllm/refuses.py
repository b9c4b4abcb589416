"""Refusal of models that would answer without the compressor that an engine was started with."""

from __future__ import annotations

from functools import wraps
from typing import Any

from vidcom2.vllm.serving import asked_of


def refuse_others(registry: Any) -> None:
    """Let vLLM's registry of models refuse those that cannot compress, if compression is asked for.

    Models of other packages stay usable without COMPRESSOR. A registry that refuses already is left alone.

    Args:
        registry: vLLM's ModelRegistry.
    """
    resolve = registry.resolve_model_cls
    if getattr(resolve, "refuses", False):
        return

    @wraps(resolve)
    def resolved(architectures: Any, model_config: Any) -> Any:
        found, architecture = resolve(architectures, model_config)
        check(found, architecture, model_config)
        return found, architecture

    resolved.refuses = True  # type: ignore[attr-defined]
    registry.resolve_model_cls = resolved


def check(found: type, architecture: str, model_config: Any) -> None:
    """Check that a model compresses, if that is asked for.

    Args:
        found: The model's class.
        architecture: The architecture that it serves.
        model_config: vLLM's settings of the model.

    Raises:
        ValueError: A compressor is asked for, and the model would not use it.
    """
    # The LLM inside a multimodal model is resolved with that model's settings, a draft model with its own.
    inside = model_config.multimodal_config is not None and not getattr(found, "supports_multimodal", False)
    if getattr(found, "compresses_videos", False) or inside or model_config.runner_type == "draft":
        return
    asked = asked_of(model_config.hf_config)
    if asked.drops:
        raise ValueError(
            f"{asked.spec} is asked for, and vidcom2 has no {architecture} for vLLM: it would answer about whole "
            "videos. Unset COMPRESSOR and R_RATIO, or serve a model that docs/serving.md lists"
        )
