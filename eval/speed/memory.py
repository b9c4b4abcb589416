"""Peak memory: of torch while a function runs, and of a process that reads a video."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llava.video import FrameSampling, read_video, require


def peak_bytes(call: Callable[[Tensor], Any], x: Tensor) -> int:
    """Measure how far torch's memory rises while `call(x)` runs.

    It counts all of torch's allocations on the device of `x`, also those that operators make and free inside.

    Args:
        call: The function to measure.
        x: Its argument, of any shape. Its device is the one that is measured.

    Returns:
        Bytes at the peak, beyond what was in use before.
    """
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        call(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    with hidden_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call(x)
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hide what C++ code, such as the profiler, writes to stderr. Exceptions pass."""
    with TemporaryFile() as hidden:
        shown = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def peak_of_reading(video: Path, sampling: FrameSampling, reader: str) -> float:
    """Measure how far the memory of a new process rises while it reads frames of a video.

    Args:
        video: The video file.
        sampling: Which frames to read.
        reader: A name in `llava.video.READERS`.

    Returns:
        MiB at the peak, beyond what the process had after its imports. The frames themselves count.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(rise_while_reading, str(video), sampling, reader).result()


def rise_while_reading(video: str, sampling: FrameSampling, reader: str) -> float:
    """How many MiB the peak memory of this process rises while it reads the frames."""
    require(reader)  # imports the reader's package
    before = process_peak()
    read_video(video, sampling, reader)
    return process_peak() - before


def process_peak() -> float:
    """This process's peak memory in MiB. (What `getrusage` gives may be the peak of the parent process.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
