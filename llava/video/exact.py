"""The default reader: frame i is the i-th frame that a player shows, from every file that FFmpeg decodes.

Decoding from the first packet on defines the right frames. If the packets prove which packet holds which frame
(`random_access`), decoding begins at the key frame before a wanted frame, and skips frames that no other needs
(`seeking`). Each decoded frame is checked against the packets. After the first mismatch the reader decodes from the
start of the file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llava.video.conversion import Conversion, FrameBuffer
from llava.video.packets import opened, read_packets
from llava.video.random_access import EVERY_PACKET_SHOWS, why_from_start
from llava.video.seeking import PacketMismatch, decode_from_keys, decode_packets

CUT_ANYWHERE = ("mpegts", "mpeg")
"""FFmpeg's names of MPEG-TS and MPEG-PS. Recorders and splitters end such files anywhere."""

MIN_ORDERED_SHARE = 0.9
"""Least share of the known time stamps that must ascend. If fewer do, they do not say when frames are shown: AVI with
B-frames has the times of decoding."""


class ExactVideo:
    """An open video file; an `OpenVideo`.

    Args:
        file: The video file.

    Attributes:
        packets: What the file says of its packets.
        fps: Average frame rate.
        name: "pyav, from key pictures" or "pyav, from the start".
        why: The reason for this way of reading.
        seeks: Whether decoding begins at key frames.
        converted: The kinds of frames read so far.
        false_keys: Whether frames were found that are marked as key frames but are no seek points.

    Raises:
        ValueError: Here and in every method, if the file is damaged where it is read or holds no video.
        av.FFmpegError: Here and in every method, if FFmpeg cannot read or decode the file.
    """

    def __init__(self, file: str):
        self._file = file
        self.packets = read_packets(file)
        self.fps = self.packets.fps
        why = why_from_start(self.packets)
        self._counted: int | None = None  # number of frames, if it is known from decoding all of them
        self._times: list[float] = []
        self._set_mode(why is None, why or "the packets tell which picture is which")
        self.converted: set[Conversion] = set()
        self.false_keys = False

    def _set_mode(self, seeks: bool, why: str) -> None:
        """Read by seeking, or from the start, for the reason `why`."""
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
        """Decode frames.

        Args:
            indices: T frame numbers, ascending.

        Returns:
            uint8 RGB [T, H, W, 3], the right way up.

        Raises:
            IndexError: If a number is too large.
        """
        chosen, frames = self.sample(lambda count, fps: list(indices))
        assert chosen == list(indices)
        return frames

    def sample(self, choose: Callable[[int, float], list[int]]) -> tuple[list[int], np.ndarray]:
        """Choose frames and decode them.

        Args:
            choose: Returns ascending frame numbers for a frame count and an average frame rate. It is called again if
                decoding gives more or fewer frames than the packets say.

        Returns:
            The T chosen frame numbers, and uint8 RGB [T, H, W, 3].

        Raises:
            IndexError: If a number is too large.
        """
        if self.seeks:
            indices = choose(len(self), self.fps)
            try:
                frames, keys_are_seek_points = decode_from_keys(self._file, self.packets, indices, self.converted)
                self.false_keys |= not keys_are_seek_points
                return indices, frames
            except PacketMismatch as cause:
                self._set_mode(False, str(cause))
        guess = len(self.packets.shown) if self._counted is None else self._counted
        indices = choose(guess, self.fps)
        from_start = self._from_start(indices)
        if len(self) != guess:
            indices = choose(len(self), self.fps)
            from_start = self._from_start(indices)
        if from_start is None:
            raise IndexError(f"frame {max(indices)} was asked for, but there are only {len(self)} frames")
        return indices, from_start

    def times(self, indices: Sequence[int]) -> list[float]:
        """Return the second at which each frame is shown, with frame 0 at 0.

        Args:
            indices: Frame numbers.
        """
        if self.seeks:
            pts = self.packets.pts[self.packets.shown]
            return [float(int(pts[index] - pts[0]) * self.packets.time_base) for index in indices]
        len(self)  # decodes the whole video, if that was not done yet
        return [self._times[index] for index in indices]

    def _from_start(self, indices: Sequence[int]) -> np.ndarray | None:
        """Decode frames from the start of the file. Counts all frames, unless that was done before.

        Args:
            indices: T frame numbers, ascending.

        Returns:
            uint8 RGB [T, H, W, 3], or None if the video has too few frames.
        """
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        last = max(indices, default=-1)
        buffer = FrameBuffer(len(indices), self.converted)
        stamps: list[int | None] = []
        with opened(self._file) as (container, stream):
            packets = (packet for packet in container.demux(stream) if packet.size)
            for frame in self._undamaged(decode_packets(packets, stream.codec_context)):
                if (count := len(stamps)) in rows:
                    buffer.put(rows[count], frame)
                stamps.append(frame.pts)
                if self._counted is not None and count >= last:
                    return buffer.frames()
        if not stamps:
            raise ValueError("it has no frames that decode")
        lost = len(self.packets.shown) - len(stamps)
        if lost > 0 and self.packets.container == "avi" and self.packets.codec in EVERY_PACKET_SHOWS:
            raise ValueError(f"it is damaged: {lost} of its packets give no picture")
        self._counted, self._times = len(stamps), self._seconds(stamps)
        return buffer.frames() if last < len(stamps) else None

    def _undamaged(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Yield the frames. Raises ValueError for a damaged one.

        A damaged frame at the very end of a stream that may be cut anywhere is left out: the cut went through it.
        """
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
        """Return the second at which each frame is shown, with the first one at 0.

        A frame without a time stamp, or with one out of order, lies evenly between its neighbours. Before the first and
        after the last known time stamp, frames come at the average rate.

        Args:
            stamps: Time stamps in the order of showing, in units of `time_base`.
        """
        numbers = [number for number, stamp in enumerate(stamps) if stamp is not None]
        known = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
        order = _longest_increasing(known)
        if not order or len(order) < MIN_ORDERED_SHARE * len(known):
            return [number / self.fps for number in range(len(stamps))]
        numbers, known = [numbers[position] for position in order], known[order]
        seconds = (known - known[0]).astype(float) * float(self.packets.time_base)
        times = np.interp(np.arange(len(stamps)), numbers, seconds)
        first, last = numbers[0], numbers[-1]
        if first > 0:
            times[:first] = np.arange(-first, 0) / self.fps
        if last < len(stamps) - 1:
            times[last + 1 :] += np.arange(1, len(stamps) - last) / self.fps
        return (times - times[0]).tolist()


def _longest_increasing(values: np.ndarray) -> list[int]:
    """Return the positions of the longest increasing subsequence of `values`."""
    ends: list[int] = []  # for each length, the last position of the subsequence that ends with the least value
    least: list[int] = []  # that value
    before: list[int] = []  # for each position, the one before it in its subsequence, or -1
    for position, value in enumerate(values.tolist()):
        length = bisect_left(least, value)
        before.append(ends[length - 1] if length else -1)
        ends[length : length + 1], least[length : length + 1] = [position], [value]
    chosen = ends[-1:]
    while chosen and before[chosen[-1]] >= 0:
        chosen.append(before[chosen[-1]])
    return chosen[::-1]
