"""Files that are there whole or not at all, and Markdown."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unwritable(UserError, OSError):
    """A file that cannot be written; the message names it, and what helps."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        cure = "free some room there, and start again" if error.errno in NO_ROOM else "choose another place"
        super().__init__(f"{path} cannot be written ({error.strerror or error}): {cure}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Where a file is written: Unwritable where that fails."""
    try:
        yield
    except OSError as error:
        raise Unwritable(path, error) from error


def write_whole(path: Path, text: str) -> None:
    """The file appears whole or not at all; Unwritable where it cannot. Devices and pipes are written to."""
    device = path.exists() and not path.is_file()
    partial = path if device else path.with_name(path.name + ".partial")
    with writing(path):
        try:
            # Names of files may hold bytes that are no text; JSON writes those as Python does.
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
            if not device:
                os.replace(partial, path)
        except OSError:
            if not device:
                partial.unlink(missing_ok=True)  # whose room is needed
            raise


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def prepare_json(path: Path | None) -> None:
    """As `prepare_file`, for the file that --json names, if any."""
    if path is not None:
        prepare_file("--json", path)


def prepare_file(flag: str, path: Path) -> None:
    """Make room for a file that is written later, and see that it can be. flag: what named it.

    IsADirectoryError where it is a directory, Unwritable where it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a directory: name a file, such as {path / 'report'}")
    prepare_directory(flag, path.parent, path)


def prepare_directory(flag: str, path: Path, file: Path | None = None) -> None:
    """The same for a directory, of files or of the one `file` that was named."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if file is None or not file.exists() or file.is_file():
            with TemporaryFile(dir=path) as probe:
                probe.write(bytes(2**20))  # a full disk is found out now, not after hours
    except OSError as error:
        raise Unwritable(f"{flag} {file or path}", error) from error


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """rows: the header first."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
