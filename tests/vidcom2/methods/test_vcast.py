"""V-CAST against the authors' functions (recorded), and against a slow and obvious reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.golden import load
from tests.vidcom2.test_baselines import best, cosine, features, recorded, scenes
from tests.vidcom2.test_vidcom2 import CountedOps, video
from vidcom2 import FrameAdjustment, compressor
from vidcom2.methods.vcast import VCast, curvature

RATIOS = {"R005": 0.05, "R010": 0.1, "R015": 0.15, "R025": 0.25, "R050": 0.5, "R090": 0.9}
SHAPES = [(1, 1, 4), (1, 9, 4), (2, 9, 4), (6, 1, 4), (5, 7, 4), (12, 12, 6), (11, 9, 5)]


def cases(entry: dict) -> dict[str, torch.Tensor]:
    """The features of a recording, by the prefix of its tensors."""
    if "input_ref" in entry["meta"]:
        return {"": features(entry)}
    return {name[:-1]: x for name, x in load(entry["file"]).items() if name.endswith(".x")}


@pytest.mark.parametrize("entry", recorded("vcast"))
def test_released(entry):
    golden = load(entry["file"])
    for case, x in cases(entry).items():
        m = x.shape[1]
        for tag, ratio in RATIOS.items():
            kept, theirs = VCast.released(ratio).select(x), golden[f"{case}{tag}.keep"]
            assert torch.equal(kept.budgets, torch.bincount(theirs // m, minlength=len(x))), (case, tag)
            unlike = set(kept.index.tolist()) ^ set(theirs.tolist())
            # Zero tokens tie, and torch.topk keeps any of them.
            assert all(not x.flatten(0, 1)[i].any() for i in unlike), (case, tag)


def slow_kappa(x: np.ndarray) -> list[float]:
    unit = [frame.mean(0) / np.linalg.norm(frame.mean(0)) for frame in x]
    kappa = [1.0] * len(x)
    for t in range(1, len(x) - 1):
        kappa[t] = 1 - cosine(unit[t] - unit[t - 1], unit[t + 1] - unit[t])
    return kappa


def slow_budgets(x: np.ndarray, ratio: float, form: str = "mended") -> list[int]:
    """Token by token."""
    frames, m = x.shape[:2]
    total = max(frames, round(ratio * frames * m))
    weight = [math.exp(kappa / 0.7) for kappa in slow_kappa(x)]
    wanted = [w / sum(weight) * (total - frames) for w in weight]
    if form == "mended":
        budgets = [1] * frames
        while sum(budgets) < total:
            budgets[max((t for t in range(frames) if budgets[t] < m), key=lambda t: wanted[t] + 1 - budgets[t])] += 1
        return budgets
    budgets = [min(m, 1 + math.floor(wish)) for wish in wanted]
    for t in sorted(range(frames), key=lambda t: math.floor(wanted[t]) - wanted[t]):
        while budgets[t] < m and sum(budgets) < total:
            budgets[t] += 1
    return budgets


def slow_vcast(x: np.ndarray, budgets: list[int]) -> list[int]:
    m = x.shape[1]
    kept = []
    for t, k in enumerate(budgets):
        length = [float(np.linalg.norm(token)) for token in x[t]]
        spread = max(length) - min(length) + 1e-6
        scores = [1 - cosine(x[t, j], x[t].mean(0)) + (length[j] - min(length)) / spread for j in range(m)]
        kept += [t * m + j for j in best(scores, k)]
    return kept


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.15, 0.25, 0.5, 0.9, 0.99])
def test_mended(shape, ratio):
    x = video(*shape).double()
    kept = VCast(ratio).select(x)
    budgets = slow_budgets(x.numpy(), ratio)
    assert kept.budgets.tolist() == budgets
    assert sum(budgets) == max(shape[0], round(ratio * shape[0] * shape[1]))
    assert kept.index.tolist() == slow_vcast(x.numpy(), budgets)
    assert kept.features is None


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] > 1], ids=str)
@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.5, 0.9])
def test_released_against_the_slow_reference(shape, ratio):
    x = video(*shape, seed=1).double()
    kept = VCast.released(ratio).select(x)
    budgets = slow_budgets(x.numpy(), ratio, "released")
    assert kept.budgets.tolist() == budgets
    assert kept.index.tolist() == slow_vcast(x.numpy(), budgets)


def there_and_back(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Eleven frames whose mean goes in one direction, turns round in frame 5, and comes back."""
    g = torch.Generator().manual_seed(0)
    x, direction = torch.randn(1, 40, 16, generator=g), torch.randn(16, generator=g)
    along = torch.tensor([0.0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0])
    return (x + 0.1 * along[:, None, None] * direction).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_turn_keeps_the_most(dtype):
    x = there_and_back(dtype)
    budgets = VCast(0.25).select(x).budgets.tolist()
    assert budgets.index(max(budgets)) == 5
    straight = budgets[1:5] + budgets[6:10]
    assert budgets[5] > 2 * budgets[0] > 2 * max(straight)  # kappa 2; the ends have 1; straight on has 0
    assert sum(budgets) == 110


def test_released_gives_one_frame_all_that_is_left_over():
    x = there_and_back()
    mended, released = VCast(0.25).select(x).budgets, VCast.released(0.25).select(x).budgets
    assert (released - mended).max() > 1
    assert ((released - mended) > 0).sum() == 1
    assert released.sum() == mended.sum() == 110


def test_kappa_is_that_of_the_slow_reference_and_does_not_know_scale():
    x = scenes([3, 1, 6], 9, 5, 0.3)
    means = x.mean(dim=1)
    expected = torch.tensor(slow_kappa(x.numpy()), dtype=torch.float64)
    torch.testing.assert_close(curvature(means), expected)
    torch.testing.assert_close(curvature(1000 * means), expected)


def test_jitter_keeps_more_than_a_pan():
    g = torch.Generator().manual_seed(0)
    still, direction = torch.randn(1, 40, 64, generator=g), torch.randn(64, generator=g)
    jitter = still + 0.02 * torch.randn(32, 40, 64, generator=g)
    pan = still + torch.linspace(0, 1, 32)[:, None, None] * direction
    assert curvature(jitter.mean(dim=1))[1:-1].mean() == pytest.approx(1.5, abs=0.05)
    assert curvature(pan.mean(dim=1))[1:-1].mean() < 0.01
    jitter[16:] = pan[16:]
    first, second = VCast(0.25).select(jitter).budgets.split(16)
    assert first.sum() > 4 * second.sum()  # the last frame alone, an end, has nine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_still_video_has_equal_budgets(dtype):
    x = video(1, 24, 8).to(dtype).repeat(6, 1, 1)
    kept = VCast(0.3).select(x)
    assert kept.budgets.tolist() == [8, 7, 7, 7, 7, 7]
    places = [(kept.index[kept.index // 24 == t] % 24).tolist() for t in range(1, 6)]
    assert places == [places[0]] * 5


def test_equal_tokens_keep_the_first():
    assert VCast(0.25).select(torch.zeros(2, 8, 4)).index.tolist() == [0, 1, 8, 9]
    x = torch.zeros(1, 6, 4)
    x[0, 3], x[0, 4] = 1, -2  # so 3 is opposite to the mean: it has 2 + 1/2, all others have 1
    assert VCast(0.34).select(x).index.tolist() == [0, 3]


def test_half_precision_is_computed_in_float32():
    x = there_and_back(torch.bfloat16)
    assert torch.equal(VCast(0.25).select(x).index, VCast(0.25).select(x.float()).index)


def test_a_caller_may_shape_budgets():
    x = there_and_back()
    asked = VCast(0.25, budgets=[None, 40, *[None] * 9]).select(x)
    assert asked.budgets[1] == 40
    assert asked.budgets.sum() == 110
    others = [0, *range(2, 11)]
    assert int(asked.budgets[others].argmax()) == others.index(5)
    fca = VCast(0.25, fca=FrameAdjustment()).select(x)
    assert torch.equal(fca.budgets, FrameAdjustment().budgets(x, 0.25))
    assert fca.index.tolist() == slow_vcast(x.double().numpy(), fca.budgets.tolist())


def test_no_loop_over_frames_and_no_hidden_synchronisation():
    for form in (VCast(0.25), VCast.released(0.25)):
        with CountedOps() as few:
            form.select(video(3, 8, 4))
        with CountedOps() as many:
            form.select(video(64, 8, 4))
        assert many.total == few.total
        assert many.syncs == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vcast:form=new", "form='new'"),
        ("vcast:tau=0", r"tau=0\.0 must be positive"),
        ("vcast+fca:tau=0.5", r"tau=0\.5 changes nothing"),
        ("vcast+fca.released", r"vcast\.released has budgets by curvature and cannot take \+fca"),
    ],
)
def test_bad_settings(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)
