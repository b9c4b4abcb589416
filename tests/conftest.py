from __future__ import annotations

import torch

# Tiny models gain nothing from threads, and threads that outnumber the cores (several test workers) spin and starve
# each other, to a twentieth of the speed.
torch.set_num_threads(1)
