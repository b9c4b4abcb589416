"""Arguments that the benchmarks share, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def add_benchmark(
    benchmarks: argparse._SubParsersAction, name: str, what: str, repeats: int, device: bool = True
) -> argparse.ArgumentParser:
    """Declare a benchmark with --repeats, --json and, if it can use a GPU, --device.

    Args:
        benchmarks: The subcommands of `bench`.
        name: The benchmark's name on the command line.
        what: One line for --help.
        repeats: Default of --repeats.
        device: Whether it has --device.

    Returns:
        The benchmark's parser, for its own arguments.
    """
    parser = benchmarks.add_parser(name, help=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", default=repeats, type=int, help="how often everything is measured, at least 2")
    parser.add_argument("--json", type=Path, help="write every time, the machine and the settings to this file")
    if device:
        add_device(parser)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    parser.add_argument("--device", choices=("cuda", "cpu"), help="where to compute; if unset, cuda if there is a GPU")


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
