"""Damage of ASF (WMV) files: Advanced Systems Format Specification 01.20.03, sections 3.2 and 5.

The data are packets. A packet holds payloads, each of which is a piece of a media object, which is a picture. Objects
of a stream are numbered one by one, and every piece says how long its object is and where in it the piece belongs.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from llava.video.filebytes import Bytes, stranger

HEADER, FILE, DATA, SIMPLE_INDEX, INDEX, MEDIA_INDEX, TIMECODE_INDEX = (
    UUID(name).bytes_le
    for name in (
        "75b22630-668e-11cf-a6d9-00aa0062ce6c",
        "8cabdca1-a947-11cf-8ee4-00c00c205365",
        "75b22636-668e-11cf-a6d9-00aa0062ce6c",
        "33000890-e5b1-11cf-89f4-00a0c90349cb",
        "d6e229d3-35da-11d1-9034-00a0c90349be",
        "feb103f8-12ad-4c64-840f-2a1d2f7ad48c",
        "3cb73fd0-0c4a-4803-953d-edf7b6228f0c",
    )
)
BEHIND_DATA = (SIMPLE_INDEX, INDEX, MEDIA_INDEX, TIMECODE_INDEX)
WIDTHS = (0, 1, 2, 4)
"""Bytes of a field, by the two bits that tell them."""


@dataclass(frozen=True)
class Layout:
    """Where the packets lie: they begin from byte `begin` on and before byte `end`, which may be behind the end of the
    file. shortest, longest: bytes of a packet. count: packets, 0 if unknown. recorded: the header was written before
    the end was known."""

    begin: int
    end: int
    shortest: int
    longest: int
    count: int
    recorded: bool


@dataclass(frozen=True)
class Piece:
    """Of a media object. width: bytes of its number. size: bytes of the whole object, None if unknown."""

    number: int
    width: int
    offset: int
    size: int | None
    length: int


class Strange(Exception):
    """A packet that cannot be one."""


def asf(data: Bytes, stream: int) -> str | None:
    """The packets are as many as the header says, and no object of the stream is missing or has lost a piece."""
    layout = _layout(data)
    if layout is None:
        return "it is damaged: its header does not say where its packets are"
    objects = _Objects()
    position, count = layout.begin, 0
    correction = data.at(position, 1)  # says whether and how errors are corrected, in every packet alike
    while position < min(layout.end, len(data)):
        packet = data.at(position, layout.longest)
        if layout.recorded and packet.startswith(BEHIND_DATA):
            break
        try:
            if correction >= b"\x80" and not packet.startswith(correction):
                raise Strange
            length, pieces = _packet(packet, layout, stream)
        except Strange:
            length, pieces = layout.longest, None
        if position + length > len(data):
            return f"it was cut off, in the packet that begins at byte {position}"
        if pieces is None:
            return stranger(position)
        if not all(objects.add(piece) for piece in pieces):
            return f"it is damaged: pictures are missing before byte {position + length}"
        position += length
        count += 1
    if count < layout.count or (not layout.recorded and position < layout.end):
        return f"it was cut off: it has {count} packets, and says {layout.count}"
    if objects.unfinished and not layout.recorded:
        return "it was cut off: its last picture is not complete"
    return None


def _layout(data: Bytes) -> Layout | None:
    head = data.at(0, 30)
    if head[:16] != HEADER:
        return None
    position, end = 30, _number(head, 16, 8)
    properties = b""
    while position < end and len(head := data.at(position, 104)) >= 24 and (size := _number(head, 16, 8)) >= 24:
        if head[:16] == FILE and len(head) == 104:
            properties = head
        position += size
    position = end
    while len(head := data.at(position, 50)) == 50 and head[:16] != DATA and (size := _number(head, 16, 8)) >= 24:
        position += size
    if not properties or len(head) < 50 or head[:16] != DATA:
        return None
    recorded = bool(properties[88] & 1)
    size, shortest, longest = _number(head, 16, 8), _number(properties, 92, 4), _number(properties, 96, 4)
    if not 0 < shortest <= longest:
        return None
    recorded |= size < 100  # as it is while the file is being written
    return Layout(
        begin=position + 50,
        end=len(data) if recorded else position + size - shortest + 1,
        shortest=shortest,
        longest=longest,
        count=0 if recorded else _number(head, 40, 8),
        recorded=recorded,
    )


def _number(data: bytes, position: int, width: int) -> int:
    return int.from_bytes(data[position : position + width], "little")


class _Fields:
    """Numbers of a packet, one after the other."""

    def __init__(self, packet: bytes):
        self._packet = packet
        self.position = 0

    def next(self, width: int) -> int:
        if self.position + width > len(self._packet):
            raise Strange
        self.position += width
        return _number(self._packet, self.position - width, width)


def _packet(packet: bytes, layout: Layout, stream: int) -> tuple[int, list[Piece]]:
    """Its length in bytes, and the pieces of this stream in it; Strange, if it cannot be a packet."""
    fields = _Fields(packet)
    flags = fields.next(1)
    if flags & 128:  # data of error correction come first
        if flags & 0x70:
            raise Strange
        fields.next(flags & 15)
        flags = fields.next(1)
    kinds = fields.next(1)
    if flags & 128 or kinds >> 6 != 1:
        raise Strange
    said = fields.next(WIDTHS[flags >> 5 & 3]) if flags & 0x60 else layout.longest
    fields.next(WIDTHS[flags >> 1 & 3])
    padding = fields.next(WIDTHS[flags >> 3 & 3])
    fields.next(6)  # when it is sent, and for how long
    length = max(said, layout.shortest)
    end = said - padding
    if length > layout.longest or end < fields.position:
        raise Strange
    pieces: list[Piece] = []
    if not flags & 1:
        _payload(fields, kinds, stream, end, None, pieces)
        return length, pieces
    several = fields.next(1)
    for _ in range(several & 63):
        _payload(fields, kinds, stream, end, WIDTHS[several >> 6], pieces)
    return length, pieces


def _payload(fields: _Fields, kinds: int, stream: int, end: int, length_width: int | None, pieces: list[Piece]) -> None:
    """Reads a payload of a packet whose payloads end at byte `end`. length_width: of the field that says how long it
    is; None for one that fills the packet."""
    payload_stream = fields.next(1) & 127
    if not payload_stream:
        raise Strange
    width = WIDTHS[kinds >> 4 & 3]
    number = fields.next(width)
    offset = fields.next(WIDTHS[kinds >> 2 & 3])
    replicated = fields.next(WIDTHS[kinds & 3])
    # One byte alone stands for objects that are whole and follow one another, each behind a byte that says how long.
    size = fields.next(4) if replicated >= 8 else None
    fields.next(replicated - 4 if replicated >= 8 else replicated)
    length = end - fields.position if length_width is None else fields.next(length_width)
    until = fields.position + length
    if length < 0 or until > end:
        raise Strange
    if replicated != 1:
        fields.next(length)
        if payload_stream == stream:
            pieces.append(Piece(number, width, offset, size, length))
        return
    while fields.position < until:
        length = fields.next(1)
        if fields.position + length > until:
            raise Strange
        fields.next(length)
        if payload_stream == stream:
            pieces.append(Piece(number, width, 0, length, length))
        number = (number + 1) % (1 << 8 * width)


class _Objects:
    """The media objects of a stream, piece by piece."""

    def __init__(self) -> None:
        self._last: Piece | None = None
        self._until = 0  # where in its object the last piece ended

    @property
    def unfinished(self) -> bool:
        last = self._last
        return last is not None and last.size is not None and self._until < last.size

    def add(self, piece: Piece) -> bool:
        """Whether the piece follows what came before it."""
        last = self._last
        begins = not piece.offset and (last is None or piece.number != last.number or not self.unfinished)
        if last is None and not begins:
            return True  # the end of a picture whose beginning was before the file's
        if begins:
            follows = last is None or (
                not self.unfinished and (piece.number - last.number) % (1 << 8 * piece.width) == (piece.width > 0)
            )
        else:
            assert last is not None
            follows = (piece.number, piece.size, piece.offset) == (last.number, last.size, self._until)
        self._last, self._until = piece, piece.offset + piece.length
        return follows and (piece.size is None or self._until <= piece.size)
