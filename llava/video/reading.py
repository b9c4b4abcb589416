"""Videos in: the frames that a protocol asks for, where in time they lie, and how they were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llava.video.exact import ExactVideo
from llava.video.raw import DecordVideo, PyavVideo, TorchcodecVideo, require_raw
from llava.video.sampling import FrameSampling

EXACT = "exact"


class VideoError(Exception):
    """A video that cannot be read; the message is "<path>: <cause>"."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class OpenVideo(Protocol):
    """fps: average frame rate. name, why: which reader reads it, and for what reason; they may change with reading."""

    fps: float
    name: str
    why: str

    def __len__(self) -> int:
        """How many frames there are."""

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 RGB [T, H, W, 3] of these frames, ascending."""

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        """The frames that `choose` picks, given how many there are and their average rate: ascending indices, and
        `frames` of them. `choose` may be called more than once; the last call counts."""

    def times(self, indices: Sequence[int]) -> list[float]:
        """The second at which each of these frames is shown, frame 0 at 0; raw readers take the rate for constant."""


READERS: dict[str, Callable[[str], OpenVideo]] = {
    EXACT: ExactVideo,
    "decord": DecordVideo,
    "torchcodec": TorchcodecVideo,
    "pyav": PyavVideo,
}
"""The default, which gives the frames that a player shows, and what other harnesses read with, as it is."""


def require(decoder: str) -> None:
    """ValueError for an unknown decoder, ImportError for one that is not installed; both say what to do."""
    if decoder not in READERS:
        raise ValueError(f"decoder {decoder!r} is unknown; there are {', '.join(READERS)}")
    require_raw("pyav" if decoder == EXACT else decoder)


@contextmanager
def open_video(path: str | os.PathLike[str], decoder: str = EXACT) -> Iterator[OpenVideo]:
    """A video file, opened by one of READERS; what goes wrong inside the with-block is a VideoError, unless it is an
    error of whoever wrote the code there.

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
        yield READERS[decoder](file)
    except (VideoError, *PROGRAMMING):
        raise
    except Exception as cause:  # decord raises DECORDError, RuntimeError, IndexError ... for the same damage
        raise VideoError(file, f"cannot be read by {decoder}: {_meaning(cause)}") from cause


PROGRAMMING = (AttributeError, TypeError, NameError, AssertionError)
"""Errors of code, not of files: what no file raises, whatever is in it."""


def _meaning(error: Exception) -> str:
    """What an error of a decoder says, in one line."""
    first_line = str(error).strip().partition("\n")[0]  # a native stack trace follows
    for phrase, meaning in MEANINGS.items():
        if phrase in first_line:
            return meaning
    ours = type(error) in (ValueError, LookupError, IndexError)  # of this package, and plain
    return first_line if ours else f"{type(error).__name__}: {first_line}"


MEANINGS = {
    "Error reading": "it is not a video, or was cut off",
    "st_nb >= 0": "it has no frames, or decord does not know its codec, such as AV1; exact reads all that FFmpeg does",
    "av_read_frame failed": "it is damaged or was cut off",
    "avcodec_send_packet": "it is damaged or was cut off",
    "Unable to handle EOF": "its frames are not where the file says; it may be damaged",
    "broken metadata": "it does not say how long it is; converted to mp4 it will",
    "from_size == to_size": "decord cannot handle frames of this width; exact can",
    "End of file": "it is not a video, or was cut off",
    "Invalid data found": "it is not a video, is damaged, or was cut off",
}
"""What decord and FFmpeg mean; decord's words are a line of its C++ code and numbers from anywhere in memory."""


@dataclass(frozen=True)
class Video:
    """T sampled frames of one video, and what they came from.

    distinct: uint8 RGB [D, H, W, 3], the right way up: each frame once, however often it was sampled, which a short
    video's are. rows: of each of the T frames, where it is in `distinct`. indices: their numbers, ascending, in the
    order of showing. times: the second that upstream says each was taken at. duration: seconds of the whole video.
    total_frames: of the whole video. fps: its average frame rate. shown_at: the second at which a player shows each,
    frame 0 at 0. reader, why: what read it, and for what reason.
    """

    distinct: np.ndarray
    rows: list[int]
    indices: list[int]
    times: list[float]
    duration: float
    total_frames: int
    fps: float
    shown_at: list[float]
    reader: str
    why: str

    @property
    def frames(self) -> np.ndarray:
        """uint8 RGB [T, H, W, 3]; where frames repeat, a new array at each call."""
        return self.distinct if len(self.rows) == len(self.distinct) else self.distinct[self.rows]

    @property
    def metadata(self) -> dict[str, Any]:
        """What transformers' processors take as `video_metadata`; with do_sample_frames=False they keep all frames.
        Qwen3-VL's makes its time stamps of it, and Qwen2.5-VL's the seconds per step of its positions."""
        return {
            "fps": self.fps,
            "total_num_frames": self.total_frames,
            "duration": self.duration,
            "frames_indices": stamped(self.indices, self.shown_at, self.fps),
            "video_backend": self.reader,
        }


def stamped(indices: Sequence[int], shown_at: Sequence[float], fps: float) -> list[int] | list[float]:
    """The frames' numbers, of which a processor makes time stamps by the average rate; where a frame is shown more than
    half a frame from there, the fractions that give the seconds at which a player shows them."""
    off = [abs(second * fps - index) for index, second in zip(indices, shown_at, strict=True)]  # in frames
    return list(indices) if max(off) <= 0.5 else [second * fps for second in shown_at]


def read_video(path: str | os.PathLike[str], sampling: FrameSampling, decoder: str = EXACT) -> Video:
    """Decode the sampled frames of a video file.

    decoder: "exact" gives the pictures that a player shows, from every file that FFmpeg reads; "decord", "torchcodec"
    and "pyav" give what these give, for comparison with harnesses that use them. docs/video.md tells where they differ.

    VideoError if the file is missing, not a video, has no frames, is damaged where it is read or cut off; ValueError,
    ImportError for a decoder that there is not.

    Frames are counted, not timed, as upstream counts them. Where they come at a variable rate, uniform sampling takes
    steps equal in frames, and `times` are as if all came at the average rate; `shown_at` has the true ones.
    """
    with open_video(path, decoder) as video:
        return sample_video(video, sampling)


def sample_video(video: OpenVideo, sampling: FrameSampling) -> Video:
    """`read_video` of one that is open; raises what the reader raises, ValueError for an impossible sampling, and
    TypeError for what is none."""
    if not isinstance(sampling, FrameSampling):
        raise TypeError(f'sampling must be such as FrameSampling("uniform", max_frames=16), not {sampling!r}')
    numbers, distinct = video.sample(sampling.distinct)
    total_frames, fps = len(video), video.fps
    indices, times = sampling.indices_and_times(total_frames, fps)
    return Video(
        distinct=distinct,
        rows=[numbers.index(index) for index in indices],
        indices=indices,
        times=times,
        duration=total_frames / fps,
        total_frames=total_frames,
        fps=fps,
        shown_at=video.times(indices),
        reader=video.name,
        why=video.why,
    )
