"""Files that appear whole or not at all, and checks before a run that they can be written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""


class Unwritable(UserError, OSError):
    """A file cannot be written. The message names it and the fix."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        cure = "free some room there, and start again" if error.errno in NO_ROOM else "choose another place"
        super().__init__(f"{path} cannot be written ({error.strerror or error}): {cure}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise Unwritable for `path` where the block raises OSError."""
    try:
        yield
    except OSError as error:
        raise Unwritable(path, error) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all. Devices and pipes are written directly.

    Args:
        path: The file.
        text: Its content, which is written as UTF-8.

    Raises:
        Unwritable: The file cannot be written.
    """
    device = path.exists() and not path.is_file()
    partial = path if device else path.with_name(path.name + ".partial")
    with writing(path):
        try:
            # Names of files may hold bytes that are no text. backslashreplace writes them as Python's JSON does.
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
            if not device:
                os.replace(partial, path)
        except OSError:
            if not device:
                partial.unlink(missing_ok=True)  # the disk may be full
            raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def prepare_json(path: Path | None) -> None:
    """Check the file that --json names, if it names one, as `prepare_file` does."""
    if path is not None:
        prepare_file("--json", path)


def prepare_file(flag: str, path: Path) -> None:
    """Make the directory of a file that is written later, and check that the file can be written.

    Args:
        flag: The flag that named the file.
        path: The file.

    Raises:
        IsADirectoryError: `path` is a directory.
        Unwritable: The file cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a directory: name a file, such as {path / 'report'}")
    prepare_directory(flag, path.parent, path)


def prepare_directory(flag: str, path: Path, file: Path | None = None) -> None:
    """Make a directory, and check that files can be written there.

    Args:
        flag: The flag that named the directory, or the file.
        path: The directory.
        file: The one file that is written there, if it is one.

    Raises:
        Unwritable: Nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if file is None or not file.exists() or file.is_file():
            with TemporaryFile(dir=path) as probe:
                probe.write(bytes(2**20))  # finds a full disk now, not after hours
    except OSError as error:
        raise Unwritable(f"{flag} {file or path}", error) from error
