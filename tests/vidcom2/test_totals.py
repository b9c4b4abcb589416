"""`Compressor.total`: where it names a number, every video of that shape keeps so many tokens."""

from __future__ import annotations

import pytest
import torch

from tests.vidcom2.grids import grid_of
from vidcom2 import Dense, compressor

KNOWN = (
    *("vidcom2@R:rounding=exact", "vidcom2.released@R:rounding=exact", "random@R", "uniform@R", "norm@R", "norm+fca@R"),
    *("dycoke@R", "dycoke+fca@R", "visionzip@R", "visionzip.released@R", "visionzip+fca@R", "fastvid@R", "holitom@R"),
    *("frames@R", "evs@R", "evs.released@R", "evs+fca@R", "vcast@R", "vcast.released@R", "vcast+fca@R"),
    *("aot@R", "aot+fca@R", "fresh@R", "gleanvid@R", "gleanvid+fca@R", "unicomp@R", "unicomp+fca@R"),
    *("frames@R", "grid@R", "grid.time@R", "pool@R", "pool.time@R", "simplecluster@R"),
)
UNKNOWN = (
    *("vidcom2@R", "norm+fca@R:fca.rounding=ceil", "aot.released@R", "fastvid.released@R", "holitom.released@R"),
    *("unicomp.released@R", "simplecluster.released@R"),  # the latter raises an error for some videos
    "fastv@R:k=1",
)
SHAPES = ((1, 9), (2, 5), (8, 16), (5, 36), (32, 4))


def videos(t: int, m: int) -> dict[str, torch.Tensor]:
    """Videos [T, M, 12] of one shape whose contents are as different as can be."""
    x = torch.randn(t, m, 12, generator=torch.Generator().manual_seed(0))
    half = x.clone()
    half[t // 2 :] = x[t // 2]
    return {
        "noise": x,
        "one frame": x[:1].expand(t, m, 12).contiguous(),
        "a still end": half,
        "one token": torch.ones(t, m, 12),
    }


@pytest.mark.parametrize("retention", [1, 0.5, 0.25, 0.1, 0.03])
@pytest.mark.parametrize("spec", KNOWN)
def test_known_totals(spec, retention):
    chosen = compressor(spec.replace("R", str(retention)))
    seen = 0
    for t, m in SHAPES:
        total = chosen.total(t, m)
        assert total is not None
        for name, video in videos(t, m).items():
            try:
                kept = chosen.select(video, grid_of(m))
            except ValueError:  # the method cannot keep so few tokens of this shape
                continue
            assert len(kept.index) == total, (name, t, m)
            seen += 1
    assert seen


@pytest.mark.parametrize("spec", UNKNOWN)
def test_unknown_totals(spec):
    assert compressor(spec.replace("R", "0.25")).total(8, 16) is None


def test_dense():
    assert Dense().total(8, 16) == 8 * 16
