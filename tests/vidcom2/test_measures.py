"""What a kept set still shows of a video: the measures against plain loops, closed cases, and SimpleCluster's code."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import COMMITTED, load
from vidcom2 import METHODS, Kept, compressor
from vidcom2.measures import (
    CHUNK,
    coverage,
    effective_dimension,
    effective_rank,
    expected_overlap,
    gini,
    measure,
    overlap,
    places,
    quantisation_error,
)

RECORDED = json.loads((COMMITTED / "measures" / "simplecluster.json").read_text())
BEFORE = sorted(name for name in METHODS if METHODS[name].stage == "before LLM")


def video(frames: int = 6, m: int = 16, hidden: int = 12, seed: int = 0) -> Tensor:
    """Tokens in a cone, so that cosines lie on both sides of 0.9, and frames that share a part."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(1, m, hidden, generator=generator)
    own = torch.randn(frames, m, hidden, generator=generator)
    return 1 + scene + 0.5 * own


def kept_at(index: list[int], frames: int, m: int, features: Tensor | None = None) -> Kept:
    budgets = torch.tensor([sum(i // m == t for i in index) for t in range(frames)])
    return Kept(torch.tensor(index), budgets, features)


# ---- against plain loops


def slow_error_and_coverage(dense: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    mean, error, spread, covered = dense.mean(axis=0), 0.0, 0.0, 0
    for token in dense:
        error += min(float(((token - one) ** 2).sum()) for one in kept)
        spread += float(((token - mean) ** 2).sum())
        cosines = [token @ one / np.linalg.norm(token) / np.linalg.norm(one) for one in kept]
        covered += max(cosines) >= 0.9
    return error / spread, covered / len(dense)


def slow_overlap(sets: list[set[int]], far: int) -> float:
    shares = []
    for s, t in itertools.combinations(range(len(sets)), 2):
        if t - s <= far and sets[s] | sets[t]:
            shares.append(len(sets[s] & sets[t]) / len(sets[s] | sets[t]))
    return sum(shares) / len(shares)


def slow_spectrum(tokens: np.ndarray) -> np.ndarray:
    return np.linalg.svd(tokens.astype(np.float64), compute_uv=False) ** 2


@pytest.mark.parametrize("spec", ["vidcom2@0.25", "random@0.1", "uniform@0.4", "dycoke@0.25", "fastvid@0.25"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_as_plain_loops_have_it(spec, dtype):
    x = video(frames=30, m=25).to(dtype)
    frames, m, hidden = x.shape
    assert frames * m > CHUNK
    kept = compressor(spec).select(x)
    assert (kept.features is not None) == (spec.startswith("fastvid"))
    found = measure(x, kept)
    dense = x.float().flatten(0, 1).numpy().astype(np.float64)
    tokens = kept.apply(x).float().numpy().astype(np.float64)
    error, covered = slow_error_and_coverage(dense, tokens)
    assert found.nqe == pytest.approx(error, rel=1e-4)
    assert found.coverage == pytest.approx(covered, abs=1e-6)
    assert 0 < found.coverage < 1
    for about, dimension, rank in (
        (dense.mean(axis=0), found.dimension, found.rank),
        (np.zeros(hidden), found.dimension_raw, None),
    ):
        eigenvalues = slow_spectrum(tokens - about)
        share = eigenvalues / eigenvalues.sum()
        assert dimension == pytest.approx(1 / (share**2).sum(), rel=1e-3)
        if rank is not None:
            assert rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in share if p > 0)), rel=1e-3)
    sets = [{int(i) % m for i in kept.index if int(i) // m == t} for t in range(frames)]
    assert found.overlap == pytest.approx(slow_overlap(sets, 1), rel=1e-5)
    assert found.overlap_far == pytest.approx(slow_overlap(sets, 20), rel=1e-5)
    assert found.seen == pytest.approx(len(set.union(*sets)) / m)
    assert found.seen_random == pytest.approx(1 - math.prod(1 - len(one) / m for one in sets), rel=1e-5)
    assert found.budgets == tuple(kept.budgets.tolist())
    assert found.share_min == pytest.approx(min(found.budgets) / m)
    assert found.share_max == pytest.approx(max(found.budgets) / m)
    assert found.tokens == len(kept.index)
    assert found.retention == pytest.approx(len(kept.index) / frames / m)
    gaps = sum(abs(a - b) for a in found.budgets for b in found.budgets)
    assert found.gini == pytest.approx(gaps / (2 * frames * sum(found.budgets)), abs=1e-6)


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 0, 5), (0, 0, 4), (6, 6), (6, 1, 2)])
@pytest.mark.parametrize("far", [1, 2, 20])
def test_expected_overlap_is_the_mean_over_all_draws(counts, far):
    m, pairs = 6, []
    for s, t in itertools.combinations(range(len(counts)), 2):
        if t - s <= far and counts[s] + counts[t]:
            draws = itertools.product(*(itertools.combinations(range(m), counts[i]) for i in (s, t)))
            pairs.append(np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in draws]))
    assert expected_overlap(torch.tensor(counts), m, far) == pytest.approx(np.mean(pairs), rel=1e-9)


def test_random_tokens_overlap_as_expected():
    """GleanVID's authors report 0.139 for random places at 25 %; of 196 places it is 0.144."""
    x = video(frames=32, m=196)
    found = measure(x, compressor("random@0.25").select(x))
    assert found.overlap_far_random == pytest.approx(0.1435, abs=1e-3)
    assert found.overlap_far == pytest.approx(found.overlap_far_random, abs=0.01)
    assert found.seen == pytest.approx(found.seen_random, abs=0.01)


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['features'][10:25]}-{len(case['index'])}")
def test_simpleclusters_own_code(case):
    x = load(case["features"])["x"].float()
    dense, index = x.flatten(0, 1), torch.tensor(case["index"])
    tokens = dense[index]
    if case["means"]:
        tokens = (tokens + dense[(index + 1).clamp_max(len(dense) - 1)]) / 2
    assert quantisation_error(dense, tokens) == pytest.approx(case["nqe"], rel=1e-4)
    assert coverage(dense, tokens) == pytest.approx(case["coverage"], abs=1e-6)
    found = measure(x, kept_at(case["index"], *x.shape[:2], features=tokens))
    assert (found.nqe, found.coverage) == (quantisation_error(dense, tokens), coverage(dense, tokens))


# ---- closed cases


def test_dimensions_of_closed_cases():
    equal = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).expand(5, 8)
    orthonormal = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0][:5]
    for scale in (1e-20, 1.0, 1e20):  # squares of them are no float32
        for measured in (effective_dimension, effective_rank):
            assert measured(scale * equal) == pytest.approx(1, abs=1e-4)
            assert measured(scale * orthonormal) == pytest.approx(5, abs=1e-4)
            assert measured(scale * orthonormal.repeat(3, 1)) == pytest.approx(5, abs=1e-4)
    assert effective_dimension(torch.zeros(3, 4)) == effective_rank(torch.zeros(3, 4)) == 0
    assert effective_dimension(torch.tensor([[3.0, 0], [0, 1]])) == pytest.approx(100 / 82)


def test_a_thousand_copies_have_one_dimension():
    """Rounding errors of many copies do not add up."""
    copies = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)).expand(1000, 512)
    assert effective_rank(copies) == pytest.approx(1, abs=0.01)


def test_a_still_video():
    """Kept places repeat in every frame, so what they leave out is never seen."""
    x = video(frames=1, m=16).expand(32, 16, 12).contiguous()
    found = measure(x, compressor("vidcom2@0.25").select(x))
    assert found.overlap == found.overlap_far == 1
    assert found.seen == pytest.approx(0.25)
    assert found.seen_random == pytest.approx(1 - 0.75**32, abs=1e-4)
    assert found.budgets == (4,) * 32
    assert found.gini == 0
    assert found.share_min == found.share_max == 0.25
    assert found.rank < 4 + 1e-3
    one = measure(x[:1], compressor("vidcom2@0.25").select(x[:1]))
    assert found.nqe == pytest.approx(one.nqe, rel=1e-4)
    assert found.coverage == one.coverage


def test_all_tokens_kept():
    x = 1000 + video()
    found = measure(x, compressor("none").select(x))
    assert found.nqe == 0
    assert found.coverage == found.retention == found.seen == found.overlap == found.overlap_random == 1
    assert found.seen_random == 1


def test_only_the_mean_kept():
    x = video()
    mean = x.flatten(0, 1).mean(dim=0, keepdim=True)
    found = measure(x, kept_at([3], 6, 16, features=mean))
    assert found.nqe == pytest.approx(1)
    assert found.dimension == found.rank == 0  # it has no deviation from the mean; what there is is rounding


def test_equal_tokens():
    """A black video. Deviations that rounding makes count as none."""
    x = torch.full((4, 9, 6), 0.1)
    found = measure(x, compressor("random@0.25").select(x))
    assert found.dimension == found.rank == found.nqe == 0
    assert found.dimension_raw == pytest.approx(1)
    assert found.coverage == 1


def test_a_zero_token_is_never_covered():
    dense = torch.eye(4)
    dense[0] = 0
    assert coverage(dense, dense) == 0.75
    assert quantisation_error(dense, dense) == 0


def test_one_frame_has_no_overlap():
    x = video(frames=1)
    found = measure(x, compressor("vidcom2@0.25").select(x))
    assert found.overlap is found.overlap_random is found.overlap_far is found.overlap_far_random is None
    assert found.seen == found.retention


def test_frames_that_keep_nothing():
    """A pair of them has no overlap; one beside a frame that keeps something has 0."""
    there = places(kept_at([0, 1, 2, 9], 4, 3), 3)
    assert there.tolist() == [[True] * 3, [False] * 3, [False] * 3, [True, False, False]]
    assert overlap(there) == 0
    assert overlap(there, far=3) == pytest.approx((0 + 0 + 1 / 3 + 0 + 0) / 5)
    assert gini(torch.tensor([3, 0, 0, 0])) == 0.75


# ---- all methods, and errors


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("shape", [(1, 16), (5, 1), (7, 16)])
def test_every_method_can_be_measured(name, shape):
    x = video(*shape)
    found = measure(x, compressor(name).select(x))
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if field.name != "budgets" and value is not None:
            assert math.isfinite(value), field.name
            assert value >= 0, field.name
    assert sum(found.budgets) == found.tokens
    for share in ("retention", "seen", "share_min", "share_max", "gini", "coverage"):
        assert getattr(found, share) <= 1 + 1e-6
    assert found.dimension <= found.rank + 1e-3


def test_half_precision_is_measured_in_float32():
    x = video().bfloat16()
    kept = compressor("vidcom2@0.25").select(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = measure(x, kept)
    assert inside == measure(x, kept) == measure(x.float(), kept)


def test_another_video():
    kept = compressor("vidcom2@0.25").select(video(frames=6))
    with pytest.raises(ValueError, match=r"not of features of shape \(5, 16, 12\): pass those"):
        measure(video(frames=5), kept)
    with pytest.raises(ValueError, match=r"not of features of shape \(6, 9, 12\)"):
        measure(video(frames=6, m=9), kept)
    with pytest.raises(ValueError, match=r"not \[T, M, D\]"):
        measure(torch.zeros(3, 4), kept)
