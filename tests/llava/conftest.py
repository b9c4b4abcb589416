import torch

# Tiny models gain nothing from threads, and lose much where another process wants the same cores.
torch.set_num_threads(1)
