from __future__ import annotations

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of several workers that outnumber the cores spin and starve each other, to a twentieth of the speed.
    torch.set_num_threads(1)
