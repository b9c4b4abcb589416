"""A file's bytes by position, for the checks that walk through a container."""

from __future__ import annotations

import os
from typing import BinaryIO


class ByteReader:
    """Reads a file's bytes by position. Its length is the file's size in bytes.

    Args:
        file: A file that is open for reading.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._length = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._length

    def at(self, position: int, count: int) -> bytes:
        """Return `count` bytes from `position` on, or fewer at the end of the file."""
        self._file.seek(position)
        return self._file.read(count)


def misplaced(position: int) -> str:
    """Return the message for bytes at `position` that the format does not allow there."""
    return f"it is damaged: what is at byte {position} does not belong there"
