from __future__ import annotations

from multiprocessing import forkserver

import pytest
import torch

# Tiny models gain nothing from threads, and threads that outnumber the cores (several test workers) spin and starve
# each other, to a twentieth of the speed.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def forks_from_here() -> None:
    """Start the server that forks the processes of runs, in this directory.

    In Python 3.11 it looks for modules in the directory that it starts in. Where a test that has gone to another one is
    the first to need it, it would import nothing, and each of its processes everything.
    """
    forkserver.set_forkserver_preload(["eval.models", "av"])
    forkserver.ensure_running()
