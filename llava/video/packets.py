"""The packets of a video file: what it says of its frames before any of them is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from llava.video.bitstream import undisplayed_test
from llava.video.damage import why_damaged
from llava.video.mp4 import SampleTable, sample_table

NO_TIME = np.iinfo(np.int64).min
"""A time stamp that the file does not give: FFmpeg's AV_NOPTS_VALUE."""
HEADER_HAS_DURATION = ("matroska", "flv", "asf")
"""Containers with a duration in the header. FFmpeg reads them to an early end without an error."""


@dataclass(frozen=True)
class Packets:
    """The N packets of a file's video stream, in decoding order.

    Attributes:
        container: FFmpeg's names of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        codec: FFmpeg's name of the decoder.
        setup: The decoder's configuration (FFmpeg's extradata, such as avcC or hvcC), or b"".
        time_base: Seconds per unit of `pts`.
        fps: Average frame rate, 0.0 if unknown.
        pts: int64 [N], when each packet is shown, or `NO_TIME`.
        key: bool [N], marked by the container as a key frame.
        edited_out: bool [N], decoded but not shown, because the edit list leaves it out (ISO/IEC 14496-12, 8.6.6).
        undisplayed: bool [N], decoded but not shown, because the codec says so (such as VP8's and VP9's alternate
            reference frames).
    """

    container: str
    codec: str
    setup: bytes
    time_base: Fraction
    fps: float
    pts: np.ndarray
    key: np.ndarray
    edited_out: np.ndarray
    undisplayed: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def shown(self) -> np.ndarray:
        """Positions of the packets that are shown, in the order of showing: int64 [frames]."""
        visible = np.flatnonzero(~(self.edited_out | self.undisplayed))
        return visible[np.argsort(self.pts[visible], kind="stable")]

    @cached_property
    def key_positions(self) -> np.ndarray:
        """Positions of the packets that are marked as key frames: int64 [keys], ascending."""
        return np.flatnonzero(self.key)


@contextmanager
def opened(file: str) -> Iterator[tuple[Any, Any]]:
    """Open a file with PyAV for a with-block.

    Args:
        file: The video file.

    Yields:
        PyAV's container and its video stream. The stream decodes in one thread.

    Raises:
        ValueError: If the file has no video stream, only a cover picture, or a codec that FFmpeg does not know.
        av.FFmpegError: If FFmpeg cannot open the file.
    """
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
    """Read what a file says of its video packets.

    Of an MP4 or MOV file only the header is read, if that says everything. Other files are read to the end.

    Args:
        file: The video file.

    Returns:
        The packets of its video stream.

    Raises:
        ValueError: If the file has no video or no frames, is damaged, or was cut off.
        av.FFmpegError: If FFmpeg cannot read the file.
    """
    with opened(file) as (container, stream):
        if (damage := why_damaged(file, container.format.name, stream.id)) is not None:
            raise ValueError(damage)
        table = None
        if "mp4" in container.format.name and undisplayed_test(stream.codec_context.name) is None:
            table = sample_table(file, stream.id, stream.time_base)
        pts, key, edited_out, undisplayed = (
            _from_table(container, stream, table) if table else _from_file(container, stream)
        )
        if not len(pts):
            raise ValueError("it has no frames")
        return Packets(
            container=container.format.name,
            codec=stream.codec_context.name,
            setup=bytes(stream.codec_context.extradata or b""),
            time_base=stream.time_base,
            fps=_frame_rate(stream, pts[~(edited_out | undisplayed)]),
            pts=pts,
            key=key,
            edited_out=edited_out,
            undisplayed=undisplayed,
        )


def _frame_rate(stream: Any, shown: np.ndarray) -> float:
    """Return the container's average frame rate, or the rate of the time stamps if the former is off by 20 times."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if len(shown) > 1 and shown.min() != NO_TIME:
        seconds = float(int(shown.max() - shown.min()) * stream.time_base)
        if seconds > 0 and not 0.05 < rate * seconds / (len(shown) - 1) < 20:
            return (len(shown) - 1) / seconds
    return rate


def _from_table(container: Any, stream: Any, table: SampleTable) -> tuple[np.ndarray, ...]:
    """Return pts, key, edited_out and undisplayed, as `Packets` has them, from an MP4 sample table."""
    first = next((packet for packet in container.demux(stream) if packet.size), None)
    if first is None or first.pts is None:
        raise ValueError("it is damaged or was cut off: its first frame is not there")
    none = np.zeros(len(table.pts), bool)
    # FFmpeg shifts all time stamps by the same amount, so that the first frame is shown where the edit list says.
    return table.pts + (first.pts - table.pts[0]), table.key, none, none


def _from_file(container: Any, stream: Any) -> tuple[np.ndarray, ...]:
    """Return pts, key, edited_out and undisplayed, as `Packets` has them, from every packet of the file."""
    pts, flags = array("q"), bytearray()
    is_undisplayed = undisplayed_test(stream.codec_context.name)
    ends: dict[Fraction, int] = {}  # latest end of all streams with the same time base
    for packet in container.demux():
        if packet.pts is not None:
            until = packet.pts + (packet.duration or 0)
            ends[packet.time_base] = max(ends.get(packet.time_base, 0), until)
        if packet.stream_index != stream.index or not packet.size:
            continue
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        undisplayed = is_undisplayed is not None and is_undisplayed(packet)
        flags.append(packet.is_keyframe | packet.is_discard << 1 | undisplayed << 2)
    _require_whole(container, max((float(end * unit) for unit, end in ends.items()), default=0.0))
    bits = np.frombuffer(bytes(flags), np.uint8)
    return np.frombuffer(pts, np.int64), bits & 1 != 0, bits & 2 != 0, bits & 4 != 0


def _require_whole(container: Any, end: float) -> None:
    """Raise ValueError if the packets end, at second `end`, long before the header's duration."""
    if container.duration and any(name in container.format.name for name in HEADER_HAS_DURATION):
        start = (container.start_time or 0) if container.format.name == "flv" else 0  # others count from 0
        expected = (container.duration + start) / 1_000_000
        if expected - end > max(1.0, 0.01 * expected):
            raise ValueError(f"it was cut off: its header says {expected:.1f} s, but it ends after {end:.1f} s")
