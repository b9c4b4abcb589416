"""What the bits of one packet say by the codec's standard: may decoding begin here, and does it show anything?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any


def is_seek_point(codec: str, setup: bytes, data: bytes) -> bool:
    """Tell whether decoding may begin at a packet that the container marks as a key frame.

    A container's mark is no proof. Encoders with intra refresh renew the frame part by part; they mark where a viewer
    may join, and the frame is complete only some time later.

    Args:
        codec: FFmpeg's name of the decoder, as in `Packets`.
        setup: The decoder's configuration, as in `Packets`.
        data: The packet.

    Returns:
        True if decoding from this packet on gives the same frames, from its own on, as decoding from the start. Always
        True for codecs without a test in `SEEK_POINT_TESTS`.
    """
    test = SEEK_POINT_TESTS.get(codec)
    return True if test is None else test(data, setup)


def _h264_seek_point(data: bytes, setup: bytes) -> bool:
    """Accept an IDR picture (ITU-T H.264, table 7-1) or a recovery point that is exact at once (D.2.8)."""
    length_bytes = (setup[4] & 3) + 1 if setup[:1] == b"\x01" and len(setup) > 4 else 0
    for unit in _nal_units(data, length_bytes):
        kind = unit[0] & 31
        if kind == 5:
            return True
        if kind == 6 and any(payload == 6 and body[:1] >= b"\xc0" for payload, body in _sei_messages(unit[1:])):
            return True  # recovery_frame_cnt is 0 (a single bit 1), and the next bit, exact_match_flag, is 1
    return False


def _hevc_seek_point(data: bytes, setup: bytes) -> bool:
    """Accept a BLA, IDR or CRA picture (ITU-T H.265, 7.4.2.2)."""
    length_bytes = (setup[21] & 3) + 1 if setup[:1] == b"\x01" and len(setup) > 21 else 0
    return any(16 <= unit[0] >> 1 & 63 <= 21 for unit in _nal_units(data, length_bytes))


def _vp8_seek_point(data: bytes, setup: bytes) -> bool:
    """Accept a key frame: its first bit is 0 (RFC 6386, 9.1)."""
    return not data[0] & 1


SEEK_POINT_TESTS: dict[str, Callable[[bytes, bytes], bool]] = {
    "h264": _h264_seek_point,
    "hevc": _hevc_seek_point,
    "vp8": _vp8_seek_point,
    "libvpx": _vp8_seek_point,
}
"""By decoder, a test of (packet, setup). Key frames of all other codecs count as seek points."""


def _nal_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Split a packet into NAL units. Each follows its length, or, if `length_bytes` is 0, a start code."""
    if not length_bytes:
        yield from (unit for unit in re.split(b"\x00\x00\x01", data)[1:] if unit)
        return
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        if size:
            yield data[position : position + size]
        position += size


def _sei_messages(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (payload type, payload) of supplemental enhancement information (ITU-T H.264, 7.3.2.3)."""
    body = body.replace(b"\x00\x00\x03", b"\x00\x00")
    position = 0
    while position + 2 < len(body):  # the last byte ends the unit
        numbers = []
        for _ in range(2):
            number = 0
            while position < len(body) and body[position] == 255:
                number, position = number + 255, position + 1
            if position >= len(body):
                return
            numbers.append(number + body[position])
            position += 1
        payload, size = numbers
        yield payload, body[position : position + size]
        position += size


def undisplayed_test(codec: str) -> Callable[[Any], bool] | None:
    """Return a test for packets that are decoded but never shown.

    Args:
        codec: FFmpeg's name of the decoder, as in `Packets`.

    Returns:
        A function that takes a PyAV packet, or None for codecs without such packets.
    """
    tests = {
        "vp8": _vp8_undisplayed,
        "libvpx": _vp8_undisplayed,
        "vp9": _vp9_undisplayed,
        "libvpx-vp9": _vp9_undisplayed,
    }
    return tests.get(codec)


def _vp8_undisplayed(packet: Any) -> bool:
    """Tell whether show_frame is 0 (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 0x10


def _vp9_undisplayed(packet: Any) -> bool:
    """Tell whether a packet neither shows its frame nor an existing one (VP9 bitstream specification, 6.2, annex B).

    The last frame of a superframe is shown, so a superframe is displayed.
    """
    data = memoryview(packet)
    if data[len(data) - 1] & 0xE0 == 0xC0:
        return False
    first = data[0]
    profile = first >> 5 & 1 | first >> 3 & 2
    bits = first << 1 if profile == 3 else first  # profile 3 has a reserved bit before these
    return not bits & 0x0A
