"""Frame sampling: which frames of a video a model sees."""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np

SamplingKind = Literal["uniform", "fps"]
"""The kinds of sampling; `FrameSampling` explains them."""

NUMBER = r"[0-9.eE+-]+"
TEXTS = (
    re.compile(r"uniform:(?P<max>\d+)"),
    re.compile(rf"fps:(?P<fps>{NUMBER}),max=(?P<max>\d+)(,min=(?P<min>\d+))?"),
    re.compile(rf"fps:(?P<fps>{NUMBER}):max(?P<max>\d+)"),  # as earlier versions wrote it
)
"""The forms of a sampling as a text."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video a model sees, by the formulas of lmms-eval's LLaVA wrappers.

    For example `FrameSampling("uniform", max_frames=32)` or `FrameSampling.parse("fps:2,max=64,min=8")`.

    Attributes:
        kind: "uniform" takes exactly `max_frames` frames from the first to the last, and repeats some if the video has
            fewer (lmms-eval's `llava_onevision`, and `llava_vid` with `force_sample`). "fps" takes about `fps` frames
            per second from the first frame on, or falls back to "uniform" if those are more than `max_frames`
            (lmms-eval's `llava_vid`), or fewer than `min_frames`.
        max_frames: Number of frames for "uniform", the most for "fps".
        fps: Frames per second for "fps", None for "uniform".
        min_frames: The fewest frames for "fps"; None for no such bound. A video that has fewer repeats some, and of one
            whose own rate is lower than `fps`, every frame counts. Without the bound, such a rate is an error.

    Raises:
        ValueError: If a setting is impossible, or belongs to the other kind.
    """

    kind: SamplingKind
    _: KW_ONLY
    max_frames: int
    fps: float | None = None
    min_frames: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise ValueError(f"kind must be one of {get_args(SamplingKind)}, not {self.kind!r}")
        if not isinstance(self.max_frames, Integral):
            raise ValueError(f"max_frames must be a whole number, not {self.max_frames!r}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.min_frames is not None:
            self._check_min(self.min_frames)
        if self.kind == "uniform" and self.fps is not None:
            raise ValueError(f"fps={self.fps!r} is for the kind 'fps': 'uniform' takes max_frames from any video")
        if self.kind == "fps" and not (isinstance(self.fps, Real) and math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, such as fps=1.0, not {self.fps!r}")

    def _check_min(self, least: int) -> None:
        if self.kind == "uniform":
            raise ValueError(f"min_frames={least!r} is for the kind 'fps': 'uniform' takes max_frames from any video")
        if not isinstance(least, Integral) or not 1 <= least <= self.max_frames:
            raise ValueError(f"min_frames must be a whole number from 1 to max_frames={self.max_frames}, not {least!r}")

    def __str__(self) -> str:
        if self.fps is None:
            return f"uniform:{self.max_frames}"
        rate = int(self.fps) if float(self.fps).is_integer() else float(self.fps)
        return f"fps:{rate},max={self.max_frames}" + (f",min={self.min_frames}" if self.min_frames is not None else "")

    @classmethod
    def parse(cls, text: str) -> FrameSampling:
        """Read the text that `str` writes.

        Args:
            text: "uniform:32", "fps:1,max=64" or "fps:2,max=64,min=8". "fps:1.0:max64", as earlier versions wrote it,
                means "fps:1,max=64".

        Returns:
            The sampling.

        Raises:
            ValueError: If the text has another form, or a number is impossible.
        """
        cause = ""
        found = next(filter(None, (form.fullmatch(text) for form in TEXTS)), None)
        if found is not None:
            part = found.groupdict()
            fps, least = part.get("fps"), part.get("min")
            try:
                return cls(
                    "uniform" if fps is None else "fps",
                    max_frames=int(part["max"]),
                    fps=None if fps is None else float(fps),
                    min_frames=None if least is None else int(least),
                )
            except ValueError as error:
                cause = f"{error}; "
        raise ValueError(
            f'bad frame sampling {text!r}: {cause}write "uniform:32", "fps:1,max=64" or "fps:2,max=64,min=8"'
        )

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
        count = self.max_frames
        if self.fps is not None:
            stride = round(avg_fps / self.fps)
            if stride == 0 and self.min_frames is None:
                raise ValueError(
                    f"avg_fps {avg_fps:g} is too low to take {self.fps:g} frames per second: lower fps, or give a min"
                )
            strided = range(0, total_frames, max(1, stride))
            if len(strided) < (self.min_frames or 0):
                count = self.min_frames or 0
            elif len(strided) <= self.max_frames:
                # At 1 fps a stride counts as a second though avg_fps is seldom whole: these are llava_vid's times, to
                # the bit. At other rates llava_vid's are wrong by a factor, and these are true.
                rate = stride if self.fps == 1 and stride else avg_fps
                return list(strided), [index / rate for index in strided]
        spread = np.linspace(0, total_frames - 1, count, dtype=int).tolist()
        return spread, [index / avg_fps for index in spread]
