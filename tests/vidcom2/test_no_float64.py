"""Apple's GPUs have no float64. Methods must not need it, and must choose the same tokens without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.vidcom2.hf_tiny import batch, tiny
from tests.vidcom2.test_transformers import rows_of
from vidcom2 import METHODS, compressor
from vidcom2.methods import visionzip

BEFORE = sorted(name for name in METHODS if METHODS[name].drops and METHODS[name].stage == "before LLM")
INSIDE = ("fastv@0.5:k=1", "sparsevlm@0.5")


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(out)):
            raise TypeError(f"{func} gave a float64 tensor")
        return out


@pytest.mark.parametrize(
    "spec",
    [
        *BEFORE,
        *(f"{name}.released" for name in ("evs", "vcast", "vidcom2", "visionzip")),
        "random+fca",
        "visionzip+fca",
    ],
)
def test_selection(spec, monkeypatch):
    x = torch.randn(6, 25, 16, generator=torch.Generator().manual_seed(0))
    expected = compressor(spec).select(x)
    monkeypatch.setattr(visionzip, "has_float64", lambda device: False)
    with NoFloat64():
        kept = compressor(spec).select(x)
    assert torch.equal(kept.index, expected.index)
    assert torch.equal(kept.apply(x), expected.apply(x))


@pytest.mark.parametrize("spec", INSIDE)
def test_between_layers(spec):
    model, inputs = tiny("qwen2_vl", layers=6), batch(rows_of("qwen2_vl", "padded"))
    with compressor(spec)(model) as run, NoFloat64():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert len(run.records) == 2


def test_large_features_are_no_overflow():
    """The variance of each channel is finite, but their sum overflows float32."""
    x = torch.randn(4, 9, 512, generator=torch.Generator().manual_seed(0)) * 1e18
    assert len(compressor("vidcom2.released").select(x).index)
