"""AOT: recorded runs of the authors' code, and a slow and obvious reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.golden import listed, load
from tests.vidcom2.grids import grid_of
from tests.vidcom2.test_baselines import best, cosine, scenes
from tests.vidcom2.test_vidcom2 import CountedOps
from vidcom2 import FrameAdjustment, NotFinite, VidCom2, compressor
from vidcom2.methods.aot import Aot
from vidcom2.pieces.clips import cut
from vidcom2.ranking import window_ranks

FILE = "baselines/aot_chain.safetensors"
(ENTRY,) = [entry for entry in listed("entries") if entry["file"] == FILE]
RUNS = ENTRY["meta"]["runs"]


# ---- recorded runs of the authors' code


def recorded_input(frames: int, m: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(4700)
    shots = torch.randn(4, m, 6, generator=g).repeat_interleave(frames // 4, 0)
    return shots + 0.5 * torch.randn(frames, m, 6, generator=g) + torch.randn(6, generator=g)


@pytest.mark.parametrize("tag", RUNS)
def test_released_is_the_authors_code(tag):
    run, golden = RUNS[tag], load(FILE)
    x = recorded_input(run["frames"], run["m"])
    assert torch.equal(x[0, 0], golden[f"{tag}.x_first"])
    assert torch.equal(x[-1, -1], golden[f"{tag}.x_last"])
    clips = 8 if run["inter"] else run["frames"]
    kept = Aot.released(anchors=run["anchors"], residual=run["residual"], clips=clips).select(x)
    torch.testing.assert_close(kept.features, golden[f"{tag}.features"], atol=3e-5, rtol=0)


def test_released_solves_for_the_retention():
    x = torch.randn(32, 196, 5, generator=torch.Generator().manual_seed(0))
    for ratio in (0.05, 0.1, 0.25, 0.5, 0.65):
        kept = Aot.released(ratio).select(x)
        # One anchor more is 2.9 tokens of each of the 8 clips; up to 8 anchors are lost when windows round.
        assert abs(len(kept.index) / (32 * 196) - ratio) < 9 * 2.9 * 8 / (2 * 32 * 196)
    with pytest.raises(ValueError, match=r"cannot reach retention=0\.9 on 32 frames of 196 tokens: it keeps at most 4"):
        Aot.released(0.9).select(x)
    with pytest.raises(ValueError, match="cannot take anchors=197 on 32 frames"):
        Aot.released(anchors=197).select(x)


# ---- slow and obvious


def slow_plan(cost: np.ndarray, iterations: int) -> np.ndarray:
    n, a = cost.shape
    r, c = [1.0] * n, [1.0] * a
    kernel = [[math.exp(-cost[i, j] / 0.1) for j in range(a)] for i in range(n)]
    for _ in range(iterations):
        r = [1 / n / sum(kernel[i][j] * c[j] for j in range(a)) for i in range(n)]
        c = [1 / a / sum(kernel[i][j] * r[i] for i in range(n)) for j in range(a)]
    return np.array([[r[i] * kernel[i][j] * c[j] for j in range(a)] for i in range(n)])


def slow_anchors(frame: np.ndarray, count: int, grid: tuple[int, int]) -> list[int]:
    """Where the anchors of a frame are, ascending."""
    rows, columns = grid
    strength = [float(np.linalg.norm(v)) for v in frame]
    windows: dict[tuple[int, int], list[int]] = {}
    for j in range(len(frame)):
        windows.setdefault((j // columns * 3 // rows, j % columns * 3 // columns), []).append(j)
    chosen: list[int] = []
    for members in windows.values():
        chosen += [members[i] for i in best([strength[j] for j in members], int(count * 0.5) // 9)]
    others = [j for j in range(len(frame)) if j not in chosen]
    chosen += [others[i] for i in best([strength[j] for j in others], count - len(chosen))]
    return sorted(chosen)


def slow_within(frame: np.ndarray, chosen: list[int], grid: tuple[int, int]) -> np.ndarray:
    """The merged anchors of a frame."""
    rows, columns = grid
    others = [j for j in range(len(frame)) if j not in chosen]
    if not others:
        return frame[chosen]

    def distance(i: int, j: int) -> float:
        down = (i // columns - j // columns) / max(1, rows - 1)
        right = (i % columns - j % columns) / max(1, columns - 1)
        return math.sqrt(down**2 + right**2)

    similar = [[cosine(frame[i], frame[j]) for j in chosen] for i in others]
    apart = [[distance(i, j) for j in chosen] for i in others]
    plan = slow_plan(1 - np.array(similar) + 0.5 * np.array(apart), 5)
    owner = [int(np.argmax(row)) for row in similar]
    made = []
    for a, j in enumerate(chosen):
        moved = (frame[j] + sum(plan[i, a] * frame[o] for i, o in enumerate(others))) / (1 + plan[:, a].sum())
        mine = [frame[o] for i, o in enumerate(others) if owner[i] == a]
        made.append(0.9 * moved + 0.1 * np.mean([frame[j], *mine], axis=0))
    return np.array(made)


def slow_aot(
    x: np.ndarray, budgets: list[int], grid: tuple[int, int], clips: int = 8, residual: float = 0.3
) -> dict[int, np.ndarray]:
    """The tokens that stay, by their position."""
    frames, m = x.shape[:2]
    lengths = [frames // clips + (i < frames % clips) for i in range(clips)]
    starts = {sum(lengths[:i]) for i in range(clips)} if frames > clips else set(range(frames))
    kept: dict[int, np.ndarray] = {}
    first = 0
    for t in range(frames):
        count = budgets[t] if t in starts else min(m, round(budgets[t] / residual))
        places = slow_anchors(x[t], count, grid)
        tokens = slow_within(x[t], places, grid)
        if t in starts:
            first, y = t, tokens
            first_places = places
        else:
            gap = np.array([[1 - cosine(v, w) for w in y] for v in tokens])
            plan = slow_plan(gap * (1 - math.exp(-((t - first) ** 2) / 4.5)), 5)
            plan = plan / plan.sum(1, keepdims=True)
            stay = best([-max(row) for row in plan], budgets[t])
            for i in stay:
                kept[t * m + places[i]] = tokens[i]
            moving = [i for i in range(len(tokens)) if i not in stay]
            y = np.array(
                [
                    (y[a] + sum(plan[i, a] * tokens[i] for i in moving)) / (1 + sum(plan[i, a] for i in moving))
                    for a in range(len(y))
                ]
            )
        for place, token in zip(first_places, y, strict=True):
            kept[first * m + place] = token
    return kept


def own_budgets(ratio: float, frames: int, m: int, clips: int = 8, residual: float = 0.3) -> list[int]:
    """One token at a time: frames of a clip want anchors in equal number, of which later ones keep a share."""
    total = max(frames, round(ratio * frames * m))
    n = min(clips, frames)
    starts = [t for part in cut(frames, clips) for t in part.firsts]
    wanted = round(total * (frames - n) * residual / (n + (frames - n) * residual))
    for_others = max(wanted, frames - n, total - n * m)
    left = {True: total - for_others, False: for_others}
    group = {True: starts, False: [t for t in range(frames) if t not in starts]}
    budgets = [0] * frames
    for which in (True, False):
        for i in range(left[which]):
            budgets[group[which][i % len(group[which])]] += 1
    return budgets


SHAPES = [(1, 9), (3, 12), (8, 25), (9, 12), (19, 36), (32, 16), (12, 7), (16, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_mended(shape, ratio):
    frames, m = shape
    x = torch.randn(frames, m, 6, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    x = x + x[:1]
    kept = Aot(ratio).select(x, grid_of(m))
    budgets = own_budgets(ratio, frames, m)
    assert kept.budgets.tolist() == budgets
    assert len(kept.index) == max(frames, round(ratio * frames * m)) == Aot(ratio).total(frames, m)
    expected = slow_aot(x.numpy(), budgets, grid_of(m))
    assert kept.index.tolist() == sorted(expected)
    torch.testing.assert_close(kept.features, torch.tensor(np.array([expected[i] for i in sorted(expected)])))
    single = Aot(ratio).select(x.float(), grid_of(m))
    assert torch.equal(single.budgets, kept.budgets)


@pytest.mark.parametrize(("clips", "residual"), [(1, 0.3), (2, 1.0), (3, 0.1), (64, 0.3)])
@pytest.mark.parametrize("fca", [None, FrameAdjustment(tau=0.1)], ids=["own", "fca"])
def test_mended_with_other_settings(clips, residual, fca):
    x = scenes([3, 1, 7], 16, 6, 0.5)
    kept = Aot(0.3, clips=clips, residual=residual, fca=fca).select(x)
    budgets = fca.budgets(x, 0.3).tolist() if fca else own_budgets(0.3, 11, 16, clips, residual)
    assert kept.budgets.tolist() == budgets
    expected = slow_aot(x.numpy(), budgets, (4, 4), clips, residual)
    assert kept.index.tolist() == sorted(expected)
    torch.testing.assert_close(kept.features, torch.tensor(np.array([expected[i] for i in sorted(expected)])))


def test_budgets_by_hand_may_leave_frames_out():
    x = scenes([9, 9], 16, 6, 0.5)
    for zero in (range(8), [0], [1], range(9, 18), [0, 3, 6]):  # also a whole chunk, and first frames of clips
        budgets = [0 if t in zero else None for t in range(18)]
        kept = Aot(0.3, budgets=budgets).select(x)
        assert len(kept.index) == round(0.3 * 18 * 16)
        assert all(kept.budgets[t] == 0 for t in zero)
        assert torch.equal(torch.bincount(kept.index // 16, minlength=18), kept.budgets)
        assert kept.features.isfinite().all()
    every = [3] * 8 + [0] * 10
    own = Aot(0.9, budgets=every).select(x)
    assert own.budgets.tolist() == every
    assert own.by_hand == tuple(every)


def test_fca_keeps_the_budgets_of_vidcom2():
    x = scenes([3, 1, 12], 25, 8, 0.3)
    kept = compressor("aot+fca@0.2").select(x)
    assert torch.equal(kept.budgets, VidCom2(0.2, rounding="exact").select(x).budgets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = (scenes([8, 8], 25, 16, 0.3) * 20).to(dtype)  # squares overflow float16
    kept, exact = Aot(0.3).select(x), Aot(0.3).select(x.float())
    assert torch.equal(kept.index, exact.index)
    assert torch.equal(kept.features, exact.features.to(dtype))


@pytest.mark.parametrize("x", [torch.zeros(12, 16, 4), torch.ones(12, 16, 4), torch.ones(1, 1, 4)], ids=str)
@pytest.mark.parametrize("form", ["mended", "released"])
def test_equal_tokens(x, form):
    kept = Aot(0.25, form=form).select(x)
    assert kept.features.isfinite().all()
    torch.testing.assert_close(kept.features, x[0, 0].expand_as(kept.features))  # a mean of equal tokens is the token


def test_what_does_not_exist_has_no_effect(monkeypatch):
    """Frames have different numbers of anchors; what pads them is not initialised."""
    x = scenes([5, 1, 12], 16, 6, 0.5)
    budgets = [4, 1, 5, 3, 2, 1, 3, 2, 1, 2, 3, 1, 5, 1, 4, 2, 1, 3]
    chosen = Aot(0.5, budgets=budgets, clips=2)
    expected = slow_aot(x.numpy(), budgets, (4, 4), clips=2)
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **settings: empty(*args, **settings).fill_(math.nan))
    for chunk in (1, 3, 8, 64):
        monkeypatch.setattr("vidcom2.methods.aot.CHUNK", chunk)
        kept = chosen.select(x)
        assert kept.index.tolist() == sorted(expected)
        torch.testing.assert_close(kept.features, torch.tensor(np.array([expected[i] for i in kept.index.tolist()])))


def test_gradients_reach_the_tokens_that_are_merged():
    x = scenes([9, 9], 16, 6, 0.5).requires_grad_()
    kept = Aot(0.3).select(x)
    kept.features.sum().backward()
    assert not torch.equal(kept.features, x.flatten(0, 1)[kept.index])
    torch.testing.assert_close(x.grad.sum().item(), float(kept.features.numel()))  # the weights of a mean sum to 1
    assert x.grad[0].ne(0).all()  # no token of a first frame is lost


def test_windows():
    scores = torch.arange(27 * 27.0).view(1, -1)
    ranks = window_ranks(scores, (27, 27), 3).view(27, 27)
    for i in range(3):
        for j in range(3):
            window = ranks[9 * i : 9 * i + 9, 9 * j : 9 * j + 9].flatten()
            assert window.tolist() == list(range(80, -1, -1))
    # A grid with fewer lines than windows: every token is alone in its window.
    assert window_ranks(torch.tensor([[1.0, 5.0, 3.0, 4.0]]), (2, 2), 3).tolist() == [[0, 0, 0, 0]]
    assert window_ranks(torch.tensor([[1.0, 5.0, 3.0, 4.0]]), (1, 4), 3).tolist() == [[1, 0, 0, 0]]


def test_clips():
    def lengths(frames: int, clips: int) -> list[int]:
        return [part.length for part in cut(frames, clips) for _ in part.firsts]

    assert lengths(32, 8) == [4] * 8
    assert lengths(64, 8) == [8] * 8
    assert lengths(19, 8) == [3, 3, 3, 2, 2, 2, 2, 2]
    assert lengths(5, 8) == [1] * 5
    assert lengths(5, 1) == [5]


def test_time_is_linear_in_the_frames():
    """More frames are more of the same steps: none sees all pairs of frames."""
    made = Aot(0.25)
    counts = []
    for frames in (64, 128, 256):
        with CountedOps() as ops:
            made.select(torch.randn(frames, 9, 4, generator=torch.Generator().manual_seed(0)))
        counts.append(ops.total)
    assert counts[2] - counts[1] <= 2.2 * (counts[1] - counts[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("aot:form=new", "form='new'"),
        ("aot:clips=0", "clips=0"),
        ("aot:residual=0", "residual=0"),
        ("aot:global_share=2", "global_share=2"),
        ("aot:iterations=0", "iterations=0"),
        ("aot:anchors=9", "needs aot.released"),
        ("aot.released:anchors=0", "anchors=0"),
        ("aot.released:iterations=9", "iterates as the code does"),
        ("aot+fca:form=released", r"aot\+fca can"),
    ],
)
def test_bad_settings_raise_and_name_themselves(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)


def test_not_finite():
    x = scenes([4], 16, 6, 0.5)
    x[3, 15, 5] = math.nan
    with pytest.raises(NotFinite):
        Aot().select(x)
    with pytest.raises(ValueError, match="12 tokens are no square"):
        Aot().select(x[:, :12].nan_to_num())
