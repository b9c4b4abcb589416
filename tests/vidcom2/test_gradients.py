"""Training under a compressor: gradients reach what is kept, and the choice has none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from vidcom2 import METHODS, Compressor, Kept, compressor

FRAMES, M, D = 16, 9, 5
SPECS = [
    f"{name}{preset}@0.5"
    for name, method in METHODS.items()
    if method.stage == "before LLM" and method.drops
    for preset in ("", *(f".{preset}" for preset in method.presets))
]
WEIGHED = ("aot@0.5", "aot.released@0.5")
"""Their weights follow the features smoothly, and count as constants."""


def features(seed: int) -> Tensor:
    """Some frames are nearly alike, so that methods merge."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(FRAMES, M, D, generator=generator, dtype=torch.float64)
    x[1::2] = x[::2] + 0.05 * x[1::2]
    return x


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_the_kept_tokens(spec):
    """A small step in the features changes the kept tokens as autograd says."""
    method, x = compressor(spec), features(3).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    kept = method.select(x)
    weights = torch.randn(len(kept.index), D, generator=generator, dtype=x.dtype)
    (gradient,) = torch.autograd.grad((kept.apply(x) * weights).sum(), x)
    still = x.detach()
    # Kept tokens are weighted sums of tokens, and the weights are constants.
    torch.testing.assert_close((gradient * still).sum(), (method.select(still).apply(still) * weights).sum())
    if spec not in WEIGHED:
        # A step along one token at a time: few of them change a choice.
        unchanged = 0
        for token in torch.randperm(FRAMES * M, generator=generator)[:12].tolist():
            step = torch.zeros_like(still).flatten(0, 1)
            step[token] = 1e-6 * torch.randn(D, generator=generator, dtype=x.dtype)
            ahead, behind = still + step.view_as(still), still - step.view_as(still)
            there = method.select(ahead), method.select(behind)
            if all(torch.equal(one.index, kept.index) for one in there):
                change = ((there[0].apply(ahead) - there[1].apply(behind)) * weights).sum() / 2
                torch.testing.assert_close((gradient * step.view_as(still)).sum(), change, rtol=1e-4, atol=1e-11)
                unchanged += 1
        assert unchanged >= 6


@pytest.mark.parametrize("spec", SPECS)
def test_with_gradients_the_same_is_kept(spec):
    method, x = compressor(spec), features(5).float()
    with torch.no_grad():
        expected = method.select(x)
    kept = method.select(x.requires_grad_())
    assert torch.equal(kept.index, expected.index)
    assert torch.equal(kept.budgets, expected.budgets)
    assert torch.equal(kept.apply(x), expected.apply(x))


@dataclass(frozen=True, repr=False)
class Merges(Compressor):
    """Says nothing of merging."""

    name: ClassVar[str] = "merges"

    def _select(self, x: Tensor) -> Kept:
        return Kept(torch.arange(len(x)) * x.shape[1], torch.ones(len(x), dtype=torch.int64), x.mean(dim=1))


def test_a_method_has_to_say_that_it_merges():
    x = features(6)
    assert len(Merges(0.5).select(x).features) == FRAMES
    with pytest.raises(TypeError, match="merges tokens but does not say so"):
        Merges(0.5).select(x.requires_grad_())
    with torch.no_grad():
        Merges(0.5).select(x)
