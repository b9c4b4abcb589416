from __future__ import annotations

import re
from typing import Any

from torch import nn


def build_vision_projector(config: Any, **kwargs: Any) -> nn.Module:
    """The projector that `config.mm_projector_type` names, from mm_hidden_size to hidden_size.

    "linear" | "mlpNx_gelu" (N linear layers with exact GELU in between) | "identity". Raises ValueError otherwise.
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
