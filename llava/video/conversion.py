"""From a decoded frame to the RGB frame that a player shows: colours by the file's tags, the right way up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
"""Option of FFmpeg's scale filter by matrix coefficients (ITU-T H.273, table 4; 9 is BT.2020 with non-constant
luminance)."""
UNTAGGED = (0, 2, 3)
"""Matrix coefficients that say nothing: identity (RGB), unspecified, reserved. FFmpeg then takes BT.601, and so does
decord."""
RANGES = {1: "tv", 2: "pc"}
"""Option of FFmpeg's scale filter by colour range: 1 is limited (16 to 235), 2 is full."""


class Conversion(NamedTuple):
    """What the conversion of a frame depends on.

    Attributes:
        pixel_format: FFmpeg's name of the format, such as "yuv420p".
        width: Pixels, before the frame is turned.
        height: Pixels, before the frame is turned.
        matrix: Matrix coefficients (ITU-T H.273, as FFmpeg numbers them).
        colour_range: 1 for limited, 2 for full, 0 if not tagged.
        turn: a, b, c, d of the display matrix, 16.16 fixed point (see `upright`).
    """

    pixel_format: str
    width: int
    height: int
    matrix: int
    colour_range: int
    turn: tuple[int, int, int, int]


UPRIGHT = (1 << 16, 0, 0, 1 << 16)
"""The display matrix of a frame that is not turned."""
QUARTERS = (UPRIGHT, (0, 1 << 16, -1 << 16, 0), (-1 << 16, 0, 0, -1 << 16), (0, -1 << 16, 1 << 16, 0))
"""Display matrices that turn clockwise by 0, 90, 180 and 270 degrees."""


def why_decord_may_convert_differently(conversions: set[Conversion]) -> str | None:
    """Say why decord may convert frames of these kinds differently.

    Args:
        conversions: The kinds of frames of a video.

    Returns:
        The reason, or None if decord 0.6.0 gave the same frames in every file tried.
    """
    if any(one.turn not in QUARTERS for one in conversions):
        return "its frames are mirrored"
    if any(min(one.width, one.height) < NARROWEST for one in conversions):
        return "decord cannot handle frames of some widths below 50"
    return None


NARROWEST = 50
"""Pixels of a side. Below, decord cannot handle frames of some widths."""


class ToRgb:
    """Converts frames of one video to RGB.

    FFmpeg's scale filter converts with decord 0.6.0's settings, so that 8-bit colours equal decord's to the bit. PyAV's
    own `to_ndarray` ignores the colour tags in some releases.

    Args:
        conversions: The set to which the kinds of converted frames are added.
    """

    def __init__(self, conversions: set[Conversion]) -> None:
        self._conversions = conversions
        self._graph: Any = None
        self._made_for: Conversion | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Convert one frame.

        Args:
            frame: A decoded frame of PyAV.

        Returns:
            uint8 RGB [H, W, 3], the right way up.

        Raises:
            ValueError: If the colours have a matrix that FFmpeg's filter does not know, or if the frame is turned by
                other angles than quarters.
        """
        this = Conversion(
            frame.format.name, frame.width, frame.height, int(frame.colorspace), int(frame.color_range), _turn(frame)
        )
        if this != self._made_for:
            self._graph, self._made_for = _graph(frame), this
            self._conversions.add(this)
        self._graph.push(frame)
        return upright(self._graph.pull().to_ndarray(), this.turn)


def _graph(frame: Any) -> Any:
    """Return FFmpeg's filter graph for frames of this kind. Raises ValueError for an unknown matrix."""
    from av.filter import Graph

    settings = ["flags=bilinear"]
    if not frame.format.is_rgb and frame.colorspace not in UNTAGGED:
        if frame.colorspace not in MATRICES:
            raise ValueError(
                f"its colours are tagged with matrix {int(frame.colorspace)} of ITU-T H.273, which cannot be converted"
            )
        settings.append(f"in_color_matrix={MATRICES[frame.colorspace]}")
    if frame.color_range in RANGES and not frame.format.is_rgb:
        settings.append(f"in_range={RANGES[frame.color_range]}")
    graph = Graph()
    if hasattr(graph, "threads"):  # PyAV 17
        graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    steps = [source, graph.add("scale", ":".join(settings)), graph.add("format", "rgb24"), graph.add("buffersink")]
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    return graph


def _turn(frame: Any) -> tuple[int, int, int, int]:
    """Return a, b, c, d of the frame's display matrix, 16.16 fixed point."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return UPRIGHT


def upright(picture: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """Apply a display matrix to a frame (in MP4 the matrix of the track header, ISO/IEC 14496-12, 8.3.2).

    Args:
        picture: uint8 [H, W, 3] as stored.
        turn: a, b, c, d of the matrix, 16.16 fixed point: the point x, y is shown at ax + cy, bx + dy.

    Returns:
        A view of `picture`, turned by quarters and mirrored: [H, W, 3] or [W, H, 3].

    Raises:
        ValueError: If the matrix turns by other angles than quarters.
    """
    a, b, c, d = turn
    if b == c == 0 and a and d:
        across, down = a, d
    elif a == d == 0 and b and c:
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        raise ValueError(f"its display matrix turns it by other than quarters: {list(turn)}")
    return picture[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]


class FrameBuffer:
    """Collects the wanted frames of one video in one array, in whatever order they are decoded.

    Args:
        count: Number T of wanted frames.
        conversions: The set to which the kinds of converted frames are added.
    """

    def __init__(self, count: int, conversions: set[Conversion]):
        self._count = count
        self._frames: np.ndarray | None = None
        self._convert = ToRgb(conversions)

    def put(self, rows: Sequence[int], frame: Any) -> None:
        """Convert a frame and store it.

        Args:
            rows: Where it belongs in the array.
            frame: A decoded frame of PyAV.

        Raises:
            ValueError: If it has another size than the frames before it, or cannot be converted.
        """
        picture = self._convert(frame)
        if self._frames is None:
            self._frames = np.empty((self._count, *picture.shape), np.uint8)
        elif picture.shape != self._frames.shape[1:]:
            sizes = [self._frames.shape[1:3], picture.shape[:2]]
            raise ValueError(f"its frames differ in size (height, width): {sizes}")
        for row in rows:
            self._frames[row] = picture

    def frames(self) -> np.ndarray:
        """Return the array, uint8 RGB [T, H, W, 3]; [0, 0, 0, 3] if no frame was stored."""
        return np.empty((0, 0, 0, 3), np.uint8) if self._frames is None else self._frames
