"""Merging tokens into the mean of a group."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def group_means(x: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the mean token of each group, and how many tokens it has. The host does not wait for the device.

    Equal input gives equal means, on GPUs too, since every group is summed in the order of its tokens.

    Args:
        x: Tokens [n, D] of any float dtype.
        group: int64 [n], the group of each token, from 0 to `groups` - 1. A token of group `groups` belongs to none.
        groups: How many groups there are.

    Returns:
        Means [groups, D], float32, or float64 for float64 tokens; 0 for a group without tokens. Counts, int64 [groups].
    """
    by_group = group.sort(stable=True)
    starts = torch.searchsorted(by_group.values, torch.arange(groups + 1, device=x.device))  # the last: of no group
    counts, wide = starts.diff(), torch.promote_types(x.dtype, torch.float32)
    # Half precision would be summed in half precision. An eighth of the channels at a time, for little memory.
    parts = [x] if x.dtype == wide else x.split(-(-x.shape[1] // 8), dim=1)
    sums = [embedding_bag(by_group.indices, part.to(wide), starts, mode="sum")[:groups] for part in parts]
    means = (sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)).div_(counts.clamp_min(1)[:, None])
    return means, counts
