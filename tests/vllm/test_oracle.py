"""vLLM's own port of the released VidCom² is an oracle: it has our scores and budgets, and its own total.

Where the budgets, rounded frame by frame, miss the total, it adds or drops by score over all frames. We divide the
total exactly, frame by frame.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from vidcom2 import compressor
from vidcom2.vllm.serving import serving

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")

SHAPES = [(8, 16, 24, 0.25), (32, 36, 64, 0.25), (16, 49, 32, 0.15), (5, 100, 48, 0.1), (12, 9, 20, 0.5)]


def features(t: int, m: int, d: int) -> Tensor:
    """Frames that change slowly, and then at once."""
    generator = torch.Generator().manual_seed(t * m * d)
    still, steps = torch.randn(1, m, d, generator=generator), torch.randn(t, m, d, generator=generator)
    x = still + (0.3 * steps).cumsum(0)
    x[t // 2 :] += torch.randn(1, m, d, generator=generator)
    return x


def reconciled(scores: Tensor, budgets: Tensor, total: int) -> Tensor:
    """The mask [T·M] of the highest scores in each frame, filled up or cut to the total by score."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, kept, budget in zip(scores, mask, budgets.tolist(), strict=True):
        kept[row.topk(budget).indices] = True
    flat, score = mask.flatten(), scores.flatten()
    while flat.sum() > total:
        flat[score.masked_fill(~flat, torch.inf).argmin()] = False
    while flat.sum() < total:
        flat[score.masked_fill(flat, -torch.inf).argmax()] = True
    return flat


@pytest.mark.parametrize(("t", "m", "d", "retention"), SHAPES)
def test_released(t, m, d, retention):
    from vllm.multimodal.video_prune import vidcom2 as oracle

    x, removed = features(t, m, d), 1 - retention
    theirs = oracle.compute_retention_mask(x.flatten(0, 1), (t, 2 * m, 2), 2, removed)
    total = oracle.compute_retained_tokens_count(m, t, removed)
    released = compressor("vidcom2.released", retention=retention)
    scores, budgets, _ = released.rank(x)
    assert torch.equal(theirs, reconciled(scores, budgets, total))
    served = serving(released, "original")
    assert abs(served.total(t, m) - total) <= 1, "theirs is cut off, ours is rounded"
    both = theirs[served.select(x).index].sum()
    assert both >= 0.95 * total
