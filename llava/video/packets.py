"""What a video file says of its pictures before any of them is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from llava.video.bitstream import is_silent
from llava.video.damage import why_damaged
from llava.video.mp4 import SampleTable, sample_table

NO_TIME = np.iinfo(np.int64).min
"""Stands for a time stamp that the file does not give; FFmpeg's own value for it."""
SAY_HOW_LONG = ("matroska", "flv", "asf")
"""Containers whose header says how long they are, and which FFmpeg reads to an early end without a word."""


@dataclass(frozen=True)
class Packets:
    """The packets of a file's video stream, in the order in which they are decoded; N of them.

    container: FFmpeg's names of the format, as "mov,mp4,m4a,3gp,3g2,mj2". codec: FFmpeg's name of the decoder.
    setup: the decoder's set-up data (avcC, hvcC), or b"". time_base: seconds of a unit of pts. fps: average frame rate,
    0.0 if unknown. pts: int64 [N], when each is
    shown, NO_TIME where the file does not say. key: bool [N], marked as needing no other. hidden: bool [N], decoded but
    not shown, by an edit list. silent: bool [N], that the codec itself does not show (VP8's and VP9's golden frames).
    """

    container: str
    codec: str
    setup: bytes
    time_base: Fraction
    fps: float
    pts: np.ndarray
    key: np.ndarray
    hidden: np.ndarray
    silent: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def shown(self) -> np.ndarray:
        """int64 [frames]: positions of the packets that are shown, in the order in which they are."""
        visible = np.flatnonzero(~(self.hidden | self.silent))
        return visible[np.argsort(self.pts[visible], kind="stable")]

    @cached_property
    def key_positions(self) -> np.ndarray:
        return np.flatnonzero(self.key)


@contextmanager
def opened(file: str) -> Iterator[tuple[Any, Any]]:
    """A file's PyAV container and video stream. ValueError where it has none."""
    import av

    # "file:" keeps FFmpeg from taking a colon in the name for a protocol.
    with av.open(f"file:{file}", metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError("it has no pictures")
        if stream.disposition & type(stream.disposition).attached_pic:
            raise ValueError("it has no video, only a cover picture")
        if stream.codec_context is None:
            raise ValueError("its codec is unknown to FFmpeg")
        stream.codec_context.thread_count = 1
        yield container, stream


def read_packets(file: str) -> Packets:
    """The packets of a file; reads all of it, but of an MP4 file its header only, where that says everything.

    ValueError for a file without video or pictures, and for one that ends before its header says.
    """
    with opened(file) as (container, stream):
        if (damage := why_damaged(file, container.format.name, stream.id)) is not None:
            raise ValueError(damage)
        table = None
        if "mp4" in container.format.name and is_silent(stream.codec_context.name) is None:
            table = sample_table(file, stream.id, stream.time_base)
        pts, key, hidden, silent = _of_table(container, stream, table) if table else _of_file(container, stream)
        if not len(pts):
            raise ValueError("it has no frames")
        return Packets(
            container=container.format.name,
            codec=stream.codec_context.name,
            setup=bytes(stream.codec_context.extradata or b""),
            time_base=stream.time_base,
            fps=_rate(stream, pts[~(hidden | silent)]),
            pts=pts,
            key=key,
            hidden=hidden,
            silent=silent,
        )


def _rate(stream: Any, shown: np.ndarray) -> float:
    """Pictures per second as the container has it, or, where that is none or nonsense, as their times have it."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if len(shown) > 1 and shown.min() != NO_TIME:
        seconds = float(int(shown.max() - shown.min()) * stream.time_base)
        if seconds > 0 and not 0.05 < rate * seconds / (len(shown) - 1) < 20:
            return (len(shown) - 1) / seconds
    return rate


def _of_table(container: Any, stream: Any, table: SampleTable) -> tuple[np.ndarray, ...]:
    first = next((packet for packet in container.demux(stream) if packet.size), None)
    if first is None or first.pts is None:
        raise ValueError("it is damaged or was cut off: its first frame is not there")
    none = np.zeros(len(table.pts), bool)
    # FFmpeg moves the time stamps so that the first picture is shown where the edit list says; all of them alike.
    return table.pts + (first.pts - table.pts[0]), table.key, none, none


def _of_file(container: Any, stream: Any) -> tuple[np.ndarray, ...]:
    pts, flags = array("q"), bytearray()
    looks_silent = is_silent(stream.codec_context.name)
    ends: dict[Fraction, int] = {}  # of all streams, by their time base
    for packet in container.demux():
        if packet.pts is not None:
            until = packet.pts + (packet.duration or 0)
            ends[packet.time_base] = max(ends.get(packet.time_base, 0), until)
        if packet.stream_index != stream.index or not packet.size:
            continue
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        silent = looks_silent is not None and looks_silent(packet)
        flags.append(packet.is_keyframe | packet.is_discard << 1 | silent << 2)
    _require_whole(container, max((float(end * unit) for unit, end in ends.items()), default=0.0))
    bits = np.frombuffer(bytes(flags), np.uint8)
    return np.frombuffer(pts, np.int64), bits & 1 != 0, bits & 2 != 0, bits & 4 != 0


def _require_whole(container: Any, ends: float) -> None:
    """ValueError for a file that was cut off."""
    if container.duration and any(name in container.format.name for name in SAY_HOW_LONG):
        begins = (container.start_time or 0) if container.format.name == "flv" else 0  # others count from 0
        says = (container.duration + begins) / 1_000_000
        if says - ends > max(1.0, 0.01 * says):
            raise ValueError(f"it was cut off: it says that it lasts {says:.1f} s, and ends after {ends:.1f} s")
