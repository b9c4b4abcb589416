"""`fresh` against a slow reference, on still videos, and on long ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vidcom2 import compressor
from vidcom2.methods.fresh import COPY, LEVELS, REACH, ROUNDS, Fresh
from vidcom2.pieces.sketch import WIDTH, sketch


def video(frames: int, m: int, channels: int = 48, seed: int = 0) -> Tensor:
    """Places that drift, some that jump, and a common offset."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.05 * torch.randn(frames, m, channels, generator=generator).cumsum(dim=0)
    x += torch.randn(1, m, channels, generator=generator) + torch.randn(channels, generator=generator)
    jumps = torch.rand(frames, m, generator=generator) < 0.1
    x[jumps] += 2 * torch.randn(int(jumps.sum()), channels, generator=generator)
    return x


def scored(x: Tensor, t: int, place: int, last: int | None, memory: float) -> float:
    """The score of one token, from the formula in the docstring."""
    mean = x.flatten(0, 1).mean(dim=0)
    token = x[t, place]
    u = 1 - (cosine_similarity(token, x[t].mean(dim=0), dim=0) + cosine_similarity(token, mean, dim=0)) / 2
    if last is None:
        return float(u)
    seen = max(last, t - REACH)
    other = x[seen, place]
    n = (token - other).square().sum() / (2 * (x - mean).square().sum(dim=-1).median())
    return float(u * (n + (t - seen) / memory * n / (n + COPY)))


def slow(x: Tensor, total: int, memory: float, scored: Callable[..., float] = scored) -> set[int]:
    """The kept tokens, by loops over frames and places."""
    frames, m = x.shape[:2]

    def walk(level: float) -> tuple[set[int], dict[int, float]]:
        last: list[int | None] = [None] * m
        stays, others = set(), {}
        for t in range(frames):
            scores = [scored(x, t, place, last[place], memory) for place in range(m)]
            best = max(range(m), key=lambda place: scores[place])
            for place in range(m):
                if scores[place] >= level or place == best:
                    stays.add(t * m + place)
                    last[place] = t
                else:
                    others[t * m + place] = scores[place]
        return stays, others

    top = max(scored(x, t, p, s, memory) for t in range(frames) for p in range(m) for s in range(frames))
    low, high = 0.0, max(top, max(scored(x, t, p, None, memory) for t in range(frames) for p in range(m)))
    for _ in range(ROUNDS):
        levels = [low + (high - low) * i / LEVELS for i in range(LEVELS + 1)]
        first = next(i for i in range(1, LEVELS + 1) if len(walk(levels[i])[0]) <= total)
        low, high = levels[first - 1], levels[first]
    stays, others = walk(high)
    return stays | set(sorted(others, key=lambda one: -others[one])[: total - len(stays)])


@pytest.mark.parametrize(
    ("frames", "m", "retention", "memory"), [(6, 9, 0.3, 16.0), (5, 7, 0.5, 2.0), (8, 4, 0.3, 16.0)]
)
def test_it_keeps_what_the_slow_reference_keeps(frames, m, retention, memory):
    x = video(frames, m, seed=frames).double()
    kept = Fresh(retention, memory=memory).select(x)
    assert set(kept.index.tolist()) == slow(x, round(retention * frames * m), memory)


def test_a_still_video_shows_every_place_once_before_any_twice():
    frames, m = 32, 196
    x = video(1, m, 512).expand(frames, -1, -1).contiguous()
    for retention in (1 / frames, 0.05, 0.1, 0.25):
        for dtype in (torch.float32, torch.bfloat16):
            kept = Fresh(retention).select(x.to(dtype))
            times = torch.bincount(kept.index % m, minlength=m)
            assert len(kept.index) == round(retention * frames * m)
            assert int(kept.budgets.min()) >= 1
            assert int(times.min()) >= 1, f"{int((times == 0).sum())} places are never seen at {retention}"
    assert int(times.max()) - int(times.min()) <= 4  # the copies take turns
    same = compressor("vidcom2@0.25").select(x)
    assert len(set((same.index % m).tolist())) == 49  # what it is there for


def test_what_happens_once_is_kept_and_what_lasts_comes_back():
    x = video(1, 16).expand(32, -1, -1) + 0.01 * torch.randn(32, 16, 48, generator=torch.Generator().manual_seed(1))
    x = x.clone()
    mean = x.flatten(0, 1).mean(dim=0)
    x[10, 3] = -3 * mean  # a flash
    x[:, 5] -= 3 * mean  # a lasting object
    kept = Fresh(0.1).select(x)
    assert 10 * 16 + 3 in kept.index
    at = [i // 16 for i in kept.index.tolist() if i % 16 == 5]
    assert 1 < len(at) < 32
    assert max(b - a for a, b in pairwise(at)) < 16


def test_frames_beyond_reach_are_compared_with_the_frame_that_is_just_within():
    x = video(REACH + 40, 3, seed=7).double()
    kept = Fresh(0.4, memory=200).select(x)
    assert set(kept.index.tolist()) == slow_long(x, len(kept.index), 200.0)


def slow_long(x: Tensor, total: int, memory: float) -> set[int]:
    """`slow`, with the scores of pairs of frames computed once."""
    known: dict[tuple[int, int, int | None], float] = {}

    def remembered(x: Tensor, t: int, place: int, last: int | None, memory: float) -> float:
        if last is not None and last >= t:
            return 0.0  # no score of a walk, but `slow` asks for the largest of all
        key = (t, place, last if last is None else max(last, t - REACH))
        if key not in known:
            known[key] = scored(x, t, place, last, memory)
        return known[key]

    return slow(x, total, memory, remembered)


def test_more_kept_frames_where_more_happens():
    x = video(1, 64).expand(24, -1, -1).clone()
    x[12:16] = video(4, 64, seed=9)  # four frames of something else, which moves
    kept = Fresh(0.2).select(x)
    assert kept.budgets[12:16].float().mean() > 2 * kept.budgets[1:12].float().mean()


@pytest.mark.parametrize("memory", [0, -1.0, math.nan])
def test_memory_is_a_number_of_frames(memory):
    with pytest.raises(ValueError, match=r"memory=.* must be"):
        Fresh(0.25, memory=memory)


def test_one_frame_is_ranked_by_uniqueness():
    x = video(1, 50)
    flat = x.flatten(0, 1)
    u = 1 - cosine_similarity(flat, flat.mean(dim=0), dim=-1)
    assert Fresh(0.2).select(x).index.tolist() == sorted(u.topk(10).indices.tolist())


def test_tokens_that_are_all_equal():
    kept = Fresh(0.25).select(torch.ones(8, 9, 16))
    assert len(kept.index) == 18
    assert kept.budgets.min() >= 1
    assert int(Fresh(0.25).select(torch.zeros(8, 9, 16)).budgets.sum()) == 18


def test_sketches_keep_distances():
    x = torch.randn(4, 300, 3584, generator=torch.Generator().manual_seed(0))
    short = sketch(x)
    assert short.shape == (4, 300, WIDTH)
    true = (x[0] - x[1]).square().sum(dim=-1)
    ratio = (short[0] - short[1]).square().sum(dim=-1) / true
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert abs(float(ratio.std()) - (2 / WIDTH) ** 0.5) < 0.04
    assert torch.equal(sketch(x[:, :, :50]), x[:, :, :50])
    assert sketch(x[..., :100]).shape[-1] == WIDTH  # not a multiple
    assert sketch(x.bfloat16()).dtype == torch.float32
    assert torch.equal(sketch(x)[2], sketch(x[2:3])[0])
