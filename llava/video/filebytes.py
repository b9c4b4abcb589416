"""A file's bytes by position, for what walks through a container, and the words for what does not belong there."""

from __future__ import annotations

import os
from typing import BinaryIO


class Bytes:
    """A file's bytes by position; `len` of them."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._length = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._length

    def at(self, position: int, count: int) -> bytes:
        """Fewer at the end of the file."""
        self._file.seek(position)
        return self._file.read(count)


def stranger(position: int) -> str:
    return f"it is damaged: what is at byte {position} does not belong there"
