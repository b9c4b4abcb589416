"""The projector from vision features to the language model's hidden size."""

from __future__ import annotations

import re
from typing import Any

from torch import nn


def build_vision_projector(config: Any, **kwargs: Any) -> nn.Module:
    """Build the projector that a config names (upstream's `build_vision_projector`).

    Args:
        config: A LLaVA config. `mm_projector_type` is "linear" (the default), "mlpNx_gelu" (N linear layers with the
            exact GELU in between) or "identity". `mm_hidden_size` and `hidden_size` are the sizes of input and output.
        **kwargs: Ignored; upstream takes them.

    Returns:
        A module [..., mm_hidden_size] -> [..., hidden_size].

    Raises:
        ValueError: If `mm_projector_type` has another value.
    """
    kind = getattr(config, "mm_projector_type", "linear")
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(config.mm_hidden_size, config.hidden_size)
    if match := re.fullmatch(r"mlp(\d+)x_gelu", kind):
        layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
        for _ in range(1, int(match[1])):
            layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
        return nn.Sequential(*layers)
    raise ValueError(f"mm_projector_type={kind!r} is not supported; use linear, mlp2x_gelu (any N) or identity")
