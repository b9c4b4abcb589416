"""Reading video files: which frames a protocol looks at, their pixels, and where in time they lie."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

SamplingKind = Literal["uniform", "fps"]


class VideoError(Exception):
    """A video that cannot be read; the message is "<path>: <cause>"."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video: uint8 RGB [T, H, W, 3], the second each was taken at, and what it came from."""

    frames: np.ndarray
    times: list[float]
    duration: float  # seconds of the whole video
    total_frames: int  # of the whole video
    fps: float  # average frame rate of the whole video


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are looked at; the formulas are those of lmms-eval's LLaVA wrappers.

    "uniform": exactly `max_frames` frames from first to last, some repeated when the video has fewer
    (llava_onevision, and llava_vid with force_sample). "fps": about `fps` frames per second from the first on,
    or "uniform" where those would be more than `max_frames` (llava_vid). `fps` is read by "fps" only.
    """

    kind: SamplingKind
    max_frames: int
    fps: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise ValueError(f"kind must be one of {get_args(SamplingKind)}, not {self.kind!r}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {self.max_frames}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, not {self.fps}")

    def __str__(self) -> str:
        return f"uniform:{self.max_frames}" if self.kind == "uniform" else f"fps:{float(self.fps)}:max{self.max_frames}"

    @classmethod
    def parse(cls, text: str) -> FrameSampling:
        """The inverse of `str`: "uniform:32" or "fps:1.0:max64"; ValueError for anything else."""
        try:
            match text.split(":"):
                case ["uniform", frames]:
                    return cls("uniform", int(frames))
                case ["fps", fps, limit] if limit.startswith("max"):
                    return cls("fps", int(limit[len("max") :]), float(fps))
        except ValueError as cause:
            raise ValueError(f"bad frame sampling {text!r}: {cause}") from cause
        raise ValueError(f'bad frame sampling {text!r}: write "uniform:32" or "fps:1.0:max64"')

    def indices(self, total_frames: int, avg_fps: float) -> list[int]:
        """Ascending frame numbers out of `total_frames`; ValueError for no frames or a frame rate too low for `fps`."""
        return self.indices_and_times(total_frames, avg_fps)[0]

    def indices_and_times(self, total_frames: int, avg_fps: float) -> tuple[list[int], list[float]]:
        """`indices`, and the second each of these frames is said to be at."""
        if total_frames < 1:
            raise ValueError("there are no frames to sample")
        if not (math.isfinite(avg_fps) and avg_fps > 0):
            raise ValueError(f"avg_fps must be a positive number, not {avg_fps}")
        if self.kind == "fps":
            stride = round(avg_fps / self.fps)
            if stride == 0:
                raise ValueError(f"avg_fps {avg_fps:g} is too low to take {self.fps:g} frames per second")
            strided = range(0, total_frames, stride)
            if len(strided) <= self.max_frames:
                # A stride counts as 1/fps seconds though avg_fps is seldom whole: at 1 fps this is llava_vid's time
                # to the bit; at other rates llava_vid leaves the rate out and is wrong by that factor.
                return list(strided), [index / (stride * self.fps) for index in strided]
        spread = np.linspace(0, total_frames - 1, self.max_frames, dtype=int).tolist()
        return spread, [index / avg_fps for index in spread]


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Any]:
    """decord's reader of a video file; whatever goes wrong inside the with-block is a VideoError.

    VideoError if the file is missing or not a video; ImportError without decord.
    """
    try:
        from decord import VideoReader, cpu
    except ImportError as cause:
        raise ImportError("reading videos needs decord: pip install decord") from cause

    file = os.fspath(path)
    # decord says "Error reading <path>..." to all of these, and the cause only on stderr.
    if not os.path.exists(file):
        raise VideoError(file, "no such file")
    if not os.path.isfile(file):
        raise VideoError(file, "not a file")
    if os.path.getsize(file) == 0:
        raise VideoError(file, "the file is empty")
    try:
        yield VideoReader(file, ctx=cpu(0), num_threads=1)
    except Exception as cause:  # decord raises DECORDError, RuntimeError, IndexError ... for the same damage
        # Only the first line: a native stack trace follows.
        first_line = str(cause).partition("\n")[0]
        raise VideoError(file, f"cannot be read ({type(cause).__name__}: {first_line})") from cause


def read_video(path: str | os.PathLike[str], sampling: FrameSampling) -> Video:
    """Decode the sampled frames of a video file.

    VideoError if the file is missing, not a video, has no frames or does not decode; ImportError without decord.
    Damage a decoder conceals (flipped bits, a cut .mkv) goes unnoticed: only checksums of the data could tell.
    """
    with open_video(path) as reader:
        total_frames, fps = len(reader), float(reader.get_avg_fps())
        indices, times = sampling.indices_and_times(total_frames, fps)
        frames = reader.get_batch(indices).asnumpy()
    return Video(frames=frames, times=times, duration=total_frames / fps, total_frames=total_frames, fps=fps)
