"""Reading video files: which frames a protocol looks at, their pixels, and where in time they lie."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from llava.decoders import DECODERS, OpenVideo, require

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
        except ValueError as error:
            cause = f"{error}; "
        else:
            cause = ""
        raise ValueError(f'bad frame sampling {text!r}: {cause}write "uniform:32" or "fps:1.0:max64"')

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
def open_video(path: str | os.PathLike[str], decoder: str = "decord") -> Iterator[OpenVideo]:
    """A video file, opened by "decord", "torchcodec" or "pyav"; what goes wrong inside the with-block is a VideoError.

    VideoError if the file is missing or not a video; ValueError, ImportError for a decoder that there is not.
    """
    require(decoder)
    file = os.fspath(path)
    # decord says "Error reading <path>..." to all of these, and the cause only on stderr.
    if not os.path.exists(file):
        raise VideoError(file, "no such file")
    if not os.path.isfile(file):
        raise VideoError(file, "not a file")
    if os.path.getsize(file) == 0:
        raise VideoError(file, "the file is empty")
    try:
        yield DECODERS[decoder](file)
    except Exception as cause:  # decord raises DECORDError, RuntimeError, IndexError ... for the same damage
        raise VideoError(file, f"cannot be read by {decoder}: {_meaning(cause)}") from cause


def _meaning(error: Exception) -> str:
    """What an error of a decoder says, in one line."""
    first_line = str(error).strip().partition("\n")[0]  # a native stack trace follows
    for phrase, meaning in MEANINGS.items():
        if phrase in first_line:
            return meaning
    ours = type(error) in (ValueError, LookupError)  # of this package, and plain
    return first_line if ours else f"{type(error).__name__}: {first_line}"


MEANINGS = {
    "Error reading": "it is not a video, or was cut off",
    "st_nb >= 0": "it has no frames (sound only, or nothing), or its codec is unknown to decord",
    "av_read_frame failed": "it is damaged or was cut off",
    "avcodec_send_packet": "it is damaged or was cut off",
    "Unable to handle EOF": "its frames are not where the file says; it may be damaged",
    "broken metadata": "it does not say how long it is; converted to mp4 it will",
    "from_size == to_size": "decord cannot handle frames of this width; pyav can",
}
"""What decord means; its own words are a line of its C++ code and numbers from anywhere in memory."""


def read_video(path: str | os.PathLike[str], sampling: FrameSampling, decoder: str = "decord") -> Video:
    """Decode the sampled frames of a video file with "decord", which upstream uses, "torchcodec" or "pyav".

    VideoError if the file is missing, not a video, has no frames or does not decode; ValueError, ImportError for a
    decoder that there is not.

    As upstream has it through decord, with every decoder:
    - a video that its file says to be turned (a phone's display matrix) is turned: frames are the right way up;
    - frames are counted, not timed. Where they come at a variable rate, uniform sampling takes steps equal in frames,
      and `times` are as if all came at the average rate;
    - damage that the decoder conceals (flipped bits, a cut .mkv) goes unnoticed: only checksums of the data could tell.
    """
    with open_video(path, decoder) as video:
        total_frames, fps = len(video), video.fps
        indices, times = sampling.indices_and_times(total_frames, fps)
        frames = video.frames(indices)
    return Video(frames=frames, times=times, duration=total_frames / fps, total_frames=total_frames, fps=fps)
