"""The other methods before the LLM: recorded runs of upstream, slow references, and properties of all of them."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.speed.memory import peak_bytes
from tests.golden import entries, load
from tests.vidcom2.grids import grid_of
from tests.vidcom2.test_vidcom2 import CountedOps, video
from vidcom2 import METHODS, FrameAdjustment, VidCom2, compressor
from vidcom2.methods.dycoke import DyCoke
from vidcom2.methods.fastvid import FastVid
from vidcom2.methods.holitom import HoliTom, proportional_shares, windows
from vidcom2.methods.norm import Norm
from vidcom2.methods.random import Random
from vidcom2.methods.uniform import Uniform
from vidcom2.methods.visionzip import VisionZip
from vidcom2.pieces.clustering import centres, nearest_centre, squared_distances
from vidcom2.table import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
RATIOS = {"R015": 0.15, "R025": 0.25, "R050": 0.5}


# ---- recorded runs of upstream


def recorded(method: str) -> list:
    found = [e for e in entries("baselines") if e["file"].startswith(f"baselines/{method}_")]
    return [pytest.param(e, id=e["file"].split("/")[1].removesuffix(".safetensors")) for e in found]


def features(entry: dict) -> torch.Tensor:
    reference = entry["meta"].get("input_ref", {"file": entry["file"], "tensor": "x"})
    return load(reference["file"])[reference["tensor"]]


@pytest.mark.parametrize("entry", recorded("dycoke"))
def test_dycoke_released(entry):
    checked = 0
    for name, index in load(entry["file"]).items():
        if found := re.fullmatch(r"(T\d+\.)?ttm(\d+)\.indices", name):  # the authors' function, which does not sort
            x, merging = load(entry["file"])[f"{found[1] or ''}x"], int(found[2]) / 100
        elif found := re.fullmatch(r"core_R(\d+)\.keep", name):  # a later adoption: merging = 1 - R, sorted
            x, merging = features(entry), 1 - int(found[1]) / 100
            assert torch.equal(index, index.sort().values)
        else:
            continue
        kept = DyCoke.released(0.25, merging=merging).select(x)
        assert torch.equal(kept.index, index.sort().values), name
        checked += 1
    assert checked >= 9


def check_recorded(kept, golden: dict, tag: str) -> None:
    assert torch.equal(kept.index, golden[f"{tag}.keep"])
    torch.testing.assert_close(kept.features, golden[f"{tag}.features"], atol=5e-6, rtol=0)


@pytest.mark.parametrize("entry", recorded("visionzip"))
def test_visionzip_released(entry):
    x, golden = features(entry), load(entry["file"])
    for tag, ratio in RATIOS.items():
        check_recorded(VisionZip.released(ratio).select(x), golden, f"qwen_{tag}")
        unmerged = VisionZip.released(ratio, merge=False).select(x)
        assert torch.equal(unmerged.index, golden[f"omni_{tag}.keep"])
        assert unmerged.features is None


@pytest.mark.parametrize("entry", recorded("fastvid"))
def test_fastvid_released(entry):
    x, golden = features(entry), load(entry["file"])
    for tag, ratio in RATIOS.items():
        check_recorded(FastVid.released(ratio).select(x), golden, f"qwen_{tag}")


@pytest.mark.parametrize("entry", recorded("holitom"))
def test_holitom_released(entry):
    x, golden = features(entry), load(entry["file"])
    still = torch.nn.functional.cosine_similarity(x[1:], x[:-1], dim=-1) > 0.8
    assert [list(window) for window in windows(still, 1024)] == entry["meta"]["windows"]
    for tag, ratio in RATIOS.items():
        kept = HoliTom.released(ratio).select(x)
        check_recorded(kept, golden, f"qwen_{tag}")
        # "omni" has other features: it gathers the tokens that happen to be at the made-up positions.
        assert torch.equal(kept.index, golden[f"omni_{tag}.keep"])
    clustered = HoliTom.released(0.25, clustered=0.5).select(x)
    torch.testing.assert_close(clustered.features, golden["D05_R025.features"], atol=5e-6, rtol=0)


# ---- slow and obvious


def equal_shares(ratio: float, frames: int, m: int) -> list[int]:
    total = max(frames, round(ratio * frames * m))
    return [total // frames + (t < total % frames) for t in range(frames)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def best(scores: list[float], count: int) -> list[int]:
    """Indices of the `count` highest scores, ascending; of equal scores, the earlier wins."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


SHAPES = [(1, 1, 4), (5, 7, 4), (8, 12, 6), (11, 9, 5)]
SOME_RATIOS = [0.05, 0.15, 0.25, 0.5, 0.9]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", SOME_RATIOS)
def test_random_keeps_the_highest_draws(shape, ratio):
    frames, m, _ = shape
    draws = torch.rand(frames, m, generator=torch.Generator().manual_seed(3)).tolist()
    expected = [t * m + j for t, k in enumerate(equal_shares(ratio, frames, m)) for j in best(draws[t], k)]
    x = video(*shape)
    assert Random(ratio, seed=3).select(x).index.tolist() == expected
    assert Random(ratio, seed=3).select(x.bfloat16() * 7 + 1).index.tolist() == expected  # features have no effect


def test_random_gives_every_token_the_same_chance():
    x, draws = video(2, 8, 3), 2000
    counts = torch.zeros(16)
    for seed in range(draws):
        counts[Random(0.25, seed=seed).select(x).index] += 1
    # 5 standard deviations of a binomial
    assert (counts / draws - 0.25).abs().max() < 5 * (0.25 * 0.75 / draws) ** 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", SOME_RATIOS)
def test_uniform_is_evenly_spaced(shape, ratio):
    frames, m, _ = shape
    expected = []
    for t, k in enumerate(equal_shares(ratio, frames, m)):
        for j in range(k):
            (middle,) = [i for i in range(m) if i <= (j + 0.5) * m / k < i + 1]
            expected.append(t * m + middle)
    assert Uniform(ratio).select(video(*shape)).index.tolist() == expected
    gaps = Uniform(0.25).select(video(1, 40, 2)).index.diff()
    assert gaps.tolist() == [4] * 9


def slow_norm(x: torch.Tensor, budgets: list[int]) -> list[int]:
    """Where the longest tokens are: squares are summed number by number, in float64, and rounded to float32 once."""
    m = x.shape[1]
    lengths = np.zeros(x.shape[:2], np.float32)
    for t, frame in enumerate(x.tolist()):
        for j, token in enumerate(frame):
            square = 0.0
            for value in token:
                square += value * value
            lengths[t, j] = math.sqrt(square)
    return [t * m + j for t, k in enumerate(budgets) for j in best(lengths[t].tolist(), k)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 9, 4), (6, 1, 4)], ids=str)
@pytest.mark.parametrize("ratio", [*SOME_RATIOS, 1e-9, 0.999, 1])
def test_norm_keeps_the_longest(shape, ratio, dtype):
    frames, m, _ = shape
    x = video(*shape).to(dtype)
    budgets = equal_shares(ratio, frames, m)
    kept = Norm(ratio).select(x)
    assert kept.index.tolist() == slow_norm(x, budgets)
    assert kept.budgets.tolist() == budgets
    assert kept.features is None
    assert kept.apply(x).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norm_with_frame_adjustment(dtype):
    x = video(9, 20, 8).to(dtype)
    fca = FrameAdjustment()
    budgets = fca.budgets(x, 0.25).tolist()
    assert len(set(budgets)) > 1
    assert Norm(0.25, fca=fca).select(x).index.tolist() == slow_norm(x, budgets)


def test_norm_of_equal_tokens_keeps_the_first():
    x = torch.ones(3, 8, 4)
    x[1, 5:] = -2.0  # signs have no effect, so the first of the last three wins
    x[2, 3] = 0
    assert Norm(0.25).select(x).index.tolist() == [0, 1, 8 + 5, 8 + 6, 16, 17]
    assert Norm(0.5).select(x[2:]).index.tolist() == [0, 1, 2, 4]
    assert Norm(0.25).select(torch.zeros(2, 8, 4)).index.tolist() == [0, 1, 8, 9]


def test_norm_is_computed_in_float32():
    """In the features' own dtype, the squares of the first case overflow, and the lengths of the second are equal."""
    large = torch.full((1, 4, 4), 300.0, dtype=torch.float16)
    large[0, 2:] = 400.0
    assert Norm(0.5).select(large).index.tolist() == [2, 3]
    near = torch.zeros(1, 2, 64, dtype=torch.bfloat16)
    near[0, :, 0] = 16
    near[0, 1, 1] = 0.125
    assert near.norm(dim=-1).diff().item() == 0
    assert Norm(0.5).select(near).index.tolist() == [1]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (16, 4)])
@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.3, 0.01])
def test_frames(shape, ratio):
    frames, m = shape
    x = torch.randn(frames, m, 6, generator=torch.Generator().manual_seed(frames)) + 0.5
    centre = x.double().mean((0, 1)).numpy()
    uniqueness = [-sum(cosine(token, centre) for token in frame) for frame in x.double().numpy()]
    count = max(1, round(ratio * frames))
    expected = {
        "redundant": best(uniqueness, count),
        "unique": best([-u for u in uniqueness], count),
        "even": [math.floor((j + 0.5) * frames / count) for j in range(count)],
    }
    for drop, stay in expected.items():
        kept = compressor(f"frames@{ratio}:drop={drop}").select(x)
        assert kept.index.tolist() == [t * m + j for t in stay for j in range(m)]
        assert kept.budgets.tolist() == [m * (t in stay) for t in range(frames)]


def slow_dycoke(x: np.ndarray, ratio: float) -> list[int]:
    frames, m = x.shape[:2]
    first = [t for t in range(frames) if t % 4 == 0]
    other = [t for t in range(frames) if t % 4]
    total = max(frames, round(ratio * frames * m))
    budget = dict.fromkeys(first, m) | dict.fromkeys(other, 0)
    if sum(budget.values()) + len(other) <= total:  # first frames whole, the others share the rest
        for i in range(total - len(first) * m):
            budget[other[i % len(other)]] += 1
    else:  # one token for each other frame, the first frames share the rest
        budget = dict.fromkeys(other, 1) | dict.fromkeys(first, 0)
        for i in range(total - len(other)):
            budget[first[i % len(first)]] += 1
    kept = []
    for t in range(frames):
        r = {0: t - 4, 1: t - 1, 2: t - 2, 3: t - 1}[t % 4]
        scores = [-cosine(x[t, j], x[t].mean(0) if t == 0 else x[r, j]) for j in range(m)]
        kept += [t * m + j for j in best(scores, budget[t])]
    return kept


@pytest.mark.parametrize("shape", [*SHAPES, (32, 10, 5), (2, 9, 5), (3, 8, 5), (4, 8, 5)], ids=str)
@pytest.mark.parametrize("ratio", SOME_RATIOS)
def test_dycoke_mended(shape, ratio):
    x = video(*shape).double()
    assert DyCoke(ratio).select(x).index.tolist() == slow_dycoke(x.numpy(), ratio)


@pytest.mark.parametrize("frames", [2, 3, 4, 7, 8, 12, 32])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_dycoke_released_solves_for_the_retention(frames, ratio):
    x = video(frames, 20, 5)
    whole = sum(DyCoke.released(0.5, merging=1.0).select(x).budgets.tolist()) // 20
    most = sum(DyCoke.released(0.5, merging=0.0).select(x).budgets.tolist()) // 20
    if whole / frames <= ratio <= most / frames:
        kept = DyCoke.released(ratio).select(x)
        assert abs(len(kept.index) - ratio * frames * 20) <= (most - whole) / 2
    else:
        with pytest.raises(ValueError, match=rf"on {frames} frames: it keeps from {whole / frames:.4g} to"):
            DyCoke.released(ratio).select(x)


def test_dycoke_released_states_its_floor():
    with pytest.raises(ValueError, match=r"retention=0\.25 on 32 frames: it keeps from 0\.2812 to 1, since 9 frames"):
        DyCoke.released(0.25).select(video(32, 10, 4))
    with pytest.raises(ValueError, match="on 1 frames: it keeps from 1 to 1"):
        DyCoke.released(0.25).select(video(1, 10, 4))
    with pytest.raises(ValueError, match=r"keeps from 0\.2 to 0\.8"):  # the last of an odd number of frames is dropped
        DyCoke.released(0.9).select(video(5, 10, 4))


def slow_visionzip(x: np.ndarray, budgets: list[int]) -> tuple[list[int], list[np.ndarray]]:
    m = x.shape[1]
    index, made = [], []
    for t, k in enumerate(budgets):
        dominant = best([float(np.linalg.norm(v)) for v in x[t]], max(1, int(k * 0.6)))
        rest = [j for j in range(m) if j not in dominant]
        density = [
            np.mean(sorted((cosine(x[t, i], x[t, j]) for j in rest if j != i), reverse=True)[:5])
            if len(rest) > 1
            else 0
            for i in rest
        ]
        contextual = [rest[i] for i in best(density, k - len(dominant))]
        members = {c: [c] for c in contextual}
        for j in rest:
            if contextual and j not in contextual:
                members[max(contextual, key=lambda c: cosine(x[t, j], x[t, c]))].append(j)
        for j in sorted(dominant + contextual):
            index.append(t * m + j)
            made.append(x[t, members[j]].mean(0) if j in members else x[t, j])
    return index, made


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", SOME_RATIOS)
@pytest.mark.parametrize("fca", [None, FrameAdjustment(tau=0.1)], ids=["equal", "fca"])
def test_visionzip_mended(shape, ratio, fca):
    x = video(*shape).double()
    kept = VisionZip(ratio, fca=fca).select(x)
    budgets = fca.budgets(x, ratio).tolist() if fca else equal_shares(ratio, *shape[:2])
    index, made = slow_visionzip(x.numpy(), budgets)
    assert kept.index.tolist() == index
    torch.testing.assert_close(kept.features, torch.tensor(np.array(made)))


def slow_fastvid(x: np.ndarray, ratio: float, form: str) -> tuple[list[int], dict[int, np.ndarray]]:
    """FastVID, frame by frame and token by token."""
    frames, m = x.shape[:2]
    means = [v / np.linalg.norm(v) for v in x.mean(1)]
    s = [float(means[t] @ means[t + 1]) for t in range(frames - 1)]
    cuts = {t for t in range(frames - 1) if s[t] < 0.84} | set(sorted(range(frames - 1), key=lambda t: s[t])[:7])
    shares = equal_shares(ratio, frames, m) if form == "mended" else [min(max(int(m * ratio), 1), m)] * frames
    features: dict[int, np.ndarray] = {}
    start = 0
    for end in sorted(cuts | {frames - 1}):
        segment = list(range(start, end + 1))
        budget = sum(shares[start : end + 1])
        contextual = 0 if budget == 1 else max(1, budget // 2)
        salient = budget - contextual
        keys = [t for t in segment if t == end or s[t] < 0.99]
        slots = len(range(0, len(keys), 4))
        plan = {}
        for i, t in enumerate(keys):
            back = len(keys) - 1 - i
            share = contextual // slots + (contextual % slots if back == 0 else 0) if back % 4 == 0 else 0
            mine = salient // len(keys) + (salient % len(keys) if i == 0 else 0)
            if len(segment) > 1:
                share = min(share, m // 2)
                mine = min(mine, m - share)
            plan[t] = (mine, share)
        strong = {
            t * m + j for t, (mine, _) in plan.items() for j in best([float(np.linalg.norm(v)) for v in x[t]], mine)
        }
        centres_of = {}
        for t, (_, share) in plan.items():
            rest = [t * m + j for j in range(m) if t * m + j not in strong]
            if share:
                picked = slow_centres(np.array([x[t, i % m] for i in rest]), share, 4)
                centres_of[t] = [rest[i] for i in picked]
        if form == "mended":
            taken = strong.union(*centres_of.values())
            others = [i for i in range(start * m, (end + 1) * m) if i not in taken]
            others.sort(key=lambda i: -float(np.linalg.norm(x[i // m, i % m])))
            strong |= set(others[: budget - len(taken)])
        for i in strong:
            features[i] = x[i // m, i % m]
        for chosen in centres_of.values():
            members: dict[int, list[np.ndarray]] = {c: [] for c in chosen}
            for i in range(start * m, (end + 1) * m):
                if i not in strong and i not in chosen:
                    v = x[i // m, i % m]
                    members[max(chosen, key=lambda c: cosine(v, x[c // m, c % m]))].append(v)
            for c in chosen:
                n, centre = len(members[c]), x[c // m, c % m]
                w = max(1 / (n + 1), 0.5)
                features[c] = w * centre + (1 - w) * np.mean(members[c], axis=0) if n else centre
        start = end + 1
    return sorted(features), features


def slow_centres(x: np.ndarray, count: int, neighbours: int) -> list[int]:
    n, d = x.shape
    distance = [[float(np.linalg.norm(a - b)) / d**0.5 for b in x] for a in x]
    density = [np.exp(-np.mean([v**2 for v in sorted(row)[:neighbours]])) for row in distance]
    score = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if density[j] > density[i]]
        score.append(density[i] * min(denser, default=max(map(max, distance))))
    return sorted(range(n), key=lambda i: -score[i])[:count]


def scenes(lengths: list[int], m: int, d: int, noise: float, seed: int = 0) -> torch.Tensor:
    """Shots of nearly still frames, float64."""
    g = torch.Generator().manual_seed(seed)
    shots = [torch.randn(1, m, d, generator=g).expand(n, m, d) + 1.5 * torch.randn(d, generator=g) for n in lengths]
    x = torch.cat(shots)
    return (x + noise * torch.randn(x.shape, generator=g)).double()


@pytest.mark.parametrize("noise", [0.02, 0.5, 1.5])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("form", ["released", "mended"])
def test_fastvid_on_long_segments(noise, ratio, form):
    """Cases that the recorded videos hardly cover: long segments, one and several key frames, caps."""
    x = scenes([9, 1, 7, 2, 12], 12, 6, noise)
    kept = FastVid(ratio, form=form).select(x)
    index, made = slow_fastvid(x.numpy(), ratio, form)
    assert kept.index.tolist() == index
    torch.testing.assert_close(kept.features, torch.tensor(np.array([made[i] for i in index])))


def test_fastvid_mended_keeps_what_key_frames_cannot_hold():
    x = scenes([24], 12, 6, noise=0.001)
    released, mended = FastVid.released(0.5, segments=1).select(x), FastVid(0.5, segments=1).select(x)
    assert len(released.index) < 24 * 6  # at most M tokens of each of the few key frames
    assert len(mended.index) == 24 * 6
    assert set(released.index.tolist()) <= set(mended.index.tolist())
    spilled = torch.tensor(sorted(set(mended.index.tolist()) - set(released.index.tolist())))
    lost = torch.tensor(sorted(set(range(24 * 12)) - set(mended.index.tolist())))
    length = x.flatten(0, 1).norm(dim=-1)
    assert length[spilled].min() >= length[lost].max()
    spilled_features = mended.features[torch.isin(mended.index, spilled)]
    assert torch.equal(spilled_features, x.flatten(0, 1)[spilled])


@pytest.mark.parametrize("seed", range(12))
def test_holitom_windows_are_the_best_of_all(seed):
    g = torch.Generator().manual_seed(seed)
    frames = 1 + seed % 8
    still = torch.rand(frames - 1, 6, generator=g) < 0.75
    longest = 3 if seed % 3 == 0 else 1024

    def savings(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, frames]
        return sum(int(still[a : b - 1].all(0).sum()) * (b - 1 - a) for a, b in itertools.pairwise(edges) if b - a > 1)

    splits = [cuts for n in range(frames) for cuts in itertools.combinations(range(1, frames), n)]
    allowed = [cuts for cuts in splits if max(b - a for a, b in itertools.pairwise([0, *cuts, frames])) <= longest]
    found = windows(still, longest)
    assert [a for a, _ in found] == [0, *(b + 1 for _, b in found[:-1])]
    assert found[-1][1] == frames - 1
    assert max(b - a + 1 for a, b in found) <= longest
    assert savings(tuple(a for a, _ in found[1:])) == max(map(savings, allowed))


def test_holitom_mended_puts_static_tokens_in_the_first_frame():
    """Two shots of three frames, the left half still, the right half new in every frame."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 8, 16, generator=g, dtype=torch.float64)
    for start in (0, 3):
        x[start : start + 3, :4] = x[start, :4] + 0.01 * torch.randn(3, 4, 16, generator=g)
    kept = HoliTom(0.5).select(x)
    assert len(kept.index) == 24  # merging over time leaves 2 * 4 + 6 * 4 = 32 tokens, so r = 3/4
    assert kept.budgets.tolist() == [6, 3, 3, 6, 3, 3]
    for first in (0, 3):
        for row, index in zip(kept.features, kept.index.tolist(), strict=True):
            t, place = divmod(index, 8)
            if place >= 4:
                assert torch.equal(row, x[t, place])
            elif t == first:
                mean = x[first : first + 3, :4].mean(0)
                nearest = torch.cdist(row[None], mean).argmin()
                assert int(nearest) == place  # mixed with others, but mostly itself
            else:
                assert t == 3 - first  # no merged token anywhere but in first frames
    # R asks for more than merging leaves: the tokens that moved most come back.
    more = HoliTom(0.75).select(x)
    assert len(more.index) == 36
    moved = torch.nn.functional.cosine_similarity(x[1:], x[:-1], dim=-1)[:, :4]
    places = sorted((float(moved[t - 1, j]), t * 8 + j) for t in (1, 2, 4, 5) for j in range(4))[:4]
    assert {i for i in more.index.tolist() if i % 8 < 4 and i // 8 % 3} == {i for _, i in places}


def test_holitom_shares_by_largest_remainder():
    assert proportional_shares(4, [2, 5, 3]) == [1, 2, 1]  # of 0.8, 2, 1.2
    assert proportional_shares(5, [1, 4, 5]) == [1, 2, 2]  # of 0.5, 2, 2.5: the first of equals
    assert proportional_shares(10, [1, 4, 5]) == [1, 4, 5]


def test_clusters_against_the_slow_reference():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for count, neighbours in ((1, 1), (4, 4), (9, 7), (30, 40)):
        chosen = centres(x, count, neighbours)
        assert chosen.tolist() == slow_centres(x.numpy(), count, neighbours)
        owner = nearest_centre(x, chosen)
        assert owner.tolist() == [
            min(range(count), key=lambda c: float((x[i] - x[chosen[c]]).norm())) for i in range(30)
        ]


@pytest.mark.parametrize("tokens", [4, 5, 7, 9, 33, 70])
def test_tokens_that_are_each_others_nearest_are_equally_dense(tokens):
    """Libraries round x_i x_j and x_j x_i differently in small and odd products; then one of the two seems denser."""
    for seed in range(10):
        x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(seed))
        squares = squared_distances(x)
        assert torch.equal(squares, squares.mT)
        assert centres(x, 2, 2).tolist() == slow_centres(x.numpy().astype(np.float64), 2, 2)


# ---- all methods that work before the LLM

BEFORE = sorted(name for name, method in METHODS.items() if method.drops and method.stage == "before LLM")
ADJUSTED = [f"{name}+fca" for name in BEFORE if METHODS[name].takes_fca()]
PRESETS = [f"{name}.{preset}" for name in BEFORE for preset in METHODS[name].presets]
ALL_SHAPES = [(1, 1), (5, 7), (16, 16), (32, 49)]


def inputs(frames: int, m: int) -> dict[str, torch.Tensor]:
    still = video(1, m, 8).repeat(frames, 1, 1)
    return {
        "varied": video(frames, m, 8),
        "noisy": torch.randn(frames, m, 8, generator=torch.Generator().manual_seed(1)),
        "still": still,
        "zero": torch.zeros_like(still),
    }


def check_well_formed(kept, x: torch.Tensor) -> None:
    frames, m, d = x.shape
    assert kept.index.dtype == kept.budgets.dtype == torch.int64
    assert kept.budgets.shape == (frames,)
    assert torch.equal(kept.index, kept.index.unique())  # ascending, no token twice
    assert 0 <= kept.index[0] <= kept.index[-1] < frames * m
    assert torch.equal(torch.bincount(kept.index // m, minlength=frames), kept.budgets)
    assert kept.apply(x).shape == (len(kept.index), d)
    assert kept.apply(x).dtype == x.dtype
    assert kept.apply(x).isfinite().all()


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
@pytest.mark.parametrize("name", [*BEFORE, *ADJUSTED])
def test_retention_is_what_was_asked_for(name, shape):
    frames, m = shape
    for kind, x in inputs(frames, m).items():
        for ratio in (0.5, 0.25, 0.15, 0.05):
            kept = compressor(name, retention=ratio).select(x, grid_of(m))
            check_well_formed(kept, x)
            expected = max(frames, round(ratio * frames * m))
            if name == "frames":  # whole frames
                expected = m * max(1, round(ratio * frames))
            above = len(kept.index) - expected
            # VidCom² rounds up, as the paper does; all others meet the total.
            assert 0 <= above <= (frames if name == "vidcom2" else 0), (kind, ratio, above)


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_well_formed(name, shape):
    frames, m = shape
    for x in inputs(frames, m).values():
        for ratio in (0.5, 0.25, 0.15, 0.05):
            try:
                kept = compressor(name, retention=ratio).select(x, grid_of(m))
            except ValueError as error:
                if re.search("cannot reach retention|keeps no token", str(error)):
                    continue
                raise
            check_well_formed(kept, x)


@pytest.mark.parametrize("name", [*BEFORE, *ADJUSTED, *PRESETS])
def test_every_method(name):
    x = scenes([3, 1, 4], 16, 8, 0.3).float()
    made = compressor(name, retention=0.5)
    once, again = made.select(x), compressor(made.spec).select(x)
    assert torch.equal(once.index, again.index)  # seeded, or not random
    assert torch.equal(once.apply(x), again.apply(x))

    whole = compressor(name, retention=1).select(x)
    assert whole.index.tolist() == list(range(8 * 16))
    assert torch.equal(whole.apply(x), x.flatten(0, 1))

    half = made.select(x.bfloat16())
    check_well_formed(half, x.bfloat16())
    strided = made.select(x.transpose(0, 1).contiguous().transpose(0, 1))
    assert torch.equal(strided.index, once.index)

    for value in (float("nan"), float("inf"), float("-inf")):
        bad = x.clone()
        bad[6, 3, 1] = value
        for ratio in (0.5, 1):
            with pytest.raises(ValueError, match="NaN or Inf"):
                compressor(name, retention=ratio).select(bad)
    with pytest.raises(ValueError, match=r"not \[T, M, D\]"):
        made.select(x[0])


@pytest.mark.parametrize("name", sorted({*BEFORE, *PRESETS} - {"simplecluster.released"}))
def test_peak_memory(name):
    """At most 1.5 of the features, with the tokens that the LLM gets. The one left out has all distances at once."""
    x = torch.randn(40, 64, 1024, generator=torch.Generator().manual_seed(0))
    method = compressor(f"{name}@0.3")
    assert peak_bytes(lambda x: method.select(x).apply(x), x) <= 1.5 * x.nbytes


@pytest.mark.parametrize("name", ADJUSTED)
def test_fca_gives_the_budgets_of_vidcom2(name):
    x = video(9, 20, 8)
    assert len(set(VidCom2(0.25).select(x).budgets.tolist())) > 1
    for settings in (
        {"rounding": "exact"},
        {"rounding": "ceil", "tau": 0.05},
        {"rounding": "half_even", "score": "max", "window": 4},
        {"rounding": "half_even", "similarity": "gaussian"},
        {"rounding": "exact", "score": "uniform"},
    ):
        spec = "".join(f":fca.{key}={value}" for key, value in settings.items())
        kept = compressor(f"{name}@0.25{spec}").select(x, grid_of(20))
        if "score" in settings:
            settings = {**settings, "frame_score": settings["score"]}
            del settings["score"]
        assert torch.equal(kept.budgets, VidCom2(0.25, **settings).select(x).budgets)
        check_well_formed(kept, x)


@pytest.mark.parametrize(
    "name",
    ["random", "uniform", "norm", "frames", "visionzip", "random+fca", "uniform+fca", "norm+fca", "dycoke+fca"],
)
def test_no_loop_over_frames(name):
    made = compressor(name, retention=0.25)
    with CountedOps() as few:
        made.select(video(2, 8, 4))
    with CountedOps() as many:
        made.select(video(64, 8, 4))
    assert many.total == few.total


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dycoke:form=new", "form='new'"),
        ("dycoke:merging=0.5", "needs dycoke.released"),
        ("dycoke.released:merging=2", "merging=2"),
        ("frames:drop=first", "drop='first'"),
        ("visionzip:form=new", "form='new'"),
        ("visionzip:dominant=0", "dominant=0"),
        ("visionzip:merge=maybe", "merge='maybe'"),
        ("fastvid:form=new", "form='new'"),
        ("fastvid:segments=0", "segments=0"),
        ("fastvid:context=2", "context=2"),
        ("holitom:form=new", "form='new'"),
        ("holitom:max_window=0", "max_window=0"),
        ("holitom:clustered=-1", "clustered=-1"),
    ],
)
def test_bad_settings_raise_and_name_themselves(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)


# ---- docs


def test_the_table_in_the_docs_is_generated():
    assert (DOCS / "methods.md").read_text() == table(), "run python -m vidcom2.table > docs/methods.md"


def test_the_worked_example(tmp_path, monkeypatch):
    method, use = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), flags=re.DOTALL)
    monkeypatch.setattr(import_module("vidcom2.specs"), "METHODS", dict(METHODS))
    (tmp_path / "change.py").write_text(method)
    spec = importlib.util.spec_from_file_location("change", tmp_path / "change.py")
    monkeypatch.setitem(sys.modules, "change", module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)

    x = video(4, 10, 6)
    exec(compile(use, "use", "exec"), {"features": x})
    kept = compressor("change@0.3").select(x)
    moved = [(x[t] - x[t - 1 if t else 1]).norm(dim=-1).tolist() for t in range(4)]
    assert kept.index.tolist() == [t * 10 + j for t in range(4) for j in best(moved[t], 3)]
    assert compressor("change+fca@0.3").select(x).budgets.sum() == 12
