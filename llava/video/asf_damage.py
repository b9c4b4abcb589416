"""The check of ASF (WMV) files by the Advanced Systems Format Specification 01.20.03, sections 3.2 and 5.

The data consist of packets, and packets of payloads. A payload holds a piece of a media object, and a media object of
the video stream is a frame. The objects of a stream count on by one. Most pieces say how long their object is, and
where in it they belong.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from llava.video.byte_reader import ByteReader, misplaced

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
INDEX_OBJECTS = (SIMPLE_INDEX, INDEX, MEDIA_INDEX, TIMECODE_INDEX)
"""GUIDs of the objects that may follow the data object."""
FIELD_WIDTHS = (0, 1, 2, 4)
"""Bytes of a field, by its two-bit length type."""


@dataclass(frozen=True)
class Layout:
    """Where the packets of a file lie.

    Attributes:
        begin: Byte where the first packet begins.
        end: Every packet begins before this byte. It may lie behind the end of the file.
        shortest: Fewest bytes of a packet.
        longest: Most bytes of a packet.
        count: Number of packets, 0 if unknown.
        recorded: Whether the header was written before the end was known, as in a recording.
    """

    begin: int
    end: int
    shortest: int
    longest: int
    count: int
    recorded: bool


@dataclass(frozen=True)
class Piece:
    """A piece of a media object.

    Attributes:
        number: Number of the object, modulo 256 ** `width`.
        width: Bytes of the field that holds the number.
        offset: Where in the object the piece begins, in bytes.
        size: Bytes of the whole object, None if unknown.
        length: Bytes of the piece.
    """

    number: int
    width: int
    offset: int
    size: int | None
    length: int


class NotAPacket(Exception):
    """The bytes cannot be a packet."""


def why_asf_damaged(data: ByteReader, stream: int) -> str | None:
    """Check that the file has as many packets as its header says, and that no frame has lost a piece.

    Args:
        data: The file.
        stream: Number of the video stream.

    Returns:
        What is wrong with the file, or None.
    """
    layout = _layout(data)
    if layout is None:
        return "it is damaged: its header does not say where its packets are"
    objects = _MediaObjects()
    position, count = layout.begin, 0
    correction = data.at(position, 1)  # the error correction flags, which all packets share
    while position < min(layout.end, len(data)):
        packet = data.at(position, layout.longest)
        if layout.recorded and packet.startswith(INDEX_OBJECTS):
            break
        try:
            if correction >= b"\x80" and not packet.startswith(correction):
                raise NotAPacket
            length, pieces = _packet(packet, layout, stream)
        except NotAPacket:
            length, pieces = layout.longest, None
        if position + length > len(data):
            return f"it was cut off, in the packet that begins at byte {position}"
        if pieces is None:
            return misplaced(position)
        if not all(objects.add(piece) for piece in pieces):
            return f"it is damaged: pictures are missing before byte {position + length}"
        position += length
        count += 1
    if count < layout.count or (not layout.recorded and position < layout.end):
        return f"it was cut off: it has {count} packets, its header says {layout.count}"
    if objects.unfinished and not layout.recorded:
        return "it was cut off: its last picture is not complete"
    return None


def _layout(data: ByteReader) -> Layout | None:
    """Read the header. Returns None if it does not say where the packets are."""
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
    recorded |= size < 100  # the size is not filled in while the file is being written
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
    """Reads the fields of a packet, one after the other."""

    def __init__(self, packet: bytes):
        self._packet = packet
        self.position = 0

    def next(self, width: int) -> int:
        """Return the number in the next `width` bytes. Raises NotAPacket behind the packet's end."""
        if self.position + width > len(self._packet):
            raise NotAPacket
        self.position += width
        return _number(self._packet, self.position - width, width)


def _packet(packet: bytes, layout: Layout, stream: int) -> tuple[int, list[Piece]]:
    """Return the packet's length in bytes and its pieces of this stream. Raises NotAPacket."""
    fields = _Fields(packet)
    flags = fields.next(1)
    if flags & 128:  # error correction data come first
        if flags & 0x70:
            raise NotAPacket
        fields.next(flags & 15)
        flags = fields.next(1)
    kinds = fields.next(1)
    if flags & 128 or kinds >> 6 != 1:
        raise NotAPacket
    said = fields.next(FIELD_WIDTHS[flags >> 5 & 3]) if flags & 0x60 else layout.longest
    fields.next(FIELD_WIDTHS[flags >> 1 & 3])
    padding = fields.next(FIELD_WIDTHS[flags >> 3 & 3])
    fields.next(6)  # send time and duration
    length = max(said, layout.shortest)
    end = said - padding
    if length > layout.longest or end < fields.position:
        raise NotAPacket
    pieces: list[Piece] = []
    if not flags & 1:
        _payload(fields, kinds, stream, end, None, pieces)
        return length, pieces
    several = fields.next(1)
    for _ in range(several & 63):
        _payload(fields, kinds, stream, end, FIELD_WIDTHS[several >> 6], pieces)
    return length, pieces


def _payload(fields: _Fields, kinds: int, stream: int, end: int, length_width: int | None, pieces: list[Piece]) -> None:
    """Read one payload and add its pieces of `stream` to `pieces`.

    Args:
        fields: The packet's fields, at the payload's beginning.
        kinds: The packet's property flags: the length types of the payload's fields.
        stream: Number of the video stream.
        end: Byte of the packet where the payloads end.
        length_width: Bytes of the payload's length field, None for a payload that fills the packet.
        pieces: Where the pieces are added.
    """
    payload_stream = fields.next(1) & 127
    if not payload_stream:
        raise NotAPacket
    width = FIELD_WIDTHS[kinds >> 4 & 3]
    number = fields.next(width)
    offset = fields.next(FIELD_WIDTHS[kinds >> 2 & 3])
    replicated = fields.next(FIELD_WIDTHS[kinds & 3])
    # One byte of replicated data marks a compressed payload: whole objects, each behind one byte with its length.
    size = fields.next(4) if replicated >= 8 else None
    fields.next(replicated - 4 if replicated >= 8 else replicated)
    length = end - fields.position if length_width is None else fields.next(length_width)
    until = fields.position + length
    if length < 0 or until > end:
        raise NotAPacket
    if replicated != 1:
        fields.next(length)
        if payload_stream == stream:
            pieces.append(Piece(number, width, offset, size, length))
        return
    while fields.position < until:
        length = fields.next(1)
        if fields.position + length > until:
            raise NotAPacket
        fields.next(length)
        if payload_stream == stream:
            pieces.append(Piece(number, width, 0, length, length))
        number = (number + 1) % (1 << 8 * width)


class _MediaObjects:
    """Follows the media objects of a stream, piece by piece."""

    def __init__(self) -> None:
        self._last: Piece | None = None
        self._until = 0  # where the last piece ended in its object

    @property
    def unfinished(self) -> bool:
        """Whether the last object lacks its end."""
        last = self._last
        return last is not None and last.size is not None and self._until < last.size

    def add(self, piece: Piece) -> bool:
        """Take the next piece, and tell whether it follows the pieces before it."""
        last = self._last
        begins = not piece.offset and (last is None or piece.number != last.number or not self.unfinished)
        if last is None and not begins:
            return True  # a recording may begin in the middle of a frame
        if begins:
            follows = last is None or (
                not self.unfinished and (piece.number - last.number) % (1 << 8 * piece.width) == (piece.width > 0)
            )
        else:
            assert last is not None
            follows = (piece.number, piece.size, piece.offset) == (last.number, last.size, self._until)
        self._last, self._until = piece, piece.offset + piece.length
        return follows and (piece.size is None or self._until <= piece.size)
