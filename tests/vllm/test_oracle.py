"""vLLM's own pruning is an oracle: its port of the released VidCom², and EVS.

The port of VidCom² has our scores and budgets, and its own total. Where the budgets, rounded frame by frame, miss the
total, it adds or drops by score over all frames. We divide the total exactly, frame by frame. EVS is the same, token
for token, in every dtype.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from eval.cli import main
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


def evs_of_vllm(x: Tensor, removed: float) -> Tensor:
    """The kept positions of a video [T, M, D], ascending."""
    from vllm.multimodal.video_prune import evs as oracle

    t, m, _ = x.shape
    return oracle.compute_retention_mask(x.flatten(0, 1), (t, 2 * m, 2), 2, removed).nonzero().flatten()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("t", "m", "d"), [(1, 9, 8), (2, 30, 16), (8, 16, 24), (20, 50, 64), (7, 300, 1100), (32, 4, 8)]
)
def test_evs(t, m, d, dtype):
    from vllm.multimodal.video_prune import evs as oracle

    x = features(t, m, d).to(dtype)
    x[t // 3 : t // 2] = x[t // 3]  # frames that stand still, and tie
    if dtype != torch.float16:  # where zero tokens are NaN to vLLM, and take the place of the first frame's tokens
        x[-1, : m // 3] = 0
    for removed in (0.05, 0.1, 0.3, 0.5, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99):
        released = compressor("evs.released", retention=1 - removed)
        theirs = evs_of_vllm(x, removed)
        assert torch.equal(released.select(x).index, theirs)
        assert released.total(t, m) == len(theirs) == oracle.compute_retained_tokens_count(m, t, removed)


@pytest.mark.parametrize("removed", [0.3, 0.5, 0.7, 0.75])
def test_evs_mended_differs_by_rounding_only(removed):
    t, m = 8, 49
    x = features(t, m, 64)
    ours = compressor("evs", retention=1 - removed).select(x).index
    theirs = evs_of_vllm(x, removed)
    assert 0 <= len(ours) - len(theirs) <= 1
    assert torch.isin(theirs, ours).all()


def test_the_benchmark_compares_with_it(tmp_path):
    file = tmp_path / "operator.json"
    flags = ["--sizes", "8x16x64,4x9x32", "--repeats", "2", "--device", "cpu", "--json", str(file)]
    assert main(["bench", "operator", "--vllm", *flags]) == 0
    first, second = json.loads(file.read_text(encoding="utf-8"))["sizes"]
    assert [first["kept"], second["kept"]] == [32, 9]
    assert 0.9 * first["kept"] <= first["same"] <= first["kept"]
    assert first["faster"]["vLLM's"] == 1
