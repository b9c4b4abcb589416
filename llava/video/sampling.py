"""Frame sampling: which frames of a video a model sees."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np

SamplingKind = Literal["uniform", "fps"]
"""The kinds of sampling; `FrameSampling` explains them."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video a model sees, by the formulas of lmms-eval's LLaVA wrappers.

    For example `FrameSampling("uniform", max_frames=32)` or `FrameSampling("fps", fps=1.0, max_frames=64)`.

    Attributes:
        kind: "uniform" takes exactly `max_frames` frames from the first to the last, and repeats some if the video has
            fewer (lmms-eval's `llava_onevision`, and `llava_vid` with `force_sample`). "fps" takes about `fps` frames
            per second from the first frame on, or falls back to "uniform" if those are more than `max_frames`
            (lmms-eval's `llava_vid`).
        max_frames: Number of frames for "uniform", the most for "fps".
        fps: Frames per second for "fps", None for "uniform".

    Raises:
        ValueError: If a setting is impossible, or belongs to the other kind.
    """

    kind: SamplingKind
    _: KW_ONLY
    max_frames: int
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise ValueError(f"kind must be one of {get_args(SamplingKind)}, not {self.kind!r}")
        if not isinstance(self.max_frames, Integral):
            raise ValueError(f"max_frames must be a whole number, not {self.max_frames!r}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.kind == "uniform" and self.fps is not None:
            raise ValueError(f"fps={self.fps!r} is for the kind 'fps': 'uniform' takes max_frames from any video")
        if self.kind == "fps" and not (isinstance(self.fps, Real) and math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, such as fps=1.0, not {self.fps!r}")

    def __str__(self) -> str:
        return f"uniform:{self.max_frames}" if self.fps is None else f"fps:{float(self.fps)}:max{self.max_frames}"

    @classmethod
    def parse(cls, text: str) -> FrameSampling:
        """Read the text that `str` writes.

        Args:
            text: "uniform:32" or "fps:1.0:max64".

        Returns:
            The sampling.

        Raises:
            ValueError: If the text has another form, or a number is impossible.
        """
        try:
            match text.split(":"):
                case ["uniform", frames]:
                    return cls("uniform", max_frames=int(frames))
                case ["fps", fps, limit] if limit.startswith("max"):
                    return cls("fps", fps=float(fps), max_frames=int(limit[len("max") :]))
        except ValueError as error:
            cause = f"{error}; "
        else:
            cause = ""
        raise ValueError(f'bad frame sampling {text!r}: {cause}write "uniform:32" or "fps:1.0:max64"')

    def indices(self, total_frames: int, avg_fps: float) -> list[int]:
        """Choose frame numbers.

        Args:
            total_frames: Number of frames of the video.
            avg_fps: Its average frame rate.

        Returns:
            T frame numbers, ascending; numbers repeat in short videos.

        Raises:
            ValueError: If there are no frames, or if the frame rate is no positive number or too low for `fps`.
        """
        return self.indices_and_times(total_frames, avg_fps)[0]

    def distinct(self, total_frames: int, avg_fps: float) -> list[int]:
        """Choose frame numbers as `indices` does, and return each number once."""
        return sorted(set(self.indices(total_frames, avg_fps)))

    def indices_and_times(self, total_frames: int, avg_fps: float) -> tuple[list[int], list[float]]:
        """Choose frame numbers as `indices` does, with the time that lmms-eval's `llava_vid` gives for each.

        Args:
            total_frames: Number of frames of the video.
            avg_fps: Its average frame rate.

        Returns:
            T frame numbers, and T seconds that assume a constant frame rate.

        Raises:
            ValueError: As for `indices`.
        """
        if total_frames < 1:
            raise ValueError("there are no frames to sample")
        if not (math.isfinite(avg_fps) and avg_fps > 0):
            raise ValueError(f"avg_fps must be a positive number, not {avg_fps}")
        if self.fps is not None:
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
