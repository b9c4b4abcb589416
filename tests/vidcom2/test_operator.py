"""VidCom²'s selection as a whole: the same tokens as the slow reference, and little memory."""

from __future__ import annotations

import pytest
import torch

from eval.speed.memory import peak_bytes
from eval.speed.random_features import features
from eval.speed.reference_operator import slow_reference
from tests.vidcom2.test_vidcom2 import video
from vidcom2 import VidCom2, uniqueness
from vidcom2.kernels import at_once, in_slices
from vidcom2.methods.random import Random

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 20, 8), (9, 1, 8), (7, 12, 6), (8, 49, 64), (40, 16, 96)], ids=str)
@pytest.mark.parametrize("ratio", [0.01, 0.15, 0.25, 0.6])
@pytest.mark.parametrize("make", [video, lambda *shape: features(shape, torch.float32, CPU)], ids=["video", "bench"])
def test_released_keeps_what_the_slow_reference_keeps(shape, ratio, make):
    x = make(*shape).double()
    assert torch.equal(VidCom2.released(ratio).select(x).index, slow_reference(x, ratio))


def test_released_keeps_what_the_slow_reference_keeps_in_float32():
    x = features((24, 40, 4096), torch.float32, CPU)
    assert torch.equal(VidCom2.released(0.25).select(x).index, slow_reference(x, 0.25))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("compressor", [VidCom2(), VidCom2(window=3), VidCom2.released(), VidCom2.released(window=4)])
@pytest.mark.parametrize("elements", [1, 500])
def test_slices_of_frames_change_nothing(dtype, compressor, elements, monkeypatch):
    x = video(10, 12, 16).to(dtype)
    before = x.clone()
    monkeypatch.setattr(in_slices, "SLICE", 10**9)
    whole = compressor.explain(x)
    monkeypatch.setattr(in_slices, "SLICE", elements)  # a frame has 192: one frame, or two
    sliced = compressor.explain(x)
    atol = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(sliced.video, whole.video, atol=atol, rtol=0)
    torch.testing.assert_close(sliced.frame, whole.frame, atol=atol, rtol=0)
    assert torch.equal(x, before)


@pytest.fixture
def gpu_product():
    """Makes torch.bmm(..., out_dtype=torch.float32), which only GPUs have, run on the CPU."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("bmm.dtype", lambda a, b, dtype: torch.bmm(a.to(dtype), b.to(dtype)), "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_a_gpu_computes_is_what_a_cpu_does(dtype, window, scale, monkeypatch, gpu_product):
    x = (features((10, 12, 256), torch.float64, CPU).clamp(-50, 50) * scale).to(dtype)
    exact = uniqueness.cosine(x.double(), window)
    monkeypatch.setattr(uniqueness, "kernels_for", lambda x: at_once)
    if dtype.itemsize == 2:
        monkeypatch.setattr(at_once, "dots", at_once.half_dots)
    found = uniqueness.cosine(x, window)
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    for similarity in ("video", "frame"):
        expected = getattr(exact, similarity)
        torch.testing.assert_close(getattr(found, similarity).double(), expected, atol=atol, rtol=0)


def test_products_in_half_precision_are_exact_though_centres_differ_in_size(gpu_product):
    x = video(3, 20, 64)
    centres = video(3, 2, 64) * torch.tensor([1e-30, 1e30])[:, None]
    for dtype in (torch.bfloat16, torch.float16):
        exact = x.to(dtype).double() @ centres.mT.double()
        torch.testing.assert_close(at_once.half_dots(x.to(dtype), centres).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_little_memory_beyond_the_features(dtype, monkeypatch):
    """Less than a tenth, at the smallest size of real models, even if many threads work on frames."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    x = features((32, 196, 3584), torch.float32, CPU).to(dtype)
    for compressor in (VidCom2(0.25), VidCom2.released(0.25), Random(0.25), VidCom2(1)):
        assert 0 < peak_bytes(compressor.select, x) < x.nbytes / 10, compressor
    if dtype == torch.float32:  # the measurement sees what the slow reference stores
        assert peak_bytes(slow_reference, x) > x.nbytes / 2
