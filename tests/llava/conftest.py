import torch

# Tiny models gain nothing from threads, and lose much where pytest-xdist's workers share the cores.
torch.set_num_threads(1)
