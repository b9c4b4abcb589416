"""Videos that are written once for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.numbered import CASES

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the file of a case. It is written at the first request."""
    folder, files = tmp_path_factory.mktemp("numbered"), {}

    def make(name: str) -> Path:
        if name not in files:
            CASES[name].make(folder / name)
            files[name] = folder / name
        return files[name]

    return make
