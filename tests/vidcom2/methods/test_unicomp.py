"""UniComp against the authors' functions (recorded), and against a slow and obvious reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.golden import load
from tests.vidcom2.test_baselines import cosine, recorded, scenes
from tests.vidcom2.test_vidcom2 import video
from vidcom2 import FrameAdjustment, VidCom2, compressor
from vidcom2.methods.unicomp import UniComp, independent

RECORDED = {
    "R010": UniComp.released(0.1),
    "R025": UniComp.released(0.25),
    "R050": UniComp.released(0.5),
    "Uc05_R025": UniComp.released(0.25, tokens=0.05),
    "Uc50_R025": UniComp.released(0.25, tokens=0.5),
}


@pytest.mark.parametrize("entry", recorded("unicomp"))
def test_released(entry):
    golden, checked = load(entry["file"]), 0
    for name, x in golden.items():
        case, _, what = name.partition(".")
        if what != "x":
            continue
        for tag, made in RECORDED.items():
            kept = made.select(x)
            assert torch.equal(kept.index, golden[f"{case}.{tag}.keep"].long()), (case, tag)
            torch.testing.assert_close(kept.features, golden[f"{case}.{tag}.features"], atol=5e-6, rtol=0)
            checked += 1
    assert checked == 25


def slow_groups(x: np.ndarray, longest: int, limit: float = 0.005) -> list[list[int]]:
    groups = [[0]]
    for t in range(1, len(x)):
        alike = 1 - cosine(x[t].mean(0), x[groups[-1][0]].mean(0)) <= limit
        if alike and len(groups[-1]) < longest:
            groups[-1].append(t)
        else:
            groups.append([t])
    return groups


def slow_unicomp(x: np.ndarray, ratio: float, limit: float = 0.2) -> tuple[list[int], list[np.ndarray]]:
    """The mended form, token by token."""
    frames, m = x.shape[:2]
    total = max(frames, round(ratio * frames * m))
    groups = slow_groups(x, frames * m // total)
    fused = [np.mean([x[t] for t in group], axis=0) for group in groups]
    unlike = [[1 - cosine(a.mean(0), b.mean(0)) for b in fused] for a in fused]
    u = [float(np.mean(row)) for row in unlike]
    weight = [math.exp(math.sqrt(len(groups)) * (value - float(np.mean(u)))) for value in u]
    wish = [total * w / sum(weight) for w in weight]

    taken, others = [], []
    for frame in fused:
        distance = [[1 - cosine(a, b) for b in frame] for a in frame]
        turns = sorted(range(m), key=lambda i: -np.mean(distance[i]))
        own: list[int] = []
        for i in turns:
            if all(distance[i][j] >= limit for j in own):
                own.append(i)
        taken.append(own)
        others.append([i for i in turns if i not in own])

    budget = [1] * len(groups)
    twice = min(m, 2 * total // len(groups))
    for most in ([min(len(own), twice) for own in taken], [len(own) for own in taken], [m] * len(groups)):
        while sum(budget) < total and any(k < n for k, n in zip(budget, most, strict=True)):
            room = [g for g in range(len(groups)) if budget[g] < most[g]]
            budget[min(room, key=lambda g: (budget[g] + 1 - wish[g], g))] += 1

    index, made = [], []
    for group, frame, own, rest, k in zip(groups, fused, taken, others, budget, strict=True):
        for i in sorted((own + rest)[:k]):
            index.append(group[0] * m + i)
            near = [frame[j] for j in range(m) if 1 - cosine(frame[i], frame[j]) < limit]
            made.append((frame[i] + np.mean(near, axis=0)) / 2 if i in own else frame[i])
    return index, made


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.5])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("lengths", [[1], [6], [4, 1, 7], [1] * 9], ids=str)
def test_mended(lengths, ratio, noise):
    x = scenes(lengths, 12, 6, noise, seed=len(lengths))
    kept = UniComp(ratio).select(x)
    index, made = slow_unicomp(x.numpy(), ratio)
    assert kept.index.tolist() == index
    assert len(index) == UniComp(ratio).total(*x.shape[:2])
    torch.testing.assert_close(kept.features, torch.tensor(np.array(made)))


def test_mended_fills_up_with_tokens_that_are_alike():
    """Two shots of equal tokens have one distinct token each. The others come back unmerged, the first ones first."""
    x = torch.zeros(4, 6, 3)
    x[:2, :, 0], x[2:, :, 1] = 1, 2
    kept = UniComp(0.25).select(x)
    assert kept.budgets.tolist() == [3, 0, 3, 0]
    assert kept.index.tolist() == [0, 1, 2, 12, 13, 14]
    assert torch.equal(kept.features, x.flatten(0, 1)[kept.index])


@pytest.mark.parametrize("seed", range(6))
def test_independent_is_the_greedy_choice(seed):
    g = torch.Generator().manual_seed(seed)
    near = torch.rand(3, 40, 40, generator=g) < (0.02, 0.05, 0.1, 0.3, 0.9, 0.0)[seed]
    near |= near.mT.clone()
    near[0] = torch.eye(40, dtype=torch.bool).roll(1, 0) | torch.eye(40, dtype=torch.bool).roll(-1, 0)  # one long chain
    order = torch.stack([torch.randperm(40, generator=g) for _ in range(3)])
    order[0] = torch.arange(40)
    taken = independent(near, order)
    for one, turns, found in zip(near, order.tolist(), taken, strict=True):
        own: list[int] = []
        for i in turns:
            if not any(one[i, j] for j in own):
                own.append(i)
        assert found.nonzero().flatten().tolist() == sorted(own)


def test_budgets_of_vidcom2_are_those_of_the_groups():
    x = scenes([3, 1, 4], 16, 8, 0.02).float()
    groups = slow_groups(x.double().numpy(), 4)
    assert [len(group) for group in groups] == [3, 1, 4]
    means = torch.stack([x[group].mean(dim=0) for group in groups])
    kept = UniComp(0.25, fca=FrameAdjustment()).select(x)
    expected = VidCom2(32 / 48, rounding="exact").select(means).budgets
    assert kept.budgets[[0, 3, 4]].tolist() == expected.tolist()
    assert len(kept.index) == int(expected.sum()) == 32


def test_released_can_keep_none():
    with pytest.raises(ValueError, match=r"unicomp\.?.*keeps no token of a video of shape \(4, 4, 3\)"):
        UniComp.released(0.01).select(video(4, 4, 3))
    assert len(UniComp(0.01).select(video(4, 4, 3)).index) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unicomp:form=new", "form='new'"),
        ("unicomp:frames=-1", "frames=-1"),
        ("unicomp:tokens=3", "tokens=3"),
        ("unicomp+fca.released", r"unicomp\+fca can"),
    ],
)
def test_bad_settings_raise_and_name_themselves(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)
