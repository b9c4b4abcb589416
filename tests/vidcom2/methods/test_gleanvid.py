"""GleanVID against a slow and obvious reference, written from the equations of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.vidcom2.test_baselines import best, cosine, scenes
from tests.vidcom2.test_vidcom2 import video
from vidcom2 import FrameAdjustment, compressor
from vidcom2.methods.gleanvid import GleanVid
from vidcom2.pieces.subspace import Subspace, leading_direction

EPSILON = 1e-4


def shots(lengths: list[int], m: int, d: int, noise: float, seed: int = 0) -> torch.Tensor:
    """Shots of nearly still frames whose tokens also differ in one shared direction, float64."""
    g = torch.Generator().manual_seed(seed + 100)
    shared = 3 * torch.randn(sum(lengths), m, 1, generator=g) * torch.randn(d, generator=g) / d**0.5
    return scenes(lengths, m, d, noise, seed) + 2 * shared


def explained(history: list[np.ndarray], z: np.ndarray, epsilon: float, level: float | None = None) -> float:
    """b' G^-1 b of eq. 11: how much of |z|² the vectors of the history explain."""
    h = np.array(history)
    gram = h @ h.T
    gram += epsilon * (np.trace(gram) / len(h) if level is None else level) * np.eye(len(h))
    b = h @ z
    return float(b @ np.linalg.inv(gram) @ b)


def slow_debiased(x: np.ndarray) -> np.ndarray:
    """Eq. 3."""
    tokens = x.reshape(-1, x.shape[-1])
    mean = tokens.mean(0)
    v = np.linalg.svd(tokens - mean)[2][0]
    return np.array([[(a - mean) - ((a - mean) @ v) * v + mean for a in frame] for frame in x])


def slow_cells(rows: int, columns: int) -> list[list[int]]:
    """For each token, the tokens of its cell."""
    place = [(i // columns // 2, i % columns // 2) for i in range(rows * columns)]
    return [[j for j, other in enumerate(place) if other == own] for own in place]


def slow_novelty(y: np.ndarray, cells: list[list[int]], h: int) -> list[float]:
    """R_t of eq. 4, with the projection of eq. 11."""
    novelty = []
    for t in range(len(y)):
        r = 0.0
        for cell in cells:
            z = [frame[cell].mean(0) for frame in y[: t + 1]]
            known = explained(z[max(0, t - h) : t], z[t], EPSILON) if t else 0.0
            r += math.sqrt(max(z[t] @ z[t] - known, 0))
        novelty.append(r)
    return novelty


def slow_budgets(novelty: list[float], total: int, m: int) -> list[int]:
    """Eq. 5 to 7, and largest remainder, token by token."""
    frames = len(novelty)
    whole = sum(novelty)
    gini = 2 * sum((i + 1) * r for i, r in enumerate(sorted(novelty))) / (frames * whole) - (frames + 1) / frames
    alpha = 0.6 - (0.6 - 0.2) * gini
    wanted = [alpha * total / frames + (1 - alpha) * total * r / whole for r in novelty]
    budgets = [1] * frames
    while sum(budgets) < total:
        budgets[min((t for t in range(frames) if budgets[t] < m), key=lambda t: (budgets[t] + 1 - wanted[t], t))] += 1
    return budgets


def scaled(scores: list[float]) -> list[float]:
    span = max(scores) - min(scores)
    return [(s - min(scores)) / span if span > 1e-5 * max(scores) else 0.0 for s in scores]


def slow_local(frame: np.ndarray, cells: list[list[int]], tau: float = 4.0) -> list[float]:
    """Eq. 8."""
    f = frame.mean(0)
    return [
        math.log1p(math.exp(tau * (cosine(a, frame[cell].mean(0)) - cosine(a, f)))) / tau
        for a, cell in zip(frame, cells, strict=True)
    ]


def slow_choice(x: np.ndarray, y: np.ndarray, cells: list[list[int]], budgets: list[int], exact: bool) -> list[int]:
    """Algorithm 2. `exact` takes the QR decomposition of eq. 13, otherwise residuals are projected on as in eq. 11."""
    m = x.shape[1]
    basis: list[np.ndarray] = []
    blocks: list[np.ndarray] = []
    kept = []
    for t, k in enumerate(budgets):
        new = []
        for a in y[t]:
            if exact:
                known = sum((q @ a) ** 2 for q in basis)
            else:
                known = sum(explained(list(block), a, EPSILON, 1.0) for block in blocks)
            new.append(math.sqrt(max(a @ a - known, 0)))
        u, v = scaled(slow_local(x[t], cells)), scaled(new)
        chosen = best([a + b for a, b in zip(u, v, strict=True)], k)
        kept += [t * m + j for j in chosen]
        if exact:
            rest = np.array([y[t, j] - sum((q @ y[t, j]) * q for q in basis) for j in chosen])
            q, r = np.linalg.qr(rest.T)
            size = np.abs(np.diag(r))
            basis += [q[:, j] for j in range(len(size)) if size[j] > EPSILON * size.max()]
        else:
            rest = []
            for j in chosen:
                a = y[t, j].copy()
                for block in blocks:
                    gram = block @ block.T + EPSILON * np.eye(len(block))
                    a -= block.T @ np.linalg.inv(gram) @ (block @ y[t, j])
                rest.append(a / np.linalg.norm(y[t, j]))
            blocks.append(np.array(rest))
    return kept


def slow_gleanvid(x: np.ndarray, grid: tuple[int, int], ratio: float, h: int = 64, exact: bool = False):
    frames, m = x.shape[:2]
    total = max(frames, round(ratio * frames * m))
    y, cells = slow_debiased(x), slow_cells(*grid)
    budgets = slow_budgets(slow_novelty(y, cells, h), total, m)
    return slow_choice(x, y, cells, budgets, exact), budgets


@pytest.mark.parametrize("lengths", [[1], [2, 1, 4], [1] * 6], ids=str)
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 1), (7, 2)], ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.6])
def test_slow_and_obvious(lengths, grid, ratio):
    x = shots(lengths, grid[0] * grid[1], 24, 0.3, seed=grid[0])
    kept = GleanVid(ratio).select(x, grid)
    index, budgets = slow_gleanvid(x.numpy(), grid, ratio)
    assert kept.budgets.tolist() == budgets
    assert kept.index.tolist() == index
    assert kept.features is None
    assert len(index) == GleanVid(ratio).total(*x.shape[:2])


@pytest.mark.parametrize("seed", range(4))
def test_where_kept_tokens_leave_room_it_is_the_qr_decomposition_of_the_paper(seed):
    x = shots([3, 1, 2], 16, 96, 0.4, seed=seed)
    kept = GleanVid(0.25).select(x)
    index, budgets = slow_gleanvid(x.numpy(), (4, 4), 0.25, exact=True)
    assert kept.budgets.tolist() == budgets
    assert kept.index.tolist() == index


@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_history(history):
    x = shots([4, 2, 5], 6, 24, 0.2)
    budgets = GleanVid(0.5, history=history).select(x, (2, 3)).budgets
    assert budgets.tolist() == slow_gleanvid(x.numpy(), (2, 3), 0.5, h=history)[1]


def test_new_content_gets_more_tokens():
    x = scenes([5, 1, 6], 16, 24, 0.02)
    budgets = GleanVid(0.25).select(x).budgets
    assert set(budgets.argsort(descending=True)[:3].tolist()) == {0, 5, 6}
    equal = GleanVid(0.25, alpha_min=1, alpha_max=1).select(x).budgets
    assert equal.tolist() == [4] * 12


def test_a_frame_does_not_repeat_what_is_kept():
    """The second frame is the first, but for one token, in the features that are explained least."""
    x = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    x[1, 9] = torch.randn(64, generator=torch.Generator().manual_seed(1))
    kept = GleanVid(0.5, alpha_min=1, alpha_max=1).select(x)
    assert 16 + 9 in kept.index.tolist()
    first = {i for i in kept.index.tolist() if i < 16}
    second = {i - 16 for i in kept.index.tolist() if i >= 16} - {9}
    assert len(first & second) < len(second) / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    x = video(6, 16, 48).to(dtype)
    exact = GleanVid(0.25).select(x.double())
    kept = GleanVid(0.25).select(x)
    assert torch.equal(kept.budgets, exact.budgets)
    assert torch.equal(kept.index, exact.index)


def test_still_and_zero_videos():
    still = video(1, 16, 8).repeat(8, 1, 1)
    budgets = GleanVid(0.25).select(still).budgets
    assert budgets[0] == 16  # of 0.787 · 32 wanted tokens; the others share the rest
    assert budgets[1:].sum() == 16
    assert GleanVid(0.25).select(torch.zeros(8, 16, 8)).budgets.tolist() == [4] * 8
    assert GleanVid(0.25).select(torch.ones(8, 16, 8)).index[:2].tolist() == [0, 1]


def test_budgets_of_vidcom2_and_of_the_caller():
    x = video(8, 16, 24)
    fca = FrameAdjustment()
    budgets = fca.budgets(x, 0.25).tolist()
    kept = GleanVid(0.25, fca=fca).select(x)
    double = x.double().numpy()
    assert kept.budgets.tolist() == budgets
    assert kept.index.tolist() == slow_choice(double, slow_debiased(double), slow_cells(4, 4), budgets, exact=False)
    named = (None, 9, 0, *[None] * 5)
    kept = GleanVid(0.25, budgets=named).select(x)
    assert kept.budgets[1:3].tolist() == [9, 0]
    assert len(kept.index) == 32
    assert kept.by_hand == named


def test_leading_direction():
    g = torch.Generator().manual_seed(0)
    for n, d, spread in ((300, 100, 1.5), (40, 200, 1.5), (5, 3, 1.0), (400, 30, 1.0)):
        x = torch.randn(n, d, generator=g, dtype=torch.float64) + 5
        x[:, 0] *= spread * (1 + (d / n) ** 0.5)
        mean = x.mean(dim=0)
        expected = torch.linalg.svd(x - mean, full_matrices=False)[2][0]
        found = leading_direction(x, mean)
        assert abs(float(found @ expected)) > 1 - 1e-3, (n, d)
    equal = leading_direction(torch.ones(6, 4), torch.ones(4))
    assert float(equal.norm()) == pytest.approx(1)


@pytest.mark.parametrize("size", [2, 5, 7, 100])
def test_a_full_basis_forgets_its_oldest_directions(size):
    g = torch.Generator().manual_seed(size)
    probe = torch.randn(9, 20, generator=g, dtype=torch.float64)
    space, rows = Subspace(size, 1e-4, probe), np.zeros((0, 20))
    for count in (3, 1, 4, 2, 6, 3):
        x = torch.randn(count, 20, generator=g, dtype=torch.float64)
        x[0] = probe[0]  # again and again
        space.add(x, space.coordinates(x))
        rest = []
        for vector in x.numpy():
            rest.append((vector - rows.T @ (rows @ vector)) / np.linalg.norm(vector))
        rest = np.array(rest)[:size]
        factor = np.linalg.cholesky(rest @ rest.T + 1e-4 * np.eye(len(rest)))
        rows = np.concatenate([rows, np.linalg.inv(factor) @ rest])[-size:]
        expected = ((probe.numpy() @ rows.T) ** 2).sum(1)
        np.testing.assert_allclose(space.coordinates(probe).square().sum(1).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gleanvid:alpha_min=2", "alpha_min=2"),
        ("gleanvid:temperature=0", r"temperature=0\.0"),
        ("gleanvid:tolerance=-1", r"tolerance=-1\.0"),
        ("gleanvid:history=0", "history=0"),
        ("gleanvid:basis=0", "basis=0"),
    ],
)
def test_bad_settings_raise_and_name_themselves(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)


def test_it_needs_a_grid():
    with pytest.raises(ValueError, match="gleanvid looks at where in the frame a token is"):
        GleanVid(0.25).select(video(3, 6, 8))
