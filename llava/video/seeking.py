"""Decoding from the key frame before each wanted frame, with every decoded frame checked against the packets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np

from llava.video.bitstream import is_seek_point
from llava.video.conversion import Conversion, FrameBuffer
from llava.video.packets import Packets, opened

SKIPS_NONREFERENCE = ("h264",)
"""Decoders whose skip_frame NONREF leaves out exactly the frames that no other needs (ITU-T H.264: nal_ref_idc 0)."""


class PacketMismatch(Exception):
    """The decoded frames are not those that the packets announce. The file may still be whole."""


def decode_from_keys(
    file: str, packets: Packets, indices: Sequence[int], conversions: set[Conversion]
) -> tuple[np.ndarray, bool]:
    """Decode frames of a file whose packets prove which packet holds which frame (see `random_access`).

    Args:
        file: The video file.
        packets: Its packets.
        indices: T frame numbers, ascending.
        conversions: The set to which the kinds of converted frames are added.

    Returns:
        uint8 RGB [T, H, W, 3], and whether every key frame tried was a seek point.

    Raises:
        PacketMismatch: If other frames come than the packets announce.
        ValueError: If the file is damaged.
        av.FFmpegError: If FFmpeg cannot read or decode the file.
    """
    with Seeker(file, packets) as seeker:
        # For each key frame where decoding begins: {time stamp of a wanted frame: its rows in the result}.
        groups: dict[int, dict[int, list[int]]] = {}
        for row, position in enumerate(packets.shown[np.asarray(indices, np.int64)].tolist()):
            rows = groups.setdefault(seeker.start_before(position), {})
            rows.setdefault(int(packets.pts[position]), []).append(row)
        buffer = FrameBuffer(len(indices), conversions)
        for start, rows in groups.items():
            try:
                seeker.decode(start, rows, buffer)
            except PacketMismatch:
                if not seeker.skips:
                    raise
                seeker.skips = False
                seeker.decode(start, rows, buffer)
    return buffer.frames(), seeker.keys_are_seek_points


class Seeker:
    """Seeks and decodes in one file, inside a with-block.

    Args:
        file: The video file.
        packets: Its packets.

    Attributes:
        skips: Whether the decoder leaves out frames that no other frame needs, unless they are wanted.
    """

    def __init__(self, file: str, packets: Packets):
        self._file, self._packets = file, packets
        self._keys = sorted((int(packets.pts[position]), int(position)) for position in packets.key_positions)
        self._tested: dict[int, bool] = {0: True}  # is the key frame at this position a seek point?
        self._order = np.argsort(packets.pts, kind="stable")
        self._sorted = packets.pts[self._order]
        self.skips = packets.codec in SKIPS_NONREFERENCE

    def __enter__(self) -> Seeker:
        self._open_files = ExitStack()
        self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self._open_files.close()

    def _open(self) -> None:
        self._open_files.close()
        self._container, self._stream = self._open_files.enter_context(opened(self._file))

    @property
    def keys_are_seek_points(self) -> bool:
        """Whether every key frame tried so far is a seek point (see `is_seek_point`)."""
        return all(self._tested.values())

    def start_before(self, position: int) -> int:
        """Find where decoding must begin to get one frame.

        Args:
            position: Position of the frame's packet.

        Returns:
            Position of the last seek point that is shown no later than the frame, or 0, the first packet.
        """
        number = bisect_right(self._keys, (int(self._packets.pts[position]), position)) - 1
        while number > 0 and not self._is_seek_point(self._keys[number][1]):
            number -= 1
        return self._keys[number][1] if number > 0 else 0

    def _is_seek_point(self, position: int) -> bool:
        if position not in self._tested:
            packet = next(self._packets_from(position))
            self._tested[position] = is_seek_point(self._packets.codec, self._packets.setup, bytes(packet))
        return self._tested[position]

    def _packets_from(self, position: int) -> Iterator[Any]:
        """Seek to the key packet at `position` and return the packets from it on."""
        pts = int(self._packets.pts[position])
        self._container.seek(pts, stream=self._stream)
        if (found := self._skipped_to(position)) is not None:
            return found
        self._open()  # FFmpeg went too far or to the end of the file: look from the beginning
        if (found := self._skipped_to(position)) is not None:
            return found
        raise PacketMismatch(f"the packet with time stamp {pts} is not found again")

    def _skipped_to(self, position: int) -> Iterator[Any] | None:
        """Read on to the packet at `position`. Returns None if a later packet or none comes first."""
        packets = (packet for packet in self._container.demux(self._stream) if packet.size)
        for packet in packets:
            now = self._position(packet.pts)
            if now == position:
                return chain([packet], packets)
            if now is None or now > position:
                return None
        return None

    def _position(self, pts: int | None) -> int | None:
        """Return the position of the packet with this time stamp."""
        if pts is None:
            return None
        rank = int(np.searchsorted(self._sorted, pts))
        return int(self._order[rank]) if rank < len(self._order) and self._sorted[rank] == pts else None

    def decode(self, start: int, rows: dict[int, list[int]], buffer: FrameBuffer) -> None:
        """Decode from a key frame on and store the wanted frames.

        Args:
            start: Position of the key frame's packet.
            rows: Time stamps of the wanted frames, and their rows in `buffer`.
            buffer: Where the frames are stored.

        Raises:
            PacketMismatch: If other frames come than the packets announce, or if they come in another order.
            ValueError: If a frame is damaged.
        """
        packets = self._packets
        last = max(position for pts in rows if (position := self._position(pts)) is not None)
        fed = slice(start, last + 1)
        begin = int(packets.pts[start])
        # Frames that follow the key frame in the file but are shown before it may need frames from before it.
        announced = packets.pts[fed][~(packets.edited_out | packets.undisplayed)[fed] & (packets.pts[fed] >= begin)]
        due = iter(np.sort(announced).tolist())
        missing = set(rows)
        for frame in decode_packets(self._feed(start, packets.pts[fed].tolist(), rows), self._stream.codec_context):
            if frame.pts is not None and frame.pts < begin:
                continue
            if frame.is_corrupt:
                raise ValueError(f"it is damaged: the frame at {self._second(frame)} does not decode as a whole")
            if frame.pts != next((pts for pts in due if not self.skips or pts == frame.pts), None):
                raise PacketMismatch(f"the frame at {self._second(frame)} comes where the packets announce another")
            if frame.pts in missing:
                missing.remove(frame.pts)
                buffer.put(rows[frame.pts], frame)
        if missing or (not self.skips and next(due, None) is not None):
            raise PacketMismatch("pictures that the packets announce do not come")

    def _feed(self, start: int, stamps: Sequence[int], rows: dict[int, list[int]]) -> Iterator[Any]:
        """Yield the packets from `start` on. Before each, tell the decoder whether it may leave the frame out.

        Args:
            start: Position of the first packet.
            stamps: Time stamps of the packets, in decoding order.
            rows: Time stamps of the wanted frames, which must not be left out.
        """
        source, codec = self._packets_from(start), self._stream.codec_context
        codec.flush_buffers()
        codec.skip_frame = state = "DEFAULT"
        for pts, packet in zip(stamps, source, strict=False):
            if packet.pts != pts:
                raise PacketMismatch("packets come in another order when they are read again")
            if self.skips and (wanted := "DEFAULT" if pts in rows else "NONREF") != state:
                codec.skip_frame = state = wanted
            yield packet

    def _second(self, frame: Any) -> str:
        return "an unknown time" if frame.pts is None else f"{float(frame.pts * self._packets.time_base):.3f} s"


def decode_packets(packets: Iterator[Any], codec: Any) -> Iterator[Any]:
    """Decode packets to the last frame.

    Args:
        packets: PyAV's packets, in decoding order.
        codec: PyAV's codec context.

    Yields:
        PyAV's frames, in the order in which they are shown.
    """
    for packet in packets:
        yield from codec.decode(packet)
    yield from codec.decode(None)
