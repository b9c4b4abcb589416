"""Where reading a video begins: open a file, take the frames that a protocol asks for, and say how they were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llava.video.exact import ExactVideo
from llava.video.raw_readers import DecordVideo, PyavVideo, TorchcodecVideo, require_raw
from llava.video.sampling import FrameSampling

EXACT = "exact"
"""Name of the default reader."""


class VideoError(Exception):
    """A video that cannot be read. The message is "<path>: <cause>".

    Attributes:
        path: The video file.
        cause: What is wrong with it.
    """

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class OpenVideo(Protocol):
    """A video that a reader has opened. Its length is the number of frames.

    Attributes:
        fps: Average frame rate.
        name: The reader. It may change while frames are read.
        why: The reason for this reader. It may change while frames are read.
    """

    fps: float
    name: str
    why: str

    def __len__(self) -> int:
        """Return the number of frames."""

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode frames.

        Args:
            indices: T frame numbers, ascending.

        Returns:
            uint8 RGB [T, H, W, 3].
        """

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        """Choose frames and decode them.

        Args:
            choose: Returns ascending frame numbers for a frame count and an average frame rate. The reader may call it
                again with another count; the last call counts.

        Returns:
            The T chosen frame numbers, and uint8 RGB [T, H, W, 3].
        """

    def times(self, indices: Sequence[int]) -> list[float]:
        """Return the second at which each frame is shown, with frame 0 at 0. Raw readers assume a constant rate."""


READERS: dict[str, Callable[[str], OpenVideo]] = {
    EXACT: ExactVideo,
    "decord": DecordVideo,
    "torchcodec": TorchcodecVideo,
    "pyav": PyavVideo,
}
"""Readers by name. "exact" gives the frames that a player shows. The others are the libraries of other harnesses."""


def require(decoder: str) -> None:
    """Check that a reader is known and installed.

    Args:
        decoder: A name of `READERS`.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If its library is not installed or does not start.
    """
    if decoder not in READERS:
        raise ValueError(f"decoder {decoder!r} is unknown; there are {', '.join(READERS)}")
    require_raw("pyav" if decoder == EXACT else decoder)


@contextmanager
def open_video(path: str | os.PathLike[str], decoder: str = EXACT) -> Iterator[OpenVideo]:
    """Open a video file for a with-block.

    Errors inside the with-block become a `VideoError`, except those in `CODE_ERRORS`: they come from code, not from the
    file.

    Args:
        path: The video file.
        decoder: A name of `READERS`.

    Yields:
        The open video.

    Raises:
        VideoError: If the file is missing, is no video, or cannot be read.
        ValueError: If the decoder is unknown.
        ImportError: If the decoder's library is not installed.
    """
    require(decoder)
    file = os.fspath(path)
    # decord says "Error reading <path>..." to all of these, and prints the cause on stderr only.
    if not os.path.exists(file):
        raise VideoError(file, "no such file")
    if not os.path.isfile(file):
        raise VideoError(file, f"not a file{_pictures_in(file)}")
    if os.path.getsize(file) == 0:
        raise VideoError(file, "the file is empty")
    try:
        yield READERS[decoder](file)
    except (VideoError, *CODE_ERRORS):
        raise
    except Exception as cause:  # decord raises DECORDError, RuntimeError, IndexError ... for the same damage
        raise VideoError(file, f"cannot be read by {decoder}: {_explain(cause)}") from cause


def _pictures_in(folder: str) -> str:
    """Say what to do with a folder if it holds pictures, as MVBench's older copies of TVQA do; "" if it does not."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    if not (count := sum(name.lower().endswith((".jpg", ".jpeg", ".png")) for name in names)):
        return ""
    return (
        f", but a folder of {count} pictures, which does not say how many are a second: make a video of the part that "
        "the question is about, for 3 per second with ffmpeg -framerate 3 -i PICTURES -pix_fmt yuv420p VIDEO"
    )


CODE_ERRORS = (AttributeError, TypeError, NameError, AssertionError)
"""Errors that no file raises, whatever is in it."""


def _explain(error: Exception) -> str:
    """Say in one line what an error of a decoder means."""
    first_line = str(error).strip().partition("\n")[0]  # a native stack trace follows
    for phrase, meaning in DECODER_ERRORS.items():
        if phrase in first_line:
            return meaning
    ours = type(error) in (ValueError, LookupError, IndexError)  # raised by this package with a full sentence
    return first_line if ours else f"{type(error).__name__}: {first_line}"


DECODER_ERRORS = {
    "Error reading": "it is not a video, or was cut off",
    "st_nb >= 0": "it has no frames, or decord does not know its codec, such as AV1; exact reads all that FFmpeg does",
    "av_read_frame failed": "it is damaged or was cut off",
    "avcodec_send_packet": "it is damaged or was cut off",
    "Unable to handle EOF": "its frames are not where the file says; it may be damaged",
    "broken metadata": "it does not say how long it is; convert it to mp4",
    "from_size == to_size": "decord cannot handle frames of this width; exact can",
    "End of file": "it is not a video, or was cut off",
    "Invalid data found": "it is not a video, is damaged, or was cut off",
}
"""What messages of decord and FFmpeg mean. decord's own are a line of its C++ code with numbers from its memory."""


@dataclass(frozen=True)
class Video:
    """T sampled frames of one video, and where they come from.

    Attributes:
        distinct: uint8 RGB [D, H, W, 3], the right way up. Each frame is stored once, even if it was sampled several
            times, as frames of short videos are.
        rows: For each of the T frames, its index in `distinct`.
        indices: T frame numbers, ascending, in the order in which frames are shown.
        times: Seconds that upstream's wrappers give for the T frames (see `FrameSampling.indices_and_times`).
        duration: Seconds of the whole video: `total_frames` / `fps`.
        total_frames: Number of frames of the whole video.
        fps: Average frame rate of the whole video.
        shown_at: Seconds at which a player shows the T frames, with frame 0 at 0.
        reader: The reader that read it.
        why: The reason for this reader.
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
        """The sampled frames, uint8 RGB [T, H, W, 3]. If frames repeat, each call makes a new array."""
        return self.distinct if len(self.rows) == len(self.distinct) else self.distinct[self.rows]

    @property
    def metadata(self) -> dict[str, Any]:
        """What transformers' processors take as `video_metadata`.

        With `do_sample_frames=False` they keep all frames. Qwen3-VL's processor makes its time stamps from it, and
        Qwen2.5-VL's the seconds per step of its positions.
        """
        return {
            "fps": self.fps,
            "total_num_frames": self.total_frames,
            "duration": self.duration,
            "frames_indices": stamped(self.indices, self.shown_at, self.fps),
            "video_backend": self.reader,
        }


def stamped(indices: Sequence[int], shown_at: Sequence[float], fps: float) -> list[int] | list[float]:
    """Return frame numbers from which a processor makes the right time stamps.

    A processor divides frame numbers by the average rate. That is wrong for videos of a variable rate.

    Args:
        indices: T frame numbers.
        shown_at: Seconds at which a player shows these frames.
        fps: Average frame rate.

    Returns:
        `indices`, or, if a frame is shown more than half a frame away from its number, the fractional numbers that
        give `shown_at`.
    """
    off = [abs(second * fps - index) for index, second in zip(indices, shown_at, strict=True)]  # in frames
    return list(indices) if max(off) <= 0.5 else [second * fps for second in shown_at]


def read_video(path: str | os.PathLike[str], sampling: FrameSampling, decoder: str = EXACT) -> Video:
    """Read the sampled frames of a video file.

    Frames are counted, not timed, as upstream counts them. In a video of a variable rate, uniform sampling takes steps
    of equally many frames, and `Video.times` assumes a constant rate. `Video.shown_at` has the true times.

    Args:
        path: The video file.
        sampling: Which frames to take.
        decoder: "exact" gives the frames that a player shows, from every file that FFmpeg reads. "decord", "torchcodec"
            and "pyav" give what these libraries give, for comparison with harnesses that use them. docs/video.md says
            where they differ.

    Returns:
        The frames and their origin.

    Raises:
        VideoError: If the file is missing, is no video, has no frames, was cut off, is damaged where it is read, or if
            the sampling is impossible for it.
        TypeError: If `sampling` is no `FrameSampling`.
        ValueError: If the decoder is unknown.
        ImportError: If the decoder's library is not installed.
    """
    with open_video(path, decoder) as video:
        return sample_video(video, sampling)


def sample_video(video: OpenVideo, sampling: FrameSampling) -> Video:
    """Read the sampled frames of an open video.

    Args:
        video: A video from `open_video`.
        sampling: Which frames to take.

    Returns:
        The frames and their origin.

    Raises:
        TypeError: If `sampling` is no `FrameSampling`.
        ValueError: If the sampling is impossible for this video.
        Exception: Whatever the reader raises. `open_video` turns it into a `VideoError`.
    """
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
