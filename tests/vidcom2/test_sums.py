"""The sums behind the methods: products and cosines of tokens, distances, and means of groups, against float64."""

from __future__ import annotations

import pytest
import torch

from tests.vidcom2.test_operator import gpu_product  # noqa: F401  # a fixture
from tests.vidcom2.test_vidcom2 import video
from vidcom2.features import lengths
from vidcom2.kernels import at_once, in_slices, products
from vidcom2.pieces import clustering
from vidcom2.pieces.cosines import cosines_with, cosines_within_frames, pair_cosines
from vidcom2.pieces.merging import group_means

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
over_kernels = pytest.mark.parametrize("kernels", [in_slices, at_once], ids=["in_slices", "at_once"])


def close(found: torch.Tensor, exact: torch.Tensor) -> None:
    assert found.dtype in (torch.float32, torch.float64)
    rtol = 1e-11 if found.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=rtol * float(exact.abs().max()))


@over_dtypes
@over_kernels
@pytest.mark.parametrize("elements", [1, 500, 10**9])
def test_products(kernels, dtype, elements, monkeypatch, gpu_product):  # noqa: F811
    monkeypatch.setattr(in_slices, "SLICE", elements)
    x = video(9, 12, 16).to(dtype)
    exact, before = x.double(), x.clone()
    other = torch.tensor([0, 0, 5, 8, 3, 3, 2, 1, 7])
    length, dots = kernels.lengths_and_pair_dots(x, other)
    close(length, exact.norm(dim=-1))
    close(dots, (exact * exact[other]).sum(-1))
    close(kernels.products_within_frames(x), exact @ exact.mT)
    rows = exact[2, 3:8]
    close(kernels.products_with_rows(x, rows.to(length.dtype)), exact @ rows.to(length.dtype).double().mT)
    assert torch.equal(x, before)


@pytest.mark.parametrize("n", [1, 5, 66, 67, 140])
def test_products_with_and_without_onednn(n, monkeypatch):
    a, b = video(1, n, 4096)[0].float(), video(1, 30, 4096)[0].float()
    found, own = products.products(a, b), products.own_products(a)
    close(found, a.double() @ b.double().mT)
    close(own, a.double() @ a.double().mT)
    assert torch.equal(own, own.mT) or n <= products.BLOCK
    monkeypatch.setattr(products, "ONEDNN", None)
    torch.testing.assert_close(products.products(a, b), found, rtol=1e-5, atol=1e-5 * float(found.abs().max()))
    torch.testing.assert_close(products.own_products(a), own, rtol=1e-5, atol=1e-5 * float(own.abs().max()))


def test_products_need_no_gradient():
    a = video(1, 80, 4096)[0].float().requires_grad_()
    assert not products.own_products(a).requires_grad
    assert not products.products(a, a).requires_grad


@over_dtypes
def test_cosines(dtype):
    x = video(5, 12, 16).to(dtype)
    x[2, 3] = 0
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    other = torch.tensor([0, 0, 1, 1, 3])
    cosine, length = pair_cosines(x, other)
    close(cosine, (unit * unit[other]).sum(-1))
    close(length, x.double().norm(dim=-1))
    assert cosine[2, 3] == 0
    within = cosines_within_frames(x, lengths(x))
    close(within, unit @ unit.mT)
    assert within[2, 3].eq(0).all()
    mean = x.double().mean(dim=1, keepdim=True).to(length.dtype)
    close(cosines_with(x, mean), (unit @ torch.nn.functional.normalize(mean.double(), dim=-1).mT)[..., 0])


@pytest.mark.parametrize("offset", [0, 100])
def test_distances_of_tokens_far_from_the_origin(offset):
    x = (video(1, 40, 64)[0].double() + offset).float()
    exact = torch.cdist(x.double(), x.double()).square() / 64
    found = clustering.squared_distances(x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    assert found.diagonal().eq(0).all()


@pytest.mark.parametrize("count", [1, 4, clustering.FEW, clustering.FEW + 1])
def test_the_smallest_values_with_equal_ones(count):
    values = torch.randint(0, 6, (50, 20), generator=torch.Generator().manual_seed(0)).float()
    before = values.clone()
    assert torch.equal(clustering.smallest(values, count), values.sort(dim=-1).values[:, :count])
    assert torch.equal(values, before)


@over_dtypes
def test_group_means(dtype):
    x = video(1, 60, 24)[0].to(dtype)
    group = torch.randint(0, 9, (60,), generator=torch.Generator().manual_seed(0))
    group[group == 4] = 8  # 8 is no group, and 4 has no token
    means, counts = group_means(x, group, 8)
    assert counts.tolist() == [int((group == g).sum()) for g in range(8)]
    assert counts[4] == 0
    assert means[4].eq(0).all()
    expected = torch.stack([x.double()[group == g].mean(0) if g != 4 else torch.zeros(24).double() for g in range(8)])
    close(means, expected)
    alone, _ = group_means(x, torch.arange(60), 60)
    assert torch.equal(alone.to(dtype), x), "a group of one token is that token"


def test_large_half_precision_groups_do_not_overflow():
    x = torch.full((100, 8), 60000.0, dtype=torch.float16)
    means, _ = group_means(x, torch.zeros(100, dtype=torch.int64), 1)
    assert means.eq(60000).all()
