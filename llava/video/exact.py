"""The reader: frame i is the i-th picture that a player shows, from every file that FFmpeg decodes.

Decoding from the first packet on is what defines it. Where the packets prove which picture is which
(llava.video.known), decoding begins at the key picture before the one that is asked for, and pictures that no other
needs are left out. Each picture that comes is checked against the packets; with the first that does not fit, decoding
starts over from the beginning of the file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llava.video.entering import Unproven, decode_from_keys, decoded
from llava.video.known import EVERY_PACKET_SHOWS, why_from_start
from llava.video.packets import opened, read_packets
from llava.video.pictures import Conversion, Filled

CUT_ANYWHERE = ("mpegts", "mpeg")
"""FFmpeg's names of the streams (MPEG-TS, MPEG-PS) that recorders and splitters end where they like."""

LEAST_IN_ORDER = 0.9
"""Share of the known time stamps. Where fewer ascend, they do not tell when pictures are shown; AVI with B-frames, for
one, has those of decoding."""


class ExactVideo:
    """A video file, opened. fps: average frame rate. name, why: how it is read, for results. seeks: decoding begins at
    key pictures. converted: the formats, colours and turns of the frames read so far. false_keys: pictures before them
    are marked as keys, and are none.

    Raises, here and later, ValueError and PyAV's errors for a file that cannot be read, or is damaged where it is read.
    """

    def __init__(self, file: str):
        self._file = file
        self.packets = read_packets(file)
        self.fps = self.packets.fps
        why = why_from_start(self.packets)
        self._counted: int | None = None  # pictures, where only decoding all of them tells
        self._times: list[float] = []
        self._read_by_seeking(why is None, why or "the packets tell which picture is which")
        self.converted: set[Conversion] = set()
        self.false_keys = False

    def _read_by_seeking(self, seeks: bool, why: str) -> None:
        self.seeks = seeks
        self.name, self.why = "pyav, from key pictures" if seeks else "pyav, from the start", why

    def __len__(self) -> int:
        if self.seeks:
            return len(self.packets.shown)
        if self._counted is None:
            self._from_start([])
        assert self._counted is not None
        return self._counted

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 RGB [T, H, W, 3] of these frames, ascending, the right way up."""
        chosen, frames = self.sample(lambda count, fps: list(indices))
        assert chosen == list(indices)
        return frames

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        """The frames that `choose` picks, given how many there are and their average rate; their indices ascend.

        `choose` may be called again, where decoding shows that there are more or fewer than the packets say.
        """
        if self.seeks:
            indices = choose(len(self), self.fps)
            try:
                entered, keys_are_keys = decode_from_keys(self._file, self.packets, indices, self.converted)
                self.false_keys |= not keys_are_keys
                return indices, entered
            except Unproven as cause:
                self._read_by_seeking(False, str(cause))
        guess = len(self.packets.shown) if self._counted is None else self._counted
        indices = choose(guess, self.fps)
        frames = self._from_start(indices)
        if len(self) != guess:
            indices = choose(len(self), self.fps)
            frames = self._from_start(indices)
        if frames is None:
            raise IndexError(f"frame {max(indices)} is asked for, and there are {len(self)}")
        return indices, frames

    def times(self, indices: Sequence[int]) -> list[float]:
        """The second at which each of these frames is shown, the first frame of the video at 0."""
        if self.seeks:
            pts = self.packets.pts[self.packets.shown]
            return [float(int(pts[index] - pts[0]) * self.packets.time_base) for index in indices]
        len(self)  # decodes what there is
        return [self._times[index] for index in indices]

    def _from_start(self, indices: Sequence[int]) -> np.ndarray | None:
        """None where there are too few; counts them, or, if that is known, stops after the last one wanted."""
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        last = max(indices, default=-1)
        filled = Filled(len(indices), self.converted)
        stamps: list[int | None] = []
        with opened(self._file) as (container, stream):
            packets = (packet for packet in container.demux(stream) if packet.size)
            for frame in self._whole(decoded(packets, stream.codec_context)):
                if (count := len(stamps)) in rows:
                    filled.put(rows[count], frame)
                stamps.append(frame.pts)
                if self._counted is not None and count >= last:
                    return filled.frames()
        if not stamps:
            raise ValueError("it has no frames that decode")
        lost = len(self.packets.shown) - len(stamps)
        if lost > 0 and self.packets.container == "avi" and self.packets.codec in EVERY_PACKET_SHOWS:
            raise ValueError(f"it is damaged: {lost} of its packets give no picture")
        self._counted, self._times = len(stamps), self._seconds(stamps)
        return filled.frames() if last < len(stamps) else None

    def _whole(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames, if they are undamaged. A stream that may be cut anywhere has lost the picture it was cut in, no
        more: one at its very end is left out."""
        damaged = -1
        for count, frame in enumerate(frames):
            if damaged >= 0:
                break
            if frame.is_corrupt:
                damaged = count
            else:
                yield frame
        else:
            if self.packets.container in CUT_ANYWHERE:
                return
        if damaged >= 0:
            raise ValueError(f"it is damaged: frame {damaged} does not decode as a whole")

    def _seconds(self, stamps: Sequence[int | None]) -> list[float]:
        """When each picture is shown, the first one at 0. One whose time stamp is missing or out of order lies evenly
        between its neighbours; before the first and behind the last known one, pictures come at the average rate."""
        numbers = [number for number, stamp in enumerate(stamps) if stamp is not None]
        known = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
        order = _ascent(known)
        if not order or len(order) < LEAST_IN_ORDER * len(known):
            return [number / self.fps for number in range(len(stamps))]
        numbers, known = [numbers[place] for place in order], known[order]
        seconds = (known - known[0]).astype(float) * float(self.packets.time_base)
        times = np.interp(np.arange(len(stamps)), numbers, seconds)
        first, last = numbers[0], numbers[-1]
        if first > 0:
            times[:first] = np.arange(-first, 0) / self.fps
        if last < len(stamps) - 1:
            times[last + 1 :] += np.arange(1, len(stamps) - last) / self.fps
        return (times - times[0]).tolist()


def _ascent(values: np.ndarray) -> list[int]:
    """Positions, ascending, of the longest subsequence of values that ascends."""
    ends: list[int] = []  # of the subsequences of each length, the position whose value is the least
    least: list[int] = []  # that value
    before: list[int] = []  # the position that precedes each one in its subsequence, or -1
    for position, value in enumerate(values.tolist()):
        length = bisect_left(least, value)
        before.append(ends[length - 1] if length else -1)
        ends[length : length + 1], least[length : length + 1] = [position], [value]
    chosen = ends[-1:]
    while chosen and before[chosen[-1]] >= 0:
        chosen.append(before[chosen[-1]])
    return chosen[::-1]
