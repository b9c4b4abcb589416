"""What the bits of a packet say, by the codecs' standards: may decoding begin here, and is anything shown at all?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any


def is_entry(codec: str, setup: bytes, data: bytes) -> bool:
    """Does decoding from this key packet give the pictures, from its own on, that decoding from the start gives?

    codec, setup: as in Packets. What a container marks as a key need not be one: encoders that refresh a picture part
    by part mark where a viewer may join, and the picture is whole only some time later.
    """
    test = ENTRIES.get(codec)
    return True if test is None else test(data, setup)


def _h264_entry(data: bytes, setup: bytes) -> bool:
    """An IDR picture, or a recovery point that promises exact pictures at once (ITU-T H.264, 7.4.1.2.4 and D.2.8)."""
    length_bytes = (setup[4] & 3) + 1 if setup[:1] == b"\x01" and len(setup) > 4 else 0
    for unit in _units(data, length_bytes):
        kind = unit[0] & 31
        if kind == 5:
            return True
        if kind == 6 and any(payload == 6 and body[:1] >= b"\xc0" for payload, body in _messages(unit[1:])):
            return True  # recovery_frame_cnt is 0, a single bit 1; exact_match_flag is the next
    return False


def _hevc_entry(data: bytes, setup: bytes) -> bool:
    """A picture of a random access point: BLA, IDR or CRA (ITU-T H.265, 7.4.2.2)."""
    length_bytes = (setup[21] & 3) + 1 if setup[:1] == b"\x01" and len(setup) > 21 else 0
    return any(16 <= unit[0] >> 1 & 63 <= 21 for unit in _units(data, length_bytes))


def _vp8_entry(data: bytes, setup: bytes) -> bool:
    """RFC 6386, 9.1: the first bit is 0."""
    return not data[0] & 1


ENTRIES: dict[str, Callable[[bytes, bytes], bool]] = {
    "h264": _h264_entry,
    "hevc": _hevc_entry,
    "vp8": _vp8_entry,
    "libvpx": _vp8_entry,
}


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """NAL units of a packet, each behind its length, or, with no bytes for lengths, behind start codes."""
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


def _messages(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, contents) of supplemental enhancement information (ITU-T H.264, 7.3.2.3)."""
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


def is_silent(codec: str) -> Callable[[Any], bool] | None:
    """Tells of a packet of this codec whether it shows nothing; None for codecs where all show something."""
    return {"vp8": _vp8_silent, "libvpx": _vp8_silent, "vp9": _vp9_silent, "libvpx-vp9": _vp9_silent}.get(codec)


def _vp8_silent(packet: Any) -> bool:
    """RFC 6386, 9.1: show_frame is 0."""
    return not memoryview(packet)[0] & 0x10


def _vp9_silent(packet: Any) -> bool:
    """VP9 bitstream specification, 6.2 and annex B: not shown, and showing no other; of several, the last one shows."""
    data = memoryview(packet)
    if data[len(data) - 1] & 0xE0 == 0xC0:
        return False
    first = data[0]
    profile = first >> 5 & 1 | first >> 3 & 2
    bits = first << 1 if profile == 3 else first  # a reserved bit comes in between
    return not bits & 0x0A
