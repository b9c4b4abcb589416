"""From a decoded frame to the picture that a player shows: colours by the file's tags, the right way up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
"""FFmpeg's filter option by matrix coefficients (ITU-T H.273, table 4; 9 is BT.2020 non-constant luminance)."""
UNTAGGED = (0, 2, 3)
"""Unspecified, reserved, and RGB's, which says nothing of a YUV picture. FFmpeg, and so decord, takes BT.601."""
RANGES = {1: "tv", 2: "pc"}
"""FFmpeg's filter option by colour range: limited (16 to 235), full."""


class Conversion(NamedTuple):
    """What converting a frame depends on. matrix, colour_range: codes of ITU-T H.273 as FFmpeg has them. turn: a, b, c,
    d of its display matrix."""

    pixel_format: str
    width: int
    height: int
    matrix: int
    colour_range: int
    turn: tuple[int, int, int, int]


UPRIGHT = (1 << 16, 0, 0, 1 << 16)
QUARTERS = (UPRIGHT, (0, 1 << 16, -1 << 16, 0), (-1 << 16, 0, 0, -1 << 16), (0, -1 << 16, 1 << 16, 0))
"""Turned clockwise by 0, 90, 180 and 270 degrees."""


def as_decord_has_it(conversions: set[Conversion]) -> str | None:
    """Why decord may give frames of these kinds otherwise; None where it gave the same in every file tried."""
    if any(one.turn not in QUARTERS for one in conversions):
        return "its frames are mirrored"
    if any(min(one.width, one.height) < NARROWEST for one in conversions):
        return "decord cannot handle frames of some widths below 50"
    return None


NARROWEST = 50


class ToRgb:
    """Converts frames of one video to uint8 RGB [H, W, 3], and notes in `conversions` what they were.

    FFmpeg's scale filter converts, with the settings that decord 0.6.0 has, so that 8-bit colours are decord's to the
    bit. PyAV's own `to_ndarray` is not used: it leaves the tags out in some releases and heeds them in others.
    """

    def __init__(self, conversions: set[Conversion]) -> None:
        self._conversions = conversions
        self._graph: Any = None
        self._made_for: Conversion | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """ValueError for colours that FFmpeg's filter does not know, and for pictures turned by odd angles."""
        this = Conversion(
            frame.format.name, frame.width, frame.height, int(frame.colorspace), int(frame.color_range), _turn(frame)
        )
        if this != self._made_for:
            self._graph, self._made_for = _graph(frame), this
            self._conversions.add(this)
        self._graph.push(frame)
        return upright(self._graph.pull().to_ndarray(), this.turn)


def _graph(frame: Any) -> Any:
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
    """a, b, c, d of the display matrix, 16.16 fixed point: a point x, y is shown at ax + cy, bx + dy."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return UPRIGHT


def upright(picture: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """The picture [H, W, 3] as it is to be shown: turned by quarters, mirrored. ValueError for other angles."""
    a, b, c, d = turn
    if b == c == 0 and a and d:
        across, down = a, d
    elif a == d == 0 and b and c:
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        raise ValueError(f"its display matrix turns it by other than quarters: {list(turn)}")
    return picture[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]


class Filled:
    """Pictures of one video, put in their rows of one array as they come: memory for the wanted ones only."""

    def __init__(self, count: int, conversions: set[Conversion]):
        self._count = count
        self._frames: np.ndarray | None = None
        self._convert = ToRgb(conversions)

    def put(self, rows: Sequence[int], frame: Any) -> None:
        picture = self._convert(frame)
        if self._frames is None:
            self._frames = np.empty((self._count, *picture.shape), np.uint8)
        elif picture.shape != self._frames.shape[1:]:
            sizes = [self._frames.shape[1:3], picture.shape[:2]]
            raise ValueError(f"its frames differ in size (height, width): {sizes}")
        for row in rows:
            self._frames[row] = picture

    def frames(self) -> np.ndarray:
        return np.empty((0, 0, 0, 3), np.uint8) if self._frames is None else self._frames
