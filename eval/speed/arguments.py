"""Arguments that the benchmarks share, and their checks."""

from __future__ import annotations

import argparse

import torch

from vidcom2 import compressor

from ..models import Protocol


def choose_device(name: str | None) -> torch.device:
    """The device that --device names; without --device, the GPU if there is one.

    Raises:
        ValueError: --device cuda, but torch finds no GPU.
    """
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU. Use --device cpu, or install a torch with CUDA")
    return device


def numbers(flag: str, text: str, least: int, example: str) -> list[int]:
    """Parse a list of numbers.

    Args:
        flag: Its flag.
        text: Its value, such as "1,3".
        least: The smallest number allowed.
        example: A good value, for the error.

    Raises:
        ValueError: A part is no such number, or two are the same.
    """
    found = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(found) < least or len(set(found)) < len(found):
        kind = "positive numbers" if least == 1 else f"numbers of {least} or more"
        raise ValueError(f"{flag} {text!r} must be different {kind}, such as {example}")
    return found


def require_drops(spec: str) -> None:
    """Check a compressor that is measured beside dense.

    Raises:
        ValueError: It is unknown, or compresses nothing.
    """
    if not compressor(spec).drops:
        raise ValueError(f"--compressor {spec} compresses nothing: name another one. Dense is measured in any case")


def dtype_of(arguments: argparse.Namespace, protocol: Protocol, device: torch.device) -> str:
    """The dtype that --dtype names; without it, float32 on a CPU, else as released, and bfloat16 for random weights."""
    usual = "bfloat16" if arguments.random_weights else protocol.default_dtype
    return arguments.dtype or ("float32" if device.type == "cpu" else usual)
