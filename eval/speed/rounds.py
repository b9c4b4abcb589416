"""Time several functions in turns, and describe the machine that the times come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..models.cores import Waiting, mark
from ..models.timing import moment, seconds_between
from ..results.provenance import provenance


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Time functions in turns, so that a slow moment of the machine affects all of them alike.

    A first round is not counted.

    Args:
        calls: The functions by name.
        rounds: How many rounds to time.
        device: The device that the functions use. A time ends when the device is done.

    Returns:
        Milliseconds of every round, by name.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            milliseconds[name].append(timed(call, device))
    return milliseconds


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call. It starts when the device is idle and ends when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = moment(device)
    _ = call()
    return round(1000 * seconds_between(begin, moment(device)), 4)


def with_mark(notes: Sequence[str]) -> tuple[str, ...]:
    """The notes below a table of times. If other processes kept the CPUs busy, a first note says so."""
    loaded = mark(Waiting(ever=True).share)
    return (*([loaded] if loaded else []), *notes)


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where times come from, ready for JSON: versions, device, CPU threads and load."""
    origin = asdict(provenance())
    del origin["command"]  # It names directories of this machine. The settings are stored in other fields.
    return {
        "provenance": origin,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "waited_for_cpu": Waiting(ever=True).share,
    }


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
