"""Arguments that the benchmarks share, and their checks."""

from __future__ import annotations

import argparse

import torch


def choose_device(name: str | None) -> torch.device:
    """The device that --device names; without --device, the GPU if there is one.

    Raises:
        ValueError: --device cuda, but torch finds no GPU.
    """
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU. Use --device cpu, or install a torch with CUDA")
    return device


def require_at_least(least: int, arguments: argparse.Namespace, *names: str) -> None:
    """Check numbers on the command line.

    Args:
        least: The smallest number allowed.
        arguments: The command line.
        names: Names of the arguments to check. An argument that is None passes.

    Raises:
        ValueError: A number is too small.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}")
