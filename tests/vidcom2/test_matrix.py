"""All methods before the LLM, on the three kinds of models, alone and in padded batches, against the slow references.

Those inside the LLM have the same matrix, with a reference of their own, in tests/vidcom2/test_in_llm.py. A new method
is in here as soon as it is registered.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import tests.llava.slow as llava_slow
from tests.llava.test_batches import Sample
from tests.llava.test_batches import batch as llava_batch
from tests.llava.tiny import prompt as llava_prompt
from tests.llava.tiny import tiny_model
from tests.llava.tiny import video as llava_video
from tests.vidcom2.hf_tiny import batch, tiny
from tests.vidcom2.test_transformers import assert_follows, generate, references, rows_of
from vidcom2 import METHODS, Compressor, compressor

BEFORE = sorted(name for name, method in METHODS.items() if method.drops and method.stage == "before LLM")
SPECS = [*BEFORE, *(f"{name}+fca" for name in BEFORE if METHODS[name].takes_fca())]
RETENTION, STEPS = 0.3, 6
over_specs = pytest.mark.parametrize("spec", SPECS)
over_cases = pytest.mark.parametrize("case", ["one", "padded"])

model_of = functools.cache(tiny)


def made(spec: str, retention: float = RETENTION) -> Compressor:
    method = compressor(f"{spec}@{retention}")
    assert method is not None
    return method


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_model(tmp_path_factory.mktemp("tower"), seed=5)


def llava_samples(case: str) -> list[Sample]:
    samples = [
        Sample(llava_prompt(4, "video", 6, seed=1), [("video", llava_video(4, seed=1))]),
        Sample(llava_prompt(9, "image", 2, "video", 5, seed=2), [("image", llava_video(1)), ("video", llava_video(7))]),
    ]
    return samples[: 1 if case == "one" else 2]


def answer(model: Any, case: str) -> tuple[list[list[int]], list[Any]]:
    ids, arguments = llava_batch(llava_samples(case))
    new = model.generate(ids, **arguments, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
    return new.tolist(), list(model.visual_records)


def require_retention(records: list[Any]) -> None:
    """Within a token per frame of the request; what is no video stays as it is."""
    assert any(record.modality == "video" for record in records)
    for record in records:
        before, after = sum(record.frames_before), sum(record.frames_after)
        if record.modality == "image":
            assert before == after
        else:
            assert abs(after - RETENTION * before) <= len(record.frames_before)
        assert record.separators_before == record.separators_after


@over_specs
@over_cases
def test_llava(spec, case, llava):
    with made(spec)(llava):
        answers, records = answer(llava, case)
        expected = [llava_slow.greedy(llava, sample, STEPS)[0] for sample in llava_samples(case)]
        again, _ = answer(llava, case)
    assert answers == expected == again
    require_retention(records)


def test_dropped_frames_take_the_newlines_of_their_rows_along(tmp_path):
    model = tiny_model(tmp_path, seed=5, mm_newline_position="grid")
    with made("frames", 0.5)(model):
        answers, (record,) = answer(model, "one")
        assert answers == [llava_slow.greedy(model, llava_samples("one")[0], STEPS)[0]]
    assert record.separators_after == record.separators_before / 2 > 0
    assert sorted(record.frames_after)[:2] == [0, 0]


@over_specs
@over_cases
@pytest.mark.parametrize("kind", ["qwen2_vl", "llava_onevision"])
def test_transformers(spec, case, kind):
    model, rows = model_of(kind), rows_of(kind, case)
    with made(spec)(model) as run:
        out = generate(model, batch(rows))
        require_retention(run.records)
        again = generate(model, batch(rows))
    assert_follows(out, references(model, rows, made(spec)))
    assert torch.equal(out.sequences, again.sequences)


@pytest.mark.parametrize("spec", SPECS)
def test_autocast_changes_nothing(spec):
    x = torch.randn(16, 64, 256, generator=torch.Generator().manual_seed(1)) + torch.linspace(-1, 1, 16)[:, None, None]
    expected = made(spec).select(x)
    with torch.autocast("cpu", torch.bfloat16):
        ours = made(spec).select(x)
    assert torch.equal(ours.index, expected.index)
    assert torch.equal(ours.apply(x), expected.apply(x))


@pytest.mark.parametrize("spec", BEFORE)
def test_everything_kept_is_the_model_as_it_was(spec, llava):
    dense, _ = answer(llava, "padded")
    with made(spec, 1)(llava):
        assert answer(llava, "padded")[0] == dense
    model, rows = model_of("qwen2_vl"), rows_of("qwen2_vl", "padded")
    bare = generate(model, batch(rows))
    with made(spec, 1)(model):
        out = generate(model, batch(rows))
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))
