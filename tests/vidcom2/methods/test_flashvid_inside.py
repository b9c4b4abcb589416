"""FlashVID as a whole: its schedule, and what enters the first layer. tests/vidcom2/test_in_llm.py has the answers."""

from __future__ import annotations

import math

import pytest
import torch

from tests.vidcom2.hf_tiny import batch, prompt, text, tiny, video
from tests.vidcom2.test_hybrid import linear_of
from tests.vidcom2.test_vidcom2 import video as features
from vidcom2 import compressor
from vidcom2.inside import Stage
from vidcom2.methods.flashvid import FlashVid
from vidcom2.methods.flashvid_inside import FlashVidInside


@pytest.mark.parametrize("layers", [2, 3, 5, 8, 24, 28, 32, 36, 48, 64])
@pytest.mark.parametrize("tokens", [576, 8 * 196, 32 * 196])
@pytest.mark.parametrize("retention", [0.02, 0.1, 0.25, 0.5, 0.75, 0.8, 0.95])
def test_the_retention_is_the_mean_over_the_layers(layers, tokens, retention):
    method = FlashVidInside(retention)
    counts = method.processed(method.schedule(layers, tokens), layers, tokens)
    assert abs(sum(counts) / layers - retention * tokens) <= 1
    assert counts[0] == min(tokens, round(1.25 * retention * tokens))
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    method.check(layers)


@pytest.mark.parametrize("layers", [24, 32, 40, 48, 64])
def test_linear_layers_do_not_rank(layers):
    method, linear = FlashVidInside(0.25), linear_of(layers)
    (stage,) = method.schedule(layers, 6272, linear)
    assert stage.rank not in linear
    counts = method.processed((stage,), layers, 6272)
    assert abs(sum(counts) / layers - 0.25 * 6272) <= 1


def test_the_authors_settings():
    """K = 20 and f = 0.3 of 28 layers follow from e = 1.25; Qwen3-VL-8B has other ones in their scripts."""
    assert FlashVidInside(0.2).schedule(28, 6272) == (Stage(19, 20, round(0.3 * 0.25 * 6272)),)
    assert FlashVidInside(0.2).entering(6272) == 0.25 * 6272
    for retention in (0.1, 0.15, 0.2, 0.25):
        FlashVidInside.released(retention).check(28)
        compressor(f"flashvid-inside.released@{retention}:k=28:keep=0.1").check(36)
    with pytest.raises(ValueError, match=r"amounts to retention 0\.\d+ on the 36 layers"):
        FlashVidInside.released(0.25).check(36)


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        ("flashvid-inside@0.2:segments=3:alpha=0.5", "flashvid@0.25:segments=3:alpha=0.5"),
        ("flashvid-inside.released@0.2:link=0.7:tau=0.5", "flashvid.released@0.25:link=0.7:tau=0.5"),
        ("flashvid-inside@0.9:neighbours=3", "flashvid@1"),
    ],
)
def test_what_enters_is_what_flashvid_keeps(spec, first):
    x = features(9, 25, 16)
    method, wanted = compressor(spec), compressor(first).select(x)
    kept = method.enter(x)
    assert torch.equal(kept.index, wanted.index)
    assert torch.equal(kept.apply(x), wanted.apply(x))
    assert method.select(x).index.tolist() == list(range(9 * 25))  # its hooks do it instead


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava_onevision"])
def test_released_in_a_model(kind):
    """e (K + (L - K) f) / L = 1 for 6 layers, K = 4 and f = 0.4."""
    model = tiny(kind, layers=6)
    inputs = batch([prompt(kind, text(5), video(8, 3, 4), text(6))])
    method = compressor("flashvid-inside.released@0.4:k=4:keep=0.4:segments=2")
    with method(model) as run:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    (record,) = run.records
    own = [count - record.separators_after for count in record.layers]
    m = record.frames_before[0]
    assert own[0] < 0.7 * 8 * m
    assert own == [own[0]] * 4 + [math.ceil(0.4 * own[0])] * 2
    assert abs(own[0] - 8 * math.ceil(0.5 * m)) <= 8


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FlashVidInside(0.25, expansion=0.9), "expansion=0.9"),
        (lambda: FlashVidInside(0.25, k=0), "k=0"),
        (lambda: FlashVidInside(0.25, keep=0.3), "keep=0.3"),
        (lambda: FlashVidInside(0.25, form="released"), "released"),
        (lambda: FlashVidInside.released(keep=2), "keep=2"),
        (lambda: FlashVidInside(0.25, alpha=2), "alpha=2"),
        (lambda: FlashVidInside(0.25, link=-1), "link=-1"),
        (lambda: FlashVidInside(0.25, k=28).check(28), "k=28 leaves none"),
        (lambda: FlashVidInside(0.25, k=25).check(28), r"k=25 leaves nothing .* an expansion below 1\.12"),
        (lambda: FlashVidInside(0.25).check(1), "k=1 leaves none"),
        (lambda: FlashVidInside(0.25).select(torch.full((2, 3, 4), torch.nan)), "NaN"),
        (lambda: FlashVidInside(0.25).enter(torch.full((2, 3, 4), torch.nan)), "NaN"),
    ],
)
def test_settings_out_of_range(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_advice_for_a_late_layer_works():
    FlashVidInside(0.25, k=25, expansion=1.11).check(28)
    FlashVidInside(0.25, k=22).check(28)


@pytest.mark.parametrize("method", [FlashVidInside(0.3, k=3), FlashVidInside.released(), FlashVid.released(0.1)])
def test_specs_give_the_method_back(method):
    assert compressor(method.spec) == method
