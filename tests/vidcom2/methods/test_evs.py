"""EVS against vLLM's function (recorded; tests/vllm has vLLM itself), and against a slow and obvious reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden import load
from tests.vidcom2.methods.test_vcast import RATIOS
from tests.vidcom2.test_baselines import best, cosine, features, recorded, scenes
from tests.vidcom2.test_vidcom2 import CountedOps, video
from vidcom2 import FrameAdjustment, compressor
from vidcom2.methods.evs import Evs

SHAPES = [(1, 1, 4), (1, 9, 4), (2, 9, 4), (6, 1, 4), (5, 7, 4), (12, 12, 6), (11, 9, 5)]


def cases(entry: dict) -> dict[str, torch.Tensor]:
    """The features of a recording, by the prefix of its tensors."""
    x = features(entry) if "input_ref" in entry["meta"] else None
    if x is not None:
        return {"": x}
    return {name[:-1]: x for name, x in load(entry["meta"]["input_file"]).items() if name.endswith(".x")}


@pytest.mark.parametrize("entry", recorded("evs"))
def test_released(entry):
    golden, checked = load(entry["file"]), 0
    for case, x in cases(entry).items():
        for tag, ratio in RATIOS.items():
            assert torch.equal(Evs.released(ratio).select(x).index, golden[f"{case}{tag}.keep"]), (case, tag)
            checked += 1
    assert checked == len(golden)


def slow_changes(x: np.ndarray) -> list[list[float]]:
    frames, m = x.shape[:2]
    scores = [[1 - cosine(token, x[0].mean(0)) for token in x[0]]]
    for t in range(1, frames):
        changes = [1 - cosine(x[t, j], x[t - 1, j]) for j in range(m)]
        scores.append([change if change > 1e-6 else 0 for change in changes])
    return scores


def slow_evs(x: np.ndarray, ratio: float) -> list[int]:
    frames, m = x.shape[:2]
    total = max(frames, round(ratio * frames * m))
    scores = slow_changes(x)
    whole = total >= m + frames - 1
    first = best(scores[0], m if whole else total - (frames - 1))
    others = [change for frame in scores[1:] for change in frame]
    return first + [m + i for i in best(others, total - len(first))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.15, 0.25, 0.5, 0.9, 0.99])
def test_mended(shape, ratio):
    x = video(*shape).double()
    kept = Evs(ratio).select(x)
    assert kept.index.tolist() == slow_evs(x.numpy(), ratio)
    assert len(kept.index) == max(shape[0], round(ratio * shape[0] * shape[1]))
    assert kept.features is None


@pytest.mark.parametrize("shape", [(5, 40, 6), (8, 25, 6)], ids=str)
def test_released_and_mended_are_the_same_where_the_first_frame_is_whole(shape):
    x = scenes([2, shape[0] - 2], shape[1], shape[2], 0.3).float()
    for kept in range(shape[1] + shape[0], shape[0] * shape[1], 7):
        ratio = (kept + 0.25) / (shape[0] * shape[1])  # neither rounding changes it
        ours, theirs = Evs(ratio).select(x), Evs.released(ratio).select(x)
        assert len(ours.index) == kept
        assert torch.equal(ours.index, theirs.index)
        assert ours.budgets[0] == shape[1]


def test_the_first_frame_gives_way():
    """As R falls, the first frame is thinned once the others have T - 1 tokens."""
    x = scenes([4, 6], 20, 8, 0.3).float()
    first = {total: int(Evs(total / 200).select(x).budgets[0]) for total in range(10, 41)}
    assert first == {total: min(20, total - 9) for total in range(10, 41)}
    few, less = Evs(24 / 200).select(x).index.tolist(), Evs(17 / 200).select(x).index.tolist()
    assert set(less) < set(few)


def test_released_is_the_first_frame_alone_below_a_share_of_it():
    x = video(8, 20, 6)
    for ratio in (0.01, 0.1, 0.125):
        assert Evs.released(ratio).select(x).index.tolist() == list(range(20))
        assert Evs.released(ratio).total(8, 20) == 20
    assert Evs.released(0.25).select(x).budgets[0] == 20


def test_released_rounds_as_vllm_does():
    """1 - 0.9 is a little less than 0.1, so int(1000 * (1 - 0.9)) is 99."""
    assert [Evs.released(r).total(20, 50) for r in (0.1, 0.2, 0.3, 0.25)] == [99, 199, 300, 250]
    assert [Evs(r).total(20, 50) for r in (0.1, 0.2, 0.3, 0.25)] == [100, 200, 300, 250]


def test_what_moves_stays():
    """Of a still background, only the first frame's tokens stay; a thing that moves stays in every frame."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 36, 16, generator=g).repeat(6, 1, 1)
    for t in range(6):
        x[t, 5 * t : 5 * t + 3] = torch.randn(3, 16, generator=g)
    moved = {t * 36 + j for t in range(1, 6) for s in (t - 1, t) for j in range(5 * s, 5 * s + 3)}
    kept = Evs((36 + len(moved)) / 216).select(x)
    assert set(kept.index.tolist()) == set(range(36)) | moved
    assert kept.budgets.tolist() == [36, 6, 6, 6, 6, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_of_unchanged_tokens_the_earliest_stay(dtype):
    """Float32 noise, which is in the cosine of a token to itself, must not choose."""
    x = torch.randn(1, 50, 700, generator=torch.Generator().manual_seed(0)).to(dtype).repeat(5, 1, 1)
    assert Evs(0.5).select(x).index.tolist() == list(range(125))
    x[4, 7] *= -1
    assert Evs(0.5).select(x).index.tolist() == [*range(124), 4 * 50 + 7]


def test_half_precision():
    """The default computes in float32. `released` computes in bfloat16, where small changes are multiples of 1/256."""
    seeded = torch.Generator().manual_seed(1)
    x = torch.randn(1, 40, 64, generator=seeded) + 0.05 * torch.randn(6, 40, 64, generator=seeded)
    x = x.bfloat16()
    assert torch.equal(Evs(0.25).select(x).index, Evs(0.25).select(x.float()).index)
    levels = Evs.released(0.25).scores(x)[1:] * 256
    assert torch.equal(levels, levels.round())
    assert len(levels.unique()) < 5
    assert len(Evs(0.25).scores(x)[1:].unique()) > 190


def test_a_caller_may_shape_budgets():
    x = scenes([3, 3], 20, 8, 0.3).float()
    asked = Evs(0.25, budgets=[4, *[None] * 5]).select(x)
    assert asked.budgets[0] == 4
    assert asked.budgets.sum() == 30
    scores = slow_changes(x.double().numpy())
    expected = [t * 20 + j for t, k in enumerate(asked.budgets.tolist()) for j in best(scores[t], k)]
    assert asked.index.tolist() == expected
    fca = Evs(0.25, fca=FrameAdjustment()).select(x)
    assert torch.equal(fca.budgets, FrameAdjustment().budgets(x, 0.25))
    expected = [t * 20 + j for t, k in enumerate(fca.budgets.tolist()) for j in best(scores[t], k)]
    assert fca.index.tolist() == expected


def test_long_videos_in_slices():
    """More elements than a slice has, so that frames are compared across slices."""
    x = scenes([5, 4], 300, 900, 0.4).float()
    assert Evs(0.3).select(x).index.tolist() == slow_evs(x.double().numpy(), 0.3)
    assert torch.equal(Evs(0.3).select(x.bfloat16()).index, Evs(0.3).select(x.bfloat16().float()).index)


def test_features_that_need_gradients():
    x = video(5, 7, 4)
    kept = Evs(0.5).select(x.clone().requires_grad_())
    assert torch.equal(kept.index, Evs(0.5).select(x).index)


def test_no_loop_over_frames_and_no_hidden_synchronisation():
    for form in (Evs(0.25), Evs.released(0.25)):
        with CountedOps() as few:
            form.select(video(3, 8, 4))
        with CountedOps() as many:
            form.select(video(64, 8, 4))
        assert many.total == few.total
        assert many.syncs == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [("evs:form=new", "form='new'"), ("evs+fca.released", r"evs\.released keeps the first frame whole")],
)
def test_bad_settings(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)
