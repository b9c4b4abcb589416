"""Times of several calls, taken in turns, and what machine they are of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..models.cores import Waiting, mark
from ..models.timing import moment, seconds_between
from ..results.provenance import provenance


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every round of each call, until the device was done, after a round that does not count.

    In turns, so that a slow moment of the machine meets all of them alike.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            milliseconds[name].append(timed(call, device))
    return milliseconds


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds that a call took, begun when the device has nothing to do, until the device was done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = moment(device)
    _ = call()
    return round(1000 * seconds_between(begin, moment(device)), 4)


def with_mark(notes: Sequence[str]) -> tuple[str, ...]:
    """The notes below a table of times, the first of which says so if the machine was loaded."""
    loaded = mark(Waiting(ever=True).share)
    return (*([loaded] if loaded else []), *notes)


def bench_device(name: str | None) -> torch.device:
    """What --device names, or the GPU where there is one; ValueError for a GPU that there is not."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU; cpu is there")
    return device


def require_repeats(repeats: int) -> int:
    if repeats < 2:
        raise ValueError(f"--repeats {repeats} must be at least 2")
    return repeats


def machine(device: torch.device) -> dict[str, Any]:
    """Where times come from, JSON-ready."""
    origin = asdict(provenance())
    del origin["command"]  # which names this machine's directories; what it said is elsewhere
    return {
        "provenance": origin,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "waited_for_cpu": Waiting(ever=True).share,
    }
