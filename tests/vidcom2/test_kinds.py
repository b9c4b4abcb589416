"""The kinds of tests/vidcom2/kinds/, compressed by hooks, against the slow reference of tests/vidcom2/hf_slow.py."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.vidcom2.hf_slow import shorten
from tests.vidcom2.hf_tiny import Row, batch, image, prompt, text, tiny, video
from tests.vidcom2.kinds import NEW
from tests.vidcom2.test_transformers import (
    CASES,
    PRUNED,
    WHOLE,
    answers,
    assert_close,
    assert_follows,
    generate,
    references,
)
from vidcom2 import VidCom2

LACKS = {"image": "images", "two": "videos", "uneven": "videos"}
"""What a kind must take for a case."""
BROADEST = ("padded", "image")
"""Cases that the quick tests also have with eager attention, and with everything kept."""
MATRIX = [
    pytest.param(k, attention, case, marks=pytest.mark.slow if attention == "eager" and case not in BROADEST else [])
    for k in NEW
    for attention in NEW[k].attentions
    for case in CASES
    if case not in LACKS or getattr(NEW[k], LACKS[case])
]
over_matrix = pytest.mark.parametrize(("kind", "attention", "case"), MATRIX)
over_kinds = pytest.mark.parametrize("kind", NEW)

model_of = functools.cache(tiny)


def rows_of(kind: str, case: str) -> list[Row]:
    videos = (video(4),) * 3 if NEW[kind].stacked else (video(3, 2, 3), video(5, 3, 2), video(4, 4, 4))
    return [prompt(kind, *parts, seed=i) for i, parts in enumerate(CASES[case](*videos))]


@over_matrix
def test_answers_equal_the_reference(kind, attention, case):
    model, rows = model_of(kind, attention), rows_of(kind, case)
    inputs = batch(rows)
    with PRUNED(model), torch.no_grad():
        out = generate(model, inputs)
        forward = model(**inputs).logits
    expected = references(model, rows)
    assert_follows(out, expected)
    assert_close(forward[:, -1], torch.stack([answer.logits[0] for answer in expected]))


@pytest.mark.parametrize(
    ("kind", "attention", "case"),
    [pytest.param(*one.values, marks=() if one.values[2] in BROADEST else pytest.mark.slow) for one in MATRIX],
)
def test_everything_kept_is_the_model_as_it_was(kind, attention, case):
    """Bit for bit; and it is what the reference says when nothing is dropped, so the reference can be trusted."""
    model, inputs = model_of(kind, attention), batch(rows_of(kind, case))
    with torch.no_grad():
        bare, bare_forward = generate(model, inputs), model(**inputs).logits
        with WHOLE(model):
            out, forward = generate(model, inputs), model(**inputs).logits
    assert torch.equal(out.sequences, bare.sequences)
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))
    assert torch.equal(forward, bare_forward)
    assert_follows(bare, references(model, rows_of(kind, case), WHOLE))


@over_kinds
@pytest.mark.parametrize("case", ["padded", "text_only"])
def test_repacked_positions(kind, case):
    model, rows, repack = model_of(kind), rows_of(kind, case), VidCom2(0.3, positions="repack")
    with repack(model):
        assert_follows(generate(model, batch(rows)), references(model, rows, repack))


@over_kinds
@pytest.mark.parametrize("case", ["one", "padded", "text_only"])
def test_records(kind, case):
    model, rows = model_of(kind), rows_of(kind, case)
    with PRUNED(model) as run:
        generate(model, batch(rows))
    expected = [counts for row in rows for counts in shorten(model, row, PRUNED).counts]
    assert [list(record.frames_before) for record in run.records] == [counts.frames_before for counts in expected]
    assert [list(record.frames_after) for record in run.records] == [counts.frames_after for counts in expected]


@over_kinds
@pytest.mark.parametrize("case", ["one", "padded"])
@pytest.mark.parametrize("positions", ["original", "repack"])
def test_second_turn(kind, case, positions):
    """It goes on from the pruned cache, without the video's pixels."""
    compressor = VidCom2(0.3, positions=positions)
    model, rows = model_of(kind), rows_of(kind, case)
    with compressor(model):
        first = generate(model, batch(rows))
        rows = [row + answer + prompt(kind, text(4), seed=9) for row, answer in zip(rows, answers(first), strict=True)]
        both = batch(rows)
        inputs = {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"]}
        out = generate(model, inputs, past_key_values=first.past_key_values)
    assert_follows(out, references(model, rows, compressor))


@pytest.mark.parametrize("kind", [kind for kind in NEW if NEW[kind].images])
def test_images_stay(kind):
    model, row = model_of(kind), prompt(kind, text(2), image(), text(4))
    bare = generate(model, batch([row]))
    with PRUNED(model):
        out = generate(model, batch([row]))
    assert torch.equal(out.sequences, bare.sequences)
