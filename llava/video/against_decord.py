"""Would raw decord have given the same frames? Published numbers were measured with decord's frames.

`against_decord` answers for one video: by proof if possible, else by running decord and comparing.
"""

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

from llava.video.conversion import why_decord_may_convert_differently
from llava.video.exact import ExactVideo
from llava.video.random_access import why_decord_may_err
from llava.video.reading import OpenVideo

BLOCK = 16
"""Side in pixels of the blocks over which colours are averaged before frames are compared. Releases of FFmpeg differ in
single pixels at edges between colours."""
VISIBLE = 2.0
"""Levels of 255 by which the mean of a block may differ in frames that count as equal."""
TIMEOUT = 120.0
"""Seconds that decord has for one video."""


@dataclass(frozen=True)
class AgainstDecord:
    """What raw decord would have given for the frames of one video.

    Attributes:
        differ: How many of the T frames would be others, or None if that is not known.
        why: Whether this was proved or compared, or what stood in the way.
    """

    differ: int | None
    why: str


def why_in_doubt(video: ExactVideo) -> str | None:
    """Say why raw decord may give other frames of a video.

    Args:
        video: The video. The answer is complete only after the wanted frames have been read.

    Returns:
        The reason, or None if decord is proved right.
    """
    if not video.seeks:
        return video.why
    if video.false_keys:
        return "it has pictures that are marked as keys, and are none; decord begins there"
    return why_decord_may_err(video.packets) or why_decord_may_convert_differently(video.converted)


class DecordFails(Exception):
    """decord gives no frames of a file at all."""


def against_decord(
    file: str,
    video: OpenVideo,
    choose: Callable[[int, float], list[int]],
    frames: np.ndarray,
    rows: Sequence[int] | None = None,
    timeout: float = TIMEOUT,
) -> AgainstDecord:
    """Count the frames that raw decord would have given otherwise.

    If container, codec and time stamps prove decord right, it is not run. Otherwise it reads the video in its own
    process.

    Args:
        file: The video file.
        video: The same file, open, from which `frames` were read.
        choose: Returns frame numbers for a frame count and an average frame rate (see `OpenVideo.sample`).
        frames: uint8 RGB [D, H, W, 3] that `video` gave for `choose`.
        rows: For each of the T chosen frames, its index in `frames`. None if `frames` has all T in order.
        timeout: Seconds that decord has.

    Returns:
        The count. It is None for videos that another reader than `ExactVideo` read, and if decord is needed but is not
        installed or its process does not start.
    """
    if not isinstance(video, ExactVideo):
        return AgainstDecord(None, f"not compared: {video.name} was {video.why}")
    if (doubt := why_in_doubt(video)) is None:
        return AgainstDecord(0, "proved by container, codec and time stamps")
    if find_spec("decord") is None:
        return AgainstDecord(None, f"not compared: decord is not installed; in doubt, as {doubt}")
    rows = range(len(frames)) if rows is None else rows
    try:
        their_rows, theirs = _read_with_decord(file, choose, timeout)
    except DecordFails as cause:
        return AgainstDecord(len(rows), f"raw decord cannot read it: {cause}")
    except OSError as cause:  # the machine's fault, not the video's
        return AgainstDecord(None, f"not compared: decord's process does not start ({cause}); in doubt, as {doubt}")
    return AgainstDecord(count_different(frames, theirs, rows, their_rows), f"compared, as {doubt}")


def count_different(
    ours: np.ndarray, theirs: np.ndarray, rows: Sequence[int] | None = None, their_rows: Sequence[int] | None = None
) -> int:
    """Count the frames that do not look alike.

    Args:
        ours: uint8 [D, H, W, 3].
        theirs: uint8 [D', H', W', 3].
        rows: For each of the T frames, its index in `ours`. None for all in order.
        their_rows: For each of their frames, its index in `theirs`. None for all in order.

    Returns:
        How many of the T frames differ: all of them if sizes or numbers of frames differ.
    """
    rows = range(len(ours)) if rows is None else rows
    their_rows = range(len(theirs)) if their_rows is None else their_rows
    if ours.shape[1:] != theirs.shape[1:] or len(rows) != len(their_rows):
        return max(len(rows), len(their_rows))
    pairs = Counter(zip(rows, their_rows, strict=True))
    return sum(times for (row, their), times in pairs.items() if not looks_alike(ours[row], theirs[their]))


def looks_alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two frames look the same: in no block does the mean of a colour differ by more than `VISIBLE`.

    Args:
        a: uint8 [H, W, 3].
        b: uint8 [H, W, 3].
    """
    difference = a.astype(np.int32) - b
    height, width = difference.shape[:2]
    rows, columns = (np.arange(0, size, BLOCK) for size in (height, width))
    sums = np.add.reduceat(np.add.reduceat(difference, rows, axis=0), columns, axis=1)
    sizes = [np.diff(np.append(starts, size)) for starts, size in ((rows, height), (columns, width))]
    return bool((np.abs(sums) <= VISIBLE * np.outer(*sizes)[..., None]).all())


def _read_with_decord(
    file: str, choose: Callable[[int, float], list[int]], timeout: float
) -> tuple[list[int], np.ndarray]:
    """Read frames with decord in its own process.

    Returns:
        For each chosen frame its index in the array, and the array, uint8 [D, H, W, 3], with each frame once.

    Raises:
        DecordFails: If decord gives no frames in time.
        OSError: If the process does not start.
    """
    script = str(Path(__file__).with_name("decord_process.py"))
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
