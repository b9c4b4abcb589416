"""Methods that compare sketches keep about the same tokens as without them, where D is large."""

from __future__ import annotations

import importlib

import pytest
import torch

from vidcom2 import compressor
from vidcom2.pieces.sketch import WIDE, sketch


def features(d: int) -> torch.Tensor:
    """Frames share a scene; tokens have different lengths."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 49, d, generator=g) * torch.randn(8, 49, 1, generator=g).exp()
    return x + torch.randn(49, d, generator=g) + 0.3 * torch.randn(8, 1, d, generator=g)


@pytest.mark.parametrize("name", ["aot", "flashvid", "gleanvid", "unicomp"])
def test_most_kept_tokens_are_those_without_sketches(name, monkeypatch):
    x, made = features(1024), compressor(name)
    grid = (7, 7) if made.uses_grid else None
    sketched = made.select(x, grid).index
    monkeypatch.setattr(importlib.import_module(f"vidcom2.methods.{name}"), "WIDE", 1024)
    exact = made.select(x, grid).index
    assert len(sketched) == len(exact)
    assert torch.isin(sketched, exact).float().mean() > 0.7  # 0.25 would be chance


def test_cosines_of_sketches():
    x = features(2048)
    short = sketch(x, WIDE)
    assert short.shape == (8, 49, WIDE)
    unit, unit_short = (torch.nn.functional.normalize(each.flatten(0, 1), dim=-1) for each in (x, short))
    error = unit @ unit.mT - unit_short @ unit_short.mT
    assert error.square().mean().sqrt() < 1.2 * WIDE**-0.5
    assert torch.equal(sketch(x[..., :WIDE], WIDE), x[..., :WIDE])
