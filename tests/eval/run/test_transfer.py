"""Tensors from process to process: the same bytes, and no room in /dev/shm."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from eval.run import transfer
from eval.run.prefetch import ReadAhead

THINGS = [
    {"name": "no tensors", "rows": [1, 2]},
    torch.arange(24).reshape(2, 3, 4).transpose(0, 2),
    [torch.tensor(1.5, dtype=torch.bfloat16), torch.empty(0, 3), torch.randn(5, 7).half(), torch.tensor([True])],
    {"a": np.arange(7, dtype=np.uint8), "b": (torch.full((1000, 1000), 3.0), "text")},
]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("in_memory", [True, False])
def test_everything_arrives(in_memory, monkeypatch):
    if in_memory and not transfer.IN_MEMORY:
        pytest.skip("files in memory are Linux's")
    monkeypatch.setattr(transfer, "IN_MEMORY", in_memory)
    ours, theirs = multiprocessing.Pipe()
    sender = Thread(target=lambda: [transfer.send(theirs, transfer.pack(thing)) for thing in THINGS])
    sender.start()
    got = [transfer.receive(ours) for _ in THINGS]
    sender.join(60)
    assert all(map(equal, THINGS, got))
    got[3]["b"][0].add_(1)  # what was received can be written to


def test_a_sender_that_ends_too_early():
    ours, theirs = multiprocessing.Pipe()
    theirs.send((b"", [100]))
    theirs.close()
    with pytest.raises(EOFError):
        transfer.receive(ours)


def read(file: str) -> torch.Tensor:
    return torch.full((300, 1000), 2.0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_videos_take_no_room_in_dev_shm():
    """Of which a container of Docker has 64 MB, less than three videos."""
    before = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    reader = ReadAhead(read, workers=1, timeout=60, ahead=2)
    reader.plan(["a", "b"])
    taken = [reader.take("a"), reader.take("b")]
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    reader.close()
    assert all(torch.equal(one, read("")) for one in taken)
    assert not [line for line in maps if "/dev/shm" in line and line not in before]
    assert sum("memfd:handover" in line for line in maps if line not in before) == 2
