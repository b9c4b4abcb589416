"""Decoding a file from some of its key pictures on, each picture checked against what the packets say."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np

from llava.video.bitstream import is_entry
from llava.video.packets import Packets, opened
from llava.video.pictures import Conversion, Filled

SKIPS_UNNEEDED = ("h264",)
"""Decoders whose skip_frame NONREF leaves out what no other picture needs, by the standard (nal_ref_idc 0)."""


class Unproven(Exception):
    """What was decoded is not what the packets say; nothing is said against the file."""


def decode_from_keys(
    file: str, packets: Packets, indices: Sequence[int], conversions: set[Conversion]
) -> tuple[np.ndarray, bool]:
    """uint8 RGB [T, H, W, 3] of these frames, ascending; and whether all keys before them that the file marks as such
    are. Notes in `conversions` how frames were converted.

    Unproven where pictures come that the packets do not announce; ValueError and PyAV's errors for damage.
    """
    with Entering(file, packets) as source:
        # By the key picture that decoding begins with: {time stamp: rows of the result}.
        groups: dict[int, dict[int, list[int]]] = {}
        for row, position in enumerate(packets.shown[np.asarray(indices, np.int64)].tolist()):
            rows = groups.setdefault(source.entry_before(position), {})
            rows.setdefault(int(packets.pts[position]), []).append(row)
        filled = Filled(len(indices), conversions)
        for entry, rows in groups.items():
            try:
                source.decode(entry, rows, filled)
            except Unproven:
                if not source.skips:
                    raise
                source.skips = False
                source.decode(entry, rows, filled)
    return filled.frames(), source.all_good


class Entering:
    """An open file. skips: leave out pictures that no other needs, unless they are wanted."""

    def __init__(self, file: str, packets: Packets):
        self._file, self._packets = file, packets
        self._keys = sorted((int(packets.pts[position]), int(position)) for position in packets.key_positions)
        self._good: dict[int, bool] = {0: True}
        self._order = np.argsort(packets.pts, kind="stable")
        self._sorted = packets.pts[self._order]
        self.skips = packets.codec in SKIPS_UNNEEDED

    def __enter__(self) -> Entering:
        self._open_files = ExitStack()
        self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self._open_files.close()

    def _open(self) -> None:
        self._open_files.close()
        self._container, self._stream = self._open_files.enter_context(opened(self._file))

    @property
    def all_good(self) -> bool:
        return all(self._good.values())

    def entry_before(self, position: int) -> int:
        """Position of the last key packet that is shown no later than this one and from which decoding gives what
        decoding from the start gives; 0, the first packet, where there is no other."""
        number = bisect_right(self._keys, (int(self._packets.pts[position]), position)) - 1
        while number > 0 and not self._is_good(self._keys[number][1]):
            number -= 1
        return self._keys[number][1] if number > 0 else 0

    def _is_good(self, position: int) -> bool:
        if position not in self._good:
            packet = next(self._from(position))
            self._good[position] = is_entry(self._packets.codec, self._packets.setup, bytes(packet))
        return self._good[position]

    def _from(self, position: int) -> Iterator[Any]:
        """The packets of the stream from this key packet on."""
        pts = int(self._packets.pts[position])
        self._container.seek(pts, stream=self._stream)
        if (found := self._skipped_to(position)) is not None:
            return found
        self._open()  # the container sought to what comes after it, or to its end: from the beginning then
        if (found := self._skipped_to(position)) is not None:
            return found
        raise Unproven(f"the packet with time stamp {pts} is not found again")

    def _skipped_to(self, position: int) -> Iterator[Any] | None:
        packets = (packet for packet in self._container.demux(self._stream) if packet.size)
        for packet in packets:
            now = self._position(packet.pts)
            if now == position:
                return chain([packet], packets)
            if now is None or now > position:
                return None
        return None

    def _position(self, pts: int | None) -> int | None:
        """Of the packet with this time stamp."""
        if pts is None:
            return None
        rank = int(np.searchsorted(self._sorted, pts))
        return int(self._order[rank]) if rank < len(self._order) and self._sorted[rank] == pts else None

    def decode(self, entry: int, rows: dict[int, list[int]], filled: Filled) -> None:
        """Put the pictures with these time stamps in their rows, decoding from this key packet on.

        Unproven where other pictures come than the packets announce, or in another order.
        """
        packets = self._packets
        last = max(position for pts in rows if (position := self._position(pts)) is not None)
        fed = slice(entry, last + 1)
        begin = int(packets.pts[entry])
        # Pictures that follow the entry in the file but are shown before it may need what comes before it.
        announced = packets.pts[fed][~(packets.hidden | packets.silent)[fed] & (packets.pts[fed] >= begin)]
        due = iter(np.sort(announced).tolist())
        missing = set(rows)
        for frame in decoded(self._feed(entry, packets.pts[fed].tolist(), rows), self._stream.codec_context):
            if frame.pts is not None and frame.pts < begin:
                continue
            if frame.is_corrupt:
                raise ValueError(f"it is damaged: the frame at {self._second(frame)} does not decode as a whole")
            if frame.pts != next((pts for pts in due if not self.skips or pts == frame.pts), None):
                raise Unproven(f"the frame at {self._second(frame)} comes where the packets announce another")
            if frame.pts in missing:
                missing.remove(frame.pts)
                filled.put(rows[frame.pts], frame)
        if missing or (not self.skips and next(due, None) is not None):
            raise Unproven("pictures that the packets announce do not come")

    def _feed(self, entry: int, stamps: Sequence[int], rows: dict[int, list[int]]) -> Iterator[Any]:
        """The packets from `entry` on, which have these time stamps; before each, the decoder is told whether it may
        leave it out."""
        source, codec = self._from(entry), self._stream.codec_context
        codec.flush_buffers()
        codec.skip_frame = state = "DEFAULT"
        for pts, packet in zip(stamps, source, strict=False):
            if packet.pts != pts:
                raise Unproven("packets come in another order when they are read again")
            if self.skips and (wished := "DEFAULT" if pts in rows else "NONREF") != state:
                codec.skip_frame = state = wished
            yield packet

    def _second(self, frame: Any) -> str:
        return "an unknown time" if frame.pts is None else f"{float(frame.pts * self._packets.time_base):.3f} s"


def decoded(packets: Iterator[Any], codec: Any) -> Iterator[Any]:
    """The pictures of these packets, to the last one."""
    for packet in packets:
        yield from codec.decode(packet)
    yield from codec.decode(None)
