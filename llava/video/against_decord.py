"""Would raw decord have given the same frames? What a comparison with published numbers must know of each video."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Timer

import numpy as np

from llava.video.exact import ExactVideo
from llava.video.known import why_decord_may_err
from llava.video.pictures import as_decord_has_it
from llava.video.reading import OpenVideo

BLOCK = 16
"""Pixels each way over which brightness is averaged before frames are compared: releases of FFmpeg differ in single
pixels at edges between colours."""
VISIBLE = 2.0
"""Levels of 255 by which a block may differ in frames that count as equal."""
TIMEOUT = 120.0
"""Seconds for decord to read one video."""


@dataclass(frozen=True)
class AgainstDecord:
    """differ: how many of the frames handed to the model raw decord would have given otherwise; None where that is not
    known. why: proved, compared, or what stood in the way."""

    differ: int | None
    why: str


def why_in_doubt(video: ExactVideo) -> str | None:
    """Why raw decord may give other frames of it; None where it cannot. Complete once frames have been read."""
    if not video.seeks:
        return video.why
    if video.false_keys:
        return "it has pictures that are marked as keys, and are none; decord begins there"
    return why_decord_may_err(video.packets) or as_decord_has_it(video.converted)


class DecordFails(Exception):
    """It gives no frames of a file at all."""


def against_decord(
    file: str,
    video: OpenVideo,
    choose: Callable[[int, float], list[int]],
    frames: np.ndarray,
    rows: Sequence[int] | None = None,
    timeout: float = TIMEOUT,
) -> AgainstDecord:
    """What decord would have given for `choose`, for which `video` gave `frames` (see OpenVideo.sample).

    rows: where in `frames` each chosen one is, where they are fewer because some were chosen more than once.
    Where what the file says of itself proves decord right, it is not asked. Otherwise it reads the video too, in a
    process of its own, for `timeout` seconds at most.
    """
    if not isinstance(video, ExactVideo):
        return AgainstDecord(None, f"not compared: {video.name} was {video.why}")
    if (doubt := why_in_doubt(video)) is None:
        return AgainstDecord(0, "proved by container, codec and time stamps")
    if find_spec("decord") is None:
        return AgainstDecord(None, f"not compared: decord is not installed; in doubt, as {doubt}")
    rows = range(len(frames)) if rows is None else rows
    try:
        their_rows, theirs = _read_alone(file, choose, timeout)
    except DecordFails as cause:
        return AgainstDecord(len(rows), f"raw decord cannot read it: {cause}")
    except OSError as cause:  # of this machine, not of the video, which must not count as unreadable for it
        return AgainstDecord(None, f"not compared: decord's process does not start ({cause}); in doubt, as {doubt}")
    return AgainstDecord(count_different(frames, theirs, rows, their_rows), f"compared, as {doubt}")


def count_different(
    ours: np.ndarray, theirs: np.ndarray, rows: Sequence[int] | None = None, their_rows: Sequence[int] | None = None
) -> int:
    """How many of T frames do not look alike; all of them where their sizes or numbers differ.

    ours, theirs: uint8 [D, H, W, 3]. rows, their_rows: of each of the T frames, where in them it is; as they come if
    None.
    """
    rows = range(len(ours)) if rows is None else rows
    their_rows = range(len(theirs)) if their_rows is None else their_rows
    if ours.shape[1:] != theirs.shape[1:] or len(rows) != len(their_rows):
        return max(len(rows), len(their_rows))
    pairs = Counter(zip(rows, their_rows, strict=True))
    return sum(times for (row, their), times in pairs.items() if not looks_alike(ours[row], theirs[their]))


def looks_alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Of two uint8 frames [H, W, 3], is no block's mean of a colour visibly another?"""
    difference = a.astype(np.int32) - b
    height, width = difference.shape[:2]
    rows, columns = (np.arange(0, size, BLOCK) for size in (height, width))
    sums = np.add.reduceat(np.add.reduceat(difference, rows, axis=0), columns, axis=1)
    sizes = [np.diff(np.append(starts, size)) for starts, size in ((rows, height), (columns, width))]
    return bool((np.abs(sums) <= VISIBLE * np.outer(*sizes)[..., None]).all())


def _read_alone(file: str, choose: Callable[[int, float], list[int]], timeout: float) -> tuple[list[int], np.ndarray]:
    """Where in the array each chosen frame is; the array, uint8 [D, H, W, 3], has each once."""
    script = str(Path(__file__).with_name("decord_alone.py"))
    command = [sys.executable, script, os.path.abspath(file), str(int(timeout) + 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        clock = Timer(timeout, process.kill)
        clock.start()
        try:
            opened = process.stdout.readline()
            if not opened:
                raise DecordFails("it does not open the file")
            indices = choose(*json.loads(opened))
            numbers = sorted(set(indices))
            process.stdin.write(json.dumps(numbers).encode() + b"\n")
            process.stdin.close()
            theirs = np.load(BytesIO(process.stdout.read()), allow_pickle=False)
            return [numbers.index(index) for index in indices], theirs
        except (ValueError, EOFError, BrokenPipeError) as cause:
            raise DecordFails(f"it does not read the frames within {timeout:g} s, or at all") from cause
        finally:
            clock.cancel()
            process.kill()
