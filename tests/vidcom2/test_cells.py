"""The controls that look at places alone, pooling and grid sampling, against plain pooling and slow cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from tests.vidcom2.test_vidcom2 import video
from vidcom2 import compressor
from vidcom2.methods.grid import Grid
from vidcom2.methods.pool import Pool
from vidcom2.pieces.cells import cells


def parts(size: int, count: int) -> list[list[int]]:
    """`size` things in `count` parts, as equal as can be."""
    return [list(range(i * size // count, (i + 1) * size // count)) for i in range(count)]


def slow_cells(frames: int, rows: int, columns: int, count: int, span: int) -> list[tuple[list[int], int]]:
    """The tokens of each cell, and the one in its middle."""
    m = rows * columns
    while count > math.ceil(frames / span) * m:
        span -= 1
    runs = math.ceil(frames / span)
    found = []
    for number, run in enumerate(parts(frames, runs)):
        k = count // runs + (number < count % runs)
        bands = min(max(round(math.sqrt(k * rows / columns)), math.ceil(k / columns)), rows, k)
        shares = [len(part) for part in parts(k, bands)]
        for band, share in zip(parts(rows, bands), shares, strict=True):
            for stretch in parts(columns, share):
                own = [t * m + y * columns + x for t in run for y in band for x in stretch]
                middle = [each[(len(each) - 1) // 2] for each in (run, band, stretch)]
                found.append((own, middle[0] * m + middle[1] * columns + middle[2]))
    return found


@pytest.mark.parametrize("span", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (5, 3, 4), (7, 14, 14), (4, 9, 2), (6, 1, 1)], ids=str)
def test_cells(shape, span):
    frames, rows, columns = shape
    n = frames * rows * columns
    for count in sorted({frames, min(n, frames + 1), (frames + n) // 3, n // 2, n - 1, n}):
        if count >= frames:
            owner, middle = cells(frames, rows, columns, count, span)
            expected = slow_cells(frames, rows, columns, count, span)
            assert [owner[own].unique().tolist() for own, _ in expected] == [[i] for i in range(count)]
            assert sum(len(own) for own, _ in expected) == n
            assert middle.tolist() == [i for _, i in expected] == sorted(i for _, i in expected)


@pytest.mark.parametrize("spec", ["pool", "pool.time", "grid", "grid.time", "grid:span=3"])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 1, 1), (5, 3, 4), (9, 5, 8)], ids=str)
def test_means_and_middles(shape, ratio, spec):
    frames, rows, columns = shape
    x = video(frames, rows * columns, 6).double()
    span = {"time": round(ratio ** (-1 / 3)), "3": 3}.get(spec.replace("=", ".").rpartition(".")[2], 1)
    count = max(frames, round(ratio * frames * rows * columns))
    expected = slow_cells(frames, rows, columns, count, span)
    kept = compressor(spec, retention=ratio).select(x, (rows, columns))
    assert kept.index.tolist() == [i for _, i in expected]
    if spec.startswith("grid"):
        assert kept.features is None
    else:
        torch.testing.assert_close(kept.features, torch.stack([x.flatten(0, 1)[own].mean(0) for own, _ in expected]))


@pytest.mark.parametrize(("k", "h", "w"), [(49, 7, 7), (4, 2, 2), (196, 14, 14), (1, 1, 1)])
def test_where_the_numbers_fit_it_is_adaptive_average_pooling(k, h, w):
    x = video(3, 196, 5)
    merged = Pool(k / 196).select(x).apply(x) if k < 196 else x.flatten(0, 1)
    plain = adaptive_avg_pool2d(x.unflatten(1, (14, 14)).permute(0, 3, 1, 2), (h, w)).permute(0, 2, 3, 1)
    torch.testing.assert_close(merged, plain.reshape(-1, 5))


def test_pooling_over_time_is_pooling_of_boxes():
    x = video(8, 16, 5)
    merged = Pool.time(1 / 8).select(x).apply(x)
    plain = adaptive_avg_pool3d(x.unflatten(1, (4, 4)).permute(3, 0, 1, 2), (4, 2, 2)).permute(1, 2, 3, 0)
    torch.testing.assert_close(merged, plain.reshape(-1, 5))
    assert Grid.time(1 / 8).select(x).budgets.tolist() == [4, 0] * 4


def test_settings():
    assert compressor("pool.time@0.1").spec == "pool@0.1:span=None"
    assert compressor("pool@0.1:span=None") == Pool.time(0.1)
    assert compressor("grid.time@0.1") == Grid(0.1, span=None)
    with pytest.raises(ValueError, match="span=0 must be at least 1"):
        compressor("grid@0.1:span=0")
    with pytest.raises(ValueError, match=r"pool looks at where in the frame .* 6 tokens are no square"):
        Pool(0.5).select(video(2, 6, 4))
