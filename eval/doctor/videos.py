"""Whether video files can be decoded, each in a process of its own.

`check_video` checks one file. `check_videos` checks many at a time and survives decoders that hang or crash.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from llava.video import FrameSampling, VideoError, open_video, sample_video
from llava.video.against_decord import against_decord, why_in_doubt
from llava.video.exact import ExactVideo

from ..run.process import Child, ChildDied, fork_server, stop_all, wait_any
from ..run.questions import HEAD, disguise

TEXT = bytes({*b"\t\n\r\f", *range(32, 256)} - {127})
"""The bytes that text of any encoding consists of. Video containers begin with others too."""


@dataclass(frozen=True)
class Finding:
    """The state of one video.

    Attributes:
        state: "ok", "missing" (no such file) or "broken" (it does not decode, or its checksum changed).
        cause: What is wrong; "" for "ok".
        sha256: The file's checksum as hex digits; None if it was not asked for, or the video is not ok.
        misread: Which frames raw decord gets wrong and why; "" if it gives the frames that are asked for.
    """

    state: Literal["ok", "missing", "broken"]
    cause: str = ""
    sha256: str | None = None
    misread: str = ""


def check_video(path: Path, frames: int, checksum: bool, sampling: FrameSampling, decord_seconds: float) -> Finding:
    """Decode some frames of a video as a run does, and compare with raw decord where the two may differ.

    Args:
        path: The video file.
        frames: How many frames to decode, evenly spaced from the first to the last.
        checksum: Whether to compute the file's sha256.
        sampling: The frames for which our reader and raw decord are compared.
        decord_seconds: The time limit for decord, in seconds.

    Returns:
        What was found. A file that cannot be read is a finding, not an exception.
    """
    if not path.exists():
        return Finding("missing", "no such file")
    try:
        if path.is_file() and (cause := not_a_video(path)):
            return Finding("broken", cause)
        with open_video(path) as video:
            video.sample(FrameSampling("uniform", max_frames=frames).distinct)
            misread = misread_by_decord(path, video, sampling, decord_seconds) if isinstance(video, ExactVideo) else ""
        return Finding("ok", sha256=sha256(path) if checksum else None, misread=misread)
    except VideoError as error:
        return Finding("broken", error.cause)
    except OSError as error:
        return Finding("broken", f"cannot be read ({error.strerror})")


def not_a_video(path: Path) -> str:
    """What the first bytes of a file show it to be instead of a video, or ""."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if cause := disguise(head):
        return cause
    return "is text, not a video" if head and not head.translate(None, TEXT) else ""


def misread_by_decord(path: Path, video: ExactVideo, sampling: FrameSampling, decord_seconds: float) -> str:
    """Describe which of the sampled frames raw decord gets wrong, and why.

    Args:
        path: The video file.
        video: The same file, opened by our reader.
        sampling: The frames to compare.
        decord_seconds: The time limit for decord, in seconds.

    Returns:
        The number of differing frames and the cause, or "" if all frames are the same.
    """
    if why_in_doubt(video) is None:
        return ""
    sampled = sample_video(video, sampling)
    against = against_decord(str(path), video, sampling.indices, sampled.distinct, sampled.rows, decord_seconds)
    if against.differ is None:
        return against.why
    return f"{against.differ} of {len(sampled.rows)} frames differ; {against.why}" if against.differ else ""


def sha256(path: Path) -> str:
    """The sha256 checksum of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_videos(
    videos: Iterable[Path], check: Callable[[Path], Finding], workers: int, timeout: float
) -> Generator[tuple[Path, Finding], None, None]:
    """Check many videos, each in a process of its own.

    A decoder that hangs or crashes costs only the video that it was working on.

    Args:
        videos: The files to check.
        check: Checks one file. It must be picklable.
        workers: How many files to check at the same time.
        timeout: Seconds after which a check is stopped and its video counts as broken.

    Yields:
        Each file with its finding, in the order in which the checks end.
    """
    # The server imports torch, the decoder and, if it is a script, __main__ once. Then a process starts fast.
    context = fork_server("__main__", __name__, "av")
    waiting = deque(videos)
    running: list[RunningCheck] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path = waiting.popleft()
                child = Child.start(context, report_finding, check, path, daemon=True)
                running.append(RunningCheck(path, child, time.monotonic() + timeout))
            for current, overdue in wait_any(running):
                running.remove(current)
                if overdue:
                    finding = Finding("broken", f"does not decode within {timeout:g} s")
                else:
                    finding = current.finding()
                current.child.stop(0.0)
                yield current.path, finding
    finally:  # the caller may stop before the last video
        stop_all([current.child for current in running], 0.0)


@dataclass(frozen=True, eq=False)
class RunningCheck:
    """A check that is under way.

    Attributes:
        path: The file that is checked.
        child: The process that checks it.
        deadline: When it counts as hanging, in seconds on `time.monotonic`'s clock.
    """

    path: Path
    child: Child
    deadline: float

    @property
    def children(self) -> list[Child]:
        """The process, as `wait_any` asks for it."""
        return [self.child]

    def finding(self) -> Finding:
        """The finding that the process sends, or how the process ended."""
        try:
            return self.child.receive()
        except ChildDied:
            return Finding("broken", f"the process that decoded it died ({self.child.kill()})")


def report_finding(connection: Connection, check: Callable[[Path], Finding], path: Path) -> None:
    """Check one file in a process of its own and send the finding."""
    connection.send(check(path))
