"""sha256 checksums of videos, in the format of `sha256sum`, with paths relative to the data directory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..results.files import write_whole
from .videos import Finding


def read_checksums(file: Path) -> dict[str, str]:
    """Read a file of checksums.

    Args:
        file: The file; it need not exist.

    Returns:
        Checksums (hex digits) by path relative to the data directory; empty if there is no such file.

    Raises:
        ValueError: A line has another format than `sha256sum`'s.
    """
    sums = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else (), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise ValueError(f"{file} line {number} is {line!r}, not a sha256 sum, two spaces and a path")
        sums[match[2]] = match[1]
    return sums


def write_checksums(file: Path, sums: Mapping[str, str]) -> None:
    """Write checksums by relative path, sorted by path."""
    write_whole(file, "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())))


def compare_checksums(
    findings: Mapping[Path, Finding], known: Mapping[str, str], data: Path
) -> tuple[dict[Path, Finding], dict[str, str]]:
    """Compare the checksums of the sound videos with known ones.

    Args:
        findings: The findings by video.
        known: Known checksums by path relative to `data`.
        data: The data directory.

    Returns:
        The findings, in which a video whose checksum changed is broken; and the known checksums with those of new
        videos added.
    """
    compared, sums = dict(findings), dict(known)
    for video, finding in findings.items():
        if finding.sha256 is None:
            continue
        expected = sums.setdefault(os.path.relpath(video, data), finding.sha256)
        if finding.sha256 != expected:
            compared[video] = replace(finding, state="broken", cause=f"has sha256 {finding.sha256}, not {expected}")
    return compared, sums
