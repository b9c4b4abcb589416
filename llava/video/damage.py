"""Damage that FFmpeg skips silently: the frames behind it then get wrong numbers.

Each container has its own check of lengths, counters and checksums. Of MP4 only the sizes of the boxes and the numbers
of the fragments are checked: if a frame of its sample table does not decode, reading it is an error anyway. Decoding
finds most damage inside packets. Files are read in pieces, so memory use does not grow with them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from llava.video.asf_damage import why_asf_damaged
from llava.video.byte_reader import ByteReader, misplaced

READ_BYTES = 1 << 20
"""Bytes per read."""
PACKETS_PER_READ = 1 << 14
"""Packets of a transport stream per read."""


def why_damaged(file: str, container: str, stream: int) -> str | None:
    """Say what is wrong with a video file.

    Args:
        file: The video file.
        container: FFmpeg's names of its format.
        stream: The container's id of the video stream.

    Returns:
        A message, or None for a file that is whole or that has a format without a check in `CHECKS`.
    """
    check = CHECKS.get(container)
    if check is None:
        return None
    with open(file, "rb", buffering=READ_BYTES) as opened:
        return check(ByteReader(opened), stream)


def _matroska(data: ByteReader, stream: int) -> str | None:
    """Matroska and WebM: known elements, lengths that fit, checksums if present (RFC 9559, RFC 8794)."""
    position = 0
    while position < len(data):
        kind, begin, end = _element(data, position, len(data))
        if kind == SEGMENT:
            return _segment(data, begin, end)
        position = end
    return "it is damaged: it has no Segment element"


def _segment(data: ByteReader, position: int, end: int) -> str | None:
    """Check the elements of a Segment from byte `position` to byte `end`."""
    if end > len(data):
        return f"it was cut off: it has {len(data)} bytes, its header says {end}"
    while position < end:
        kind, begin, until = _element(data, position, end)
        if kind not in SEGMENT_CHILDREN or until > end:
            return misplaced(position)
        if kind == CLUSTER and (broken := _cluster(data, begin, until)) is not None:
            return broken
        position = until
    return None


def _cluster(data: ByteReader, position: int, end: int) -> str | None:
    """Check the elements of a Cluster, and its CRC-32 element if it has one."""
    checksum = None
    start = position
    while position < end:
        kind, begin, until = _element(data, position, end)
        if kind not in CLUSTER_CHILDREN or until > end:
            return misplaced(position)
        if kind == CHECKSUM and position == start:
            checksum, start = int.from_bytes(data.at(begin, until - begin), "little"), until
        position = until
    if checksum is None:
        return None
    found = 0
    for piece in range(start, end, READ_BYTES):
        found = zlib.crc32(data.at(piece, min(READ_BYTES, end - piece)), found)
    if found != checksum:
        return f"it is damaged: the checksum of the bytes from {start} on does not match"
    return None


def _element(data: ByteReader, position: int, end: int) -> tuple[int, int, int]:
    """Return an element's id, and where its contents begin and end. The id is 0 if there is no element.

    An element of unknown size, as live streams have it, ends where the next one of the same level begins.
    """
    head = data.at(position, 12) or b"\0"
    id_length = 9 - head[0].bit_length()
    size_length = 9 - head[id_length].bit_length() if id_length < len(head) else 9
    if id_length > 4 or size_length > 8:
        return 0, position, end
    kind, begin = int.from_bytes(head[:id_length], "big"), position + id_length + size_length
    mask = (1 << 7 * size_length) - 1
    size = int.from_bytes(head[id_length : id_length + size_length], "big") & mask
    if size != mask:
        return kind, begin, begin + size
    if kind == SEGMENT:
        return kind, begin, len(data)
    position = begin
    while position < end:  # over its children, to the first element that is none of them
        child, _, until = _element(data, position, end)
        if child not in CLUSTER_CHILDREN:
            break
        position = until
    return kind, begin, position


SEGMENT, CLUSTER, CHECKSUM = 0x18538067, 0x1F43B675, 0xBF
VOID = 0xEC
SEGMENT_CHILDREN = {
    *(CLUSTER, CHECKSUM, VOID, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B),
    *(0x1254C367, 0x1941A469, 0x1043A770),
}
"""Ids of Cluster, CRC-32, Void, SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters."""
CLUSTER_CHILDREN = {CHECKSUM, VOID, 0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
"""Ids of CRC-32, Void, Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup, EncryptedBlock."""


def _mp4(data: ByteReader, stream: int) -> str | None:
    """MP4 and MOV: no box reaches over the file's end (ISO/IEC 14496-12, 4.2), and fragments follow each other.

    Fragments that count on by one (8.8.5) must go on doing so, with nothing but boxes between them. All else is left to
    FFmpeg.
    """
    position, counted = 0, 0
    number: int | None = None  # sequence_number of the last fragment
    while len(head := data.at(position, 28)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or kind not in TOP_LEVEL_BOXES:  # size 0: to the end of the file
            return None if number is None or kind.isalnum() else misplaced(position)
        if kind == b"moov":
            number, counted = None, 0
        if kind == b"moof" and head[12:16] == b"mfhd":
            before, number = number, int.from_bytes(head[20:24], "big")
            if before is not None and number != before + 1 and counted > 1:
                return f"it is damaged: fragment {number} follows fragment {before}, at byte {position}"
            counted = counted + 1 if before is not None and number == before + 1 else 0
        position += size
        if position > len(data):
            return f"it was cut off: it has {len(data)} bytes, and its box {kind.decode()!r} ends at byte {position}"
    return None


TOP_LEVEL_BOXES = {
    *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"udta", b"meta"),
    *(b"moof", b"styp", b"sidx", b"ssix", b"prft", b"emsg", b"mfra"),
}
"""Boxes that the check expects at the top level."""


def _avi(data: ByteReader, stream: int) -> str | None:
    """AVI: the file is as long as its RIFF chunks say. Large files have several (OpenDML 1.02)."""
    position = 0
    while (head := data.at(position, 8))[:4] == b"RIFF" and (size := int.from_bytes(head[4:], "little")):
        position += 8 + size + size % 2
        if position > len(data) + 1:  # a last byte of padding may be missing
            return f"it was cut off: it has {len(data)} bytes, its header says {position}"
    return None


def _flv(data: ByteReader, stream: int) -> str | None:
    """FLV: each tag's length follows it (Adobe Flash Video File Format Specification 10.1, annex E)."""
    position = int.from_bytes(data.at(5, 4), "big") + 4
    while position + 15 <= len(data):
        kind, *length = data.at(position, 4)
        size = 11 + int.from_bytes(length, "big")
        until = position + size
        if until + 4 > len(data):
            return f"it was cut off, in the tag that begins at byte {position}"
        said = int.from_bytes(data.at(until, 4), "big")
        if said not in (size, 0, size - 11) or kind & 31 not in (8, 9, 18):  # some writers leave the length out
            return misplaced(position)
        position = until + 4
    return None if position == len(data) else f"it was cut off, in the tag that begins at byte {position}"


def _ogg(data: ByteReader, stream: int) -> str | None:
    """Ogg: the pages of each stream count on by one, and its last page is marked (RFC 3533, 6)."""
    counts: dict[int, int] = {}
    open_streams: set[int] = set()
    position = 0
    while position < len(data):
        head = data.at(position, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27 + head[26]:
            return misplaced(position)
        serial, count = int.from_bytes(head[14:18], "little"), int.from_bytes(head[18:22], "little")
        if count != counts.get(serial, count - 1) + 1:
            return f"it is damaged: pages are missing before byte {position}"
        counts[serial] = count
        open_streams.add(serial)
        if head[5] & 4:
            open_streams.discard(serial)
            del counts[serial]
        position += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return None if position == len(data) and not open_streams else "it was cut off: one of its streams has no last page"


def _transport_stream(data: ByteReader, stream: int) -> str | None:
    """MPEG-TS: the packets of the video count on by one, modulo 16 (ISO/IEC 13818-1, 2.4.3.2)."""
    head = data.at(0, 204 * 6)
    for size, before in ((188, 0), (192, 4), (204, 0)):
        for begin in range(min(size, len(head))):
            if all(byte == SYNC_BYTE for byte in head[begin + before : begin + before + 5 * size : size]):
                return _continuity(data, begin, size, before, stream)
    return None  # no packets here; FFmpeg may find some


def _continuity(data: ByteReader, begin: int, size: int, before: int, stream: int) -> str | None:
    """Check the continuity counters of a transport stream.

    Args:
        data: The file.
        begin: Byte where the first packet begins.
        size: Bytes from one packet to the next.
        before: Bytes in front of each packet's sync byte.
        stream: Packet id of the video.
    """
    latest = -1  # the counter of the video's last packet
    begins: tuple[int, int] | None = None  # first counters of the program association table and of the video
    for position in range(begin, len(data) - size + 1, PACKETS_PER_READ * size):
        packets = np.frombuffer(data.at(position, PACKETS_PER_READ * size), np.uint8)
        packets = packets[: len(packets) // size * size].reshape(-1, size)[:, before:]
        if len(lost := np.flatnonzero(packets[:, 0] != SYNC_BYTE)):
            return misplaced(position + int(lost[0]) * size)
        own = _of_stream(packets, stream)
        video = packets[own].astype(np.int32)
        broken = video[:, 1] & 128 != 0  # transport_error_indicator
        # A PES packet begins with 0, 0, 1, behind the adaptation field if there is one.
        starts = np.flatnonzero(video[:, 1] & 64)
        offsets = 4 + np.where(video[starts, 3] & 32, video[starts, 4] + 1, 0)
        prefixes = video[starts[:, None], np.minimum(offsets[:, None] + np.arange(3), video.shape[1] - 1)]
        broken[starts[(prefixes != (0, 0, 1)).any(axis=1)]] = True
        places = np.flatnonzero(video[:, 3] & 16)  # packets with a payload
        counters = video[places, 3] & 15
        restarts = (video[places, 3] & 32 != 0) & (video[places, 4] > 0) & (video[places, 5] & 128 != 0)
        steps = np.diff(counters, prepend=counters[:1] if latest < 0 else latest) % 16
        tables = _of_stream(packets, 0)
        if begins is None and len(tables) and len(counters):
            begins = int(packets[tables[0], 3] & 15), int(counters[0])
        for place in places[(steps > 1) & ~restarts].tolist():
            between = tables[(tables > (own[place - 1] if place else -1)) & (tables < own[place])]
            # Where files were joined, a frame begins and both counters restart with the values of the first file.
            now = (int(packets[between[0], 3] & 15), int(video[place, 3] & 15)) if len(between) else None
            broken[place] |= now is None or now != begins or not video[place, 1] & 64
        if broken.any():
            return f"it is damaged: packets are missing before byte {position + int(own[np.argmax(broken)]) * size}"
        latest = int(counters[-1]) if len(counters) else latest
    return None


def _of_stream(packets: np.ndarray, stream: int) -> np.ndarray:
    """Return the positions of the packets with packet id `stream`."""
    return np.flatnonzero((packets[:, 1].astype(np.int32) & 31) << 8 | packets[:, 2] == stream)


SYNC_BYTE = 0x47
CHECKS: dict[str, Callable[[ByteReader, int], str | None]] = {
    "matroska,webm": _matroska,
    "flv": _flv,
    "avi": _avi,
    "ogg": _ogg,
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "mpegts": _transport_stream,
    "asf": why_asf_damaged,
}
"""Checks by FFmpeg's names of the format. Each takes the file and the container's id of the video stream."""
