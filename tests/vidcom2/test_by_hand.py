"""The caller's say: budgets, masks and a floor, against a slow and obvious sharing of tokens one by one."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch

from vidcom2 import METHODS, Compressor, ImpossibleBudgets, Keep, Kept, Ranking, VidCom2, compressor
from vidcom2.by_hand import TokenMask
from vidcom2.vllm.serving import serving

T, M, D = 8, 20, 16
RANKING = sorted(name for name, method in METHODS.items() if issubclass(method, Ranking))
MASKED = sorted(name for name in RANKING if METHODS[name].ranks_alone)
SPECS = (
    "vidcom2@0.25",
    "vidcom2.released@0.25",
    "vidcom2@0.25:tau=0.3",
    "norm@0.25",
    "uniform+fca@0.25",
    "dycoke+fca@0.25",
)


def video(seed: int = 0, t: int = T, m: int = M) -> torch.Tensor:
    x = torch.randn(t, m, D, generator=torch.Generator().manual_seed(seed))
    x[t // 2] += 1  # one frame stands out
    return x


def named(**tokens: int) -> tuple[int | None, ...]:
    """Budgets of T frames: named(f2=20) names frame 2."""
    return tuple(tokens.get(f"f{t}") for t in range(T))


def shared_slowly(method: Any, x: torch.Tensor, budgets: Any, floors: list[int], total: int) -> list[int]:
    """The k_t: what is named, then one token at a time to the frame that is furthest below its wish."""
    free = [t for t in range(T) if budgets[t] is None]
    given = [floors[t] if budgets[t] is None else budgets[t] for t in range(T)]
    left = total - sum(k for k in budgets if k is not None)
    rate = left / (len(free) * M)
    if method.fca is None:
        wish = {t: left / len(free) for t in free}
    else:
        u = method.fca.uniqueness(method.fca.measure(x)).double().tolist()
        top = max(u[t] for t in free)
        weight = {t: math.exp((u[t] - top) / method.fca.tau) for t in free}
        share = {t: weight[t] / (sum(weight.values()) + 1e-8) for t in free}
        wish = {t: min(1.0, rate * (1 + share[t] - 1 / len(free))) * M for t in free}
    while sum(given) < total:
        taker = min((t for t in free if given[t] < M), key=lambda t: (given[t] + 1 - wish[t], t))
        given[taker] += 1
    return given


@pytest.mark.parametrize("budgets", [named(f2=20), named(f0=1, f7=10), named(f3=0), named(f1=9, f4=3, f5=8)])
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("spec", SPECS)
def test_named_frames_come_first_and_the_rest_is_shared(spec, least, budgets):
    if least == 2 and any(k is not None and k < 2 for k in budgets):
        pytest.skip("a contradiction")
    method = dataclasses.replace(compressor(spec), budgets=budgets, min_per_frame=least)
    x = video()
    kept = method.select(x)
    expected = shared_slowly(method, x, budgets, [least] * T, round(0.25 * T * M))
    assert kept.budgets.tolist() == expected
    assert kept.by_hand == budgets
    assert len(kept.index) == method.total(T, M) == 40
    assert torch.bincount(kept.index // M, minlength=T).tolist() == expected
    if spec.startswith("vidcom2"):  # within a frame, the best stay
        for t, scores in enumerate(method.scores(x)):
            best = scores.argsort(descending=True, stable=True)[: expected[t]].sort().values
            assert torch.equal(kept.index[kept.index // M == t] - t * M, best)


@pytest.mark.parametrize("least", [2, 3, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_a_floor_for_every_frame(spec, least):
    method = dataclasses.replace(compressor(spec), min_per_frame=least)
    x = video(1)
    kept = method.select(x)
    assert kept.budgets.tolist() == shared_slowly(method, x, named(), [least] * T, 40)
    assert min(kept.budgets) >= least
    assert kept.by_hand == (None,) * T


@pytest.mark.parametrize("name", MASKED)
def test_tokens_of_a_mask_stay(name):
    mask = torch.rand(T, M, generator=torch.Generator().manual_seed(3)) < 0.12
    method = dataclasses.replace(compressor(f"{name}@0.25"), mask=mask)
    kept = method.select(video())
    stays = torch.zeros(T * M, dtype=torch.bool).index_fill_(0, kept.index, True).view(T, M)
    assert bool(stays[mask].all())
    assert len(kept.index) == 40
    assert kept.by_hand == tuple(int(n) or None for n in mask.sum(dim=1))
    rest = dataclasses.replace(compressor(f"{name}@0.25"), budgets=kept.budgets).select(video())
    for t in range(T):  # behind the mask, the method's own order
        own = [i for i in rest.index.tolist() if i // M == t]
        assert len(set(own) - set(kept.index.tolist())) <= int(mask[t].sum())


def test_a_mask_of_a_whole_frame_is_its_budget():
    mask = torch.zeros(T, M, dtype=torch.bool)
    mask[2] = True
    for spec in SPECS[:3]:
        by_mask = dataclasses.replace(compressor(spec), mask=mask).select(video())
        by_budget = dataclasses.replace(compressor(spec), budgets=named(f2=M)).select(video())
        assert torch.equal(by_mask.index, by_budget.index)


def test_a_budget_for_every_frame_is_the_whole_say():
    kept = VidCom2(0.5, budgets=[3] * T).select(video())
    assert kept.budgets.tolist() == [3] * T
    assert VidCom2(0.5, budgets=[3] * T).total(T, M) == 24


def test_a_function_of_the_shape_serves_videos_of_any_length():
    method = VidCom2(0.5, budgets=lambda t, m: [m] + [None] * (t - 1))
    for t, m in ((4, 9), (6, 20)):
        kept = method.select(video(t=t, m=m))
        assert kept.budgets[0] == m
        assert len(kept.index) == round(0.5 * t * m)


def test_arrays_and_tensors_are_budgets_too():
    assert VidCom2(budgets=torch.full((T,), 2)).budgets == (2,) * T
    assert VidCom2(budgets=torch.full((T,), 2).numpy()) == VidCom2(budgets=(2,) * T)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"budgets": named(f0=20, f1=20)}, r"46 tokens are asked for by hand \(40 in 2 frames with budgets of their"
         r" own; 6 in 6 others, which keep at least 1 each\), and retention=0.25 keeps 40 of 160: raise .* to 0.2875"),
        ({"min_per_frame": 6}, r"48 tokens .* \(48 in 8 frames, which keep at least 6 each\).*raise retention to 0.3"),
        ({"min_per_frame": 21}, "min_per_frame=21, and a frame of this video has 20 tokens"),
        ({"mask": torch.ones(T, M, dtype=torch.bool)}, r"keeps 40 of 160: compress nothing \(retention=1\), or ask"),
        ({"budgets": (1, None)}, "budgets has 2 entries, and this video has 8 frames"),
        ({"budgets": lambda t, m: [m]}, "budgets has 1 entries, and this video has 8 frames"),
        ({"budgets": named(f3=21)}, "budgets asks 21 tokens of frame 3, which has 20"),
        ({"budgets": (0,) * T}, "budgets keep no token of any frame"),
        ({"budgets": named(f3=2), "min_per_frame": 3}, "frame 3 2 tokens, and min_per_frame=3"),
        ({"mask": torch.ones(T, M - 1, dtype=torch.bool)}, r"mask is of shape \[8, 19\], and this video"),
        ({"mask": torch.arange(T * M).view(T, M) < 5, "budgets": named(f0=3)}, "frame 0 3 tokens, and mask keeps 5"),
    ],
)  # fmt: skip
def test_what_a_video_cannot_keep_is_an_error(settings, said):
    method = VidCom2(0.25, **settings)
    with pytest.raises(ImpossibleBudgets, match=said):
        method.select(video())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VidCom2(budgets=(None, None)), "names no frame, so it has no effect"),
        (lambda: VidCom2(budgets=(1.5, None)), "1.5 for frame 0"),
        (lambda: VidCom2(budgets=(True,)), "True for frame 0"),
        (lambda: VidCom2(budgets=(None, -1)), "-1 for frame 1"),
        (lambda: VidCom2(budgets=torch.ones(8, 196)), r"^budgets is of shape \[8, 196\]; it must be \[T\]"),
        (lambda: VidCom2(budgets=[[1] * 196] * 8), r"^budgets has \[1, 1, 1, 1, 1, 1, \.\.\.\] for frame 0"),
        (lambda: VidCom2(budgets=[None] * 64), r"^budgets=\[None, None, None, None, None, None, \.\.\.\] names"),
        (lambda: VidCom2(budgets="full"), "budgets='full' must be one entry per frame"),
        (lambda: VidCom2(min_per_frame=0), "min_per_frame=0 must be at least 1"),
        (lambda: VidCom2(min_per_frame=1.5), "min_per_frame=1.5 must be a whole number"),
        (lambda: VidCom2(mask=torch.ones(3, 4)), "torch.float32"),
        (lambda: VidCom2(mask=torch.zeros(3, 4, dtype=torch.bool)), "names no token"),
        (lambda: VidCom2(mask="all"), "must be a bool tensor"),
        (lambda: VidCom2(1.0, min_per_frame=2), "retention=1 keeps every token, so min_per_frame has no effect"),
        (lambda: compressor("visionzip.released@0.25:min_per_frame=2"), "visionzip can"),
        (lambda: compressor("dycoke.released@0.5:min_per_frame=2"), "dycoke can"),
        (lambda: compressor("visionzip", mask=torch.ones(3, 4, dtype=torch.bool)), "cannot take mask"),
        (lambda: compressor("uniform", mask=torch.ones(3, 4, dtype=torch.bool)), "cannot take mask"),
    ],
)
def test_a_say_that_cannot_be_meant(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_with_frame_budgets_take_them_and_others_refuse(name):
    one = METHODS[name]()
    budgets = named(f1=7)
    if name in RANKING:
        assert one.takes_budgets()
        assert one.with_budgets(budgets).select(video(), (4, 5)).budgets[1] == 7
        with pytest.raises(ValueError, match="has budgets already"):
            one.with_budgets(budgets).with_budgets(budgets)
        return
    with pytest.raises(ValueError, match=f"{name} takes no budgets by hand"):
        one.with_budgets(budgets)
    with pytest.raises(ValueError, match="budgets"):
        compressor(name, budgets=budgets)


def test_specs_have_budgets_of_numbers_and_name_the_rest():
    for one in (VidCom2(budgets=named(f2=5)), VidCom2(min_per_frame=3), compressor("norm+fca@0.3:min_per_frame=2")):
        assert compressor(one.spec) == one
        assert eval(repr(one), {"compressor": compressor}) == one
    mask = torch.arange(6).view(2, 3) < 2
    masked = VidCom2(mask=mask)
    assert masked == VidCom2(mask=mask.tolist())
    assert hash(masked) == hash(VidCom2(mask=mask.clone()))
    assert masked != VidCom2(mask=~mask)
    assert masked.spec != VidCom2(mask=~mask).spec
    assert ":mask=<2 of 2x3, " in masked.spec
    assert repr(masked).startswith("<VidCom2 vidcom2@0.25:mask=<2 of 2x3")
    assert isinstance(masked.settings["mask"], str)
    assert pickle.loads(pickle.dumps(masked)) == masked
    seconds = VidCom2(budgets=Keep.parse("1s-2s:full").at([0.0, 1.0]))
    assert seconds.spec == "vidcom2@0.25:budgets=<1s-2s:full>"
    with pytest.raises(ValueError, match="budgets='<1s-2s'"):
        compressor(seconds.spec.replace(":full>", ""))


def test_a_mask_does_not_follow_the_tensor_that_it_came_from():
    mask = torch.ones(2, 3, dtype=torch.bool)
    made = TokenMask.of(mask)
    mask[:] = False
    assert bool(made.stay.all())


def test_an_engine_that_counts_beforehand_refuses():
    with pytest.raises(ValueError, match="min_per_frame can be impossible for one of the videos"):
        serving(VidCom2(min_per_frame=2), "repack")


def test_a_method_that_defines_the_name_is_told():
    with pytest.raises(TypeError, match="call it `own_budgets`"):

        class Old(Ranking):
            def budgets(self, x: Any) -> Any:  # type: ignore[override]
                return x


def test_without_a_say_nothing_is_recorded():
    assert VidCom2().select(video()).by_hand == ()
    assert Kept(torch.zeros(1), torch.ones(1)).by_hand == ()
    assert isinstance(VidCom2(), Compressor)


# ---- seconds


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("12s-15s:full", "12s-15s:full"),
        ("0.5s-1.50s:50%, 3s-3s:20", "0.5s-1.5s:50%,3s-3s:20"),
        ("1s-2s:100%", "1s-2s:full"),
        ("12345.678s-1234567s:33.3%", "12345.678s-1234567s:33.3%"),
        ("0.00001s-10000000s:7%", "0.00001s-10000000s:7%"),
    ],
)
def test_spans_are_read_and_written(text, written):
    keep = Keep.parse(text)
    assert str(keep) == written
    assert Keep.parse(written) == keep


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("12-15:full", "is no span"),
        ("", "has an empty span"),
        ("12s-15s", "is no span"),
        ("12s-15s:all", "is no span"),
        ("15s-12s:full", "ends before it begins"),
        ("1s-2s:0", "keeps 0 of a frame"),
        ("1s-2s:0%", "keeps 0% of a frame"),
        ("1s-2s:101%", "keeps 101% of a frame"),
        ("1s-2s:full,", "'1s-2s:full,' has an empty span"),
    ],
)
def test_wrong_spans(text, said):
    with pytest.raises(ValueError, match=said):
        Keep.parse(text)


def test_frames_of_a_span():
    keep = Keep.parse("1s-2s:full,2s-3s:25%,3.5s-4s:6")
    times = [t / 2 for t in range(10)]  # 0, 0.5, ... 4.5
    assert keep.at(times)(10, 20) == (None, None, 20, 20, 20, 5, 5, 6, 6, None)
    # Two frames are a step: (0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5), (4, 4.5). The larger budget counts.
    assert keep.at(times, 2)(5, 20) == (None, 20, 20, 6, 6)
    assert keep.at(times[:3], 2)(2, 20) == (None, 20)  # an odd frame is a step by itself
    assert keep.at(times).matched
    assert not keep.at([9.0, 10.0]).matched
    with pytest.raises(ImpossibleBudgets, match=r"times of 10 frames were given .* this video has 5"):
        keep.at(times)(5, 20)
