"""Random features for the benchmarks of selections, and their sizes on the command line."""

from __future__ import annotations

import re

import torch
from torch import Tensor


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """Parse sizes of features, such as "32x196x3584,64x169x3584".

    Returns:
        Frames T, tokens per frame M and hidden size D of each.

    Raises:
        ValueError: Anything else.
    """
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part.strip())
        if found is None:
            raise ValueError(f"--sizes: {part!r} is not frames x tokens x channels, such as 32x196x3584")
        sizes.append((int(found[1]), int(found[2]), int(found[3])))
    return sizes


def features(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw random features with some structure: frames share a scene; channels and tokens vary to different degrees.

    Args:
        size: Frames T, tokens per frame M, hidden size D.
        dtype: Their type.
        device: Their device. The values are drawn on the CPU, so they are the same on every device.

    Returns:
        Features [T, M, D].
    """
    frames, m, channels = size
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(*size).mul_(normal(frames, m, 1).exp_())
    x.add_(normal(m, channels)).add_(normal(frames, 1, channels), alpha=0.3)
    return x.mul_(normal(channels).exp_()).to(device, dtype)
