"""VidCom² against the slow reference, and properties that hold for any features."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vidcom2 import reference
from vidcom2 import VidCom2
from vidcom2.budget import token_budgets

VARIANTS = {
    "paper": VidCom2(0.25),
    "exact": VidCom2(0.25, rounding="exact"),
    "released": VidCom2.released(0.25),
}


def video(frames: int, m: int, d: int, seed: int = 0) -> torch.Tensor:
    """Features with some structure: a shared scene, noise, and every third frame its own offset."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, m, d, generator=g) + 0.3 * torch.randn(frames, m, d, generator=g)
    x[::3] += 0.2 * torch.randn(1, 1, d, generator=g)
    return x


shapes = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 24), st.integers(0, 2**31))
ratios = st.floats(0.001, 1.0)


ABLATIONS = [
    {},
    {"rounding": "half_even"},
    {"sign": 1},
    {"frame_score": "max"},
    {"frame_score": "uniform"},
    {"window": 4},
    {"window": 1},
    {"frame_weight": 2.0},
    {"video_weight": 2.0},
    {"video_weight": 0.0},
    {"frame_weight": 0.0, "frame_score": "uniform", "sign": 1},
    {"similarity": "gaussian", "rounding": "half_even"},
    {"similarity": "gaussian", "window": 3, "frame_score": "max"},
]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
@pytest.mark.parametrize("shape", [(10, 12, 16), (1, 7, 5), (4, 1, 8), (7, 9, 5)], ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.15, 0.25, 0.6])
def test_every_setting_equals_the_slow_reference(shape, ratio, ablation):
    x = video(*shape, seed=sum(shape)).double()
    kept = VidCom2(ratio, **ablation).select(x)
    index, budgets = reference.vidcom2(x.numpy(), ratio, **ablation)
    assert kept.budgets.tolist() == budgets
    assert kept.index.tolist() == index


@given(shapes, ratios, st.sampled_from(list(VARIANTS)))
@settings(deadline=None, max_examples=150)
def test_kept_is_well_formed(shape, ratio, variant):
    frames, m, d, seed = shape
    x = video(frames, m, d, seed)
    kept = type(VARIANTS[variant])(**{**VARIANTS[variant].settings, "retention": ratio}).select(x)
    assert kept.index.dtype == kept.budgets.dtype == torch.int64
    assert kept.budgets.shape == (frames,)
    assert kept.budgets.min() >= 1
    assert kept.budgets.max() <= m
    assert torch.equal(kept.index, kept.index.unique())  # ascending, no token twice
    assert torch.equal(torch.bincount(kept.index // m, minlength=frames), kept.budgets)
    assert torch.equal(kept.apply(x), x.flatten(0, 1)[kept.index])


@given(shapes, ratios)
@settings(deadline=None, max_examples=100)
def test_exact_budgets_add_up(shape, ratio):
    frames, m, d, seed = shape
    kept = VidCom2(ratio, rounding="exact").select(video(frames, m, d, seed))
    assert len(kept.index) == min(frames * m, max(frames, round(ratio * frames * m)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 30), st.data())
def test_exact_is_the_largest_remainder(shares, m, data):
    """Against the textbook loop: floor everything, then one more to the largest fractions."""
    share = torch.tensor(shares, dtype=torch.float64).clamp(1 / m, 1)
    retention = float(share.mean())
    total = round(retention * len(shares) * m)
    floors = [int(s * m) for s in share.tolist()]
    fractions = [s * m - f for s, f in zip(share.tolist(), floors, strict=True)]
    if len({round(f, 9) for f in fractions}) < len(fractions) or min(floors) < 1:
        return  # ties may go either way; frames below one token are lifted, which the textbook does not do
    for t in sorted(range(len(shares)), key=lambda t: -fractions[t])[: total - sum(floors)]:
        floors[t] += 1
    assert token_budgets(share, m, "exact", retention).tolist() == floors


def test_exact_gives_what_full_frames_cannot_take_to_the_others():
    x = 1 + 0.1 * torch.randn(4, 10, 8, generator=torch.Generator().manual_seed(0))
    x[2] *= -1  # one frame unlike all others: sigma = 1, and it wishes for more than M tokens
    kept = VidCom2(0.9, rounding="exact").select(x)
    assert kept.budgets[2] == 10
    assert kept.budgets.sum() == 36


@given(shapes, st.sampled_from([0.1, 0.25, 0.7]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_permuting_frames_permutes_the_result(shape, ratio, random):
    frames, m, d, seed = shape
    x = video(frames, m, max(d, 4), seed).double()
    order = list(range(frames))
    random.shuffle(order)
    kept = VidCom2(ratio).select(x)
    moved = VidCom2(ratio).select(x[order])
    assert torch.equal(moved.budgets, kept.budgets[order])
    back = torch.tensor(order)[moved.index // m] * m + moved.index % m
    assert torch.equal(back.sort().values, kept.index)


@given(shapes, st.integers(-40, 40))
@settings(deadline=None, max_examples=60)
def test_cosine_is_blind_to_scale(shape, exponent):
    frames, m, d, seed = shape
    x = video(frames, m, d, seed)
    a, b = VidCom2(0.25).select(x), VidCom2(0.25).select(x * 2.0**exponent)
    assert torch.equal(a.index, b.index)


@pytest.mark.parametrize("variant", VARIANTS)
def test_retention_one_keeps_everything(variant):
    x = video(5, 6, 4)
    kept = type(VARIANTS[variant])(**{**VARIANTS[variant].settings, "retention": 1}).select(x)
    assert kept.index.tolist() == list(range(30))
    assert kept.budgets.tolist() == [6] * 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_retention_keeps_one_token_per_frame(variant):
    kept = type(VARIANTS[variant])(**{**VARIANTS[variant].settings, "retention": 1e-6}).select(video(5, 6, 4))
    assert kept.budgets.tolist() == [1] * 5


def test_equal_frames_get_equal_budgets():
    """Float noise between identical frames must not reach the ceiling: 0.25 of 196 is 49, never 50."""
    x = video(1, 196, 64).repeat(32, 1, 1)
    assert VidCom2(0.25).select(x).budgets.tolist() == [49] * 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_features_are_scored_in_float32(variant, dtype):
    x = video(8, 30, 48).to(dtype)
    why, exact = VARIANTS[variant].explain(x), VARIANTS[variant].explain(x.double())
    assert why.video.dtype == torch.float32
    torch.testing.assert_close(why.video.double(), exact.video, atol=3e-6, rtol=0)
    torch.testing.assert_close(why.frame.double(), exact.frame, atol=3e-6, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_non_contiguous_features(variant):
    x = video(6, 8, 10)
    assert torch.equal(
        VARIANTS[variant].select(x.transpose(0, 1).contiguous().transpose(0, 1)).index,
        VARIANTS[variant].select(x).index,
    )


class CountedOps(TorchDispatchMode):
    """Counts all operators, and those that would make the host wait for a GPU."""

    SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.syncs, self.total = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += 1
        self.syncs += func.overloadpacket.__name__ in self.SYNCS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_loop_over_frames_and_no_hidden_synchronisation(variant):
    with CountedOps() as few:
        VARIANTS[variant].select(video(2, 8, 4))
    with CountedOps() as many:
        VARIANTS[variant].select(video(64, 8, 4))
    assert many.total == few.total
    # The only wait is `tolist` of the one packed tensor, which does not count as an operator on a CPU.
    assert many.syncs == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("ratio", [0.25, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_and_inf_raise(variant, ratio, value):
    for channel in range(6):
        x = video(4, 5, 6)
        x[2, 3, channel] = value
        with pytest.raises(ValueError, match="NaN or Inf"):
            type(VARIANTS[variant])(**{**VARIANTS[variant].settings, "retention": ratio}).select(x)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5, 6), (5,)])
def test_wrong_rank_raises(shape):
    with pytest.raises(ValueError, match=r"not \[T, M, D\]"):
        VidCom2(0.25).select(torch.zeros(shape))


def test_empty_and_integer_features_raise():
    with pytest.raises(ValueError, match="no token"):
        VidCom2(0.25).select(torch.zeros(0, 5, 6))
    with pytest.raises(ValueError, match="floating-point"):
        VidCom2(0.25).select(torch.zeros(2, 5, 6, dtype=torch.int64))


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan"), "0.25", None, True])
def test_retention_out_of_range_raises(ratio):
    with pytest.raises(ValueError, match="retention"):
        VidCom2(ratio)


@pytest.mark.parametrize(
    "bad",
    [
        {"sign": 0},
        {"frame_score": "median"},
        {"window": 0},
        {"tau": 0},
        {"rounding": "floor"},
        {"similarity": "dot"},
        {"channels": 0},
        {"positions": "packed"},
        {"newlines": "none"},
    ],
    ids=str,
)
def test_bad_settings_raise_and_name_themselves(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        VidCom2(0.25, **bad)
