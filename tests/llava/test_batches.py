"""generate and forward on batches, with and without compression, against the slow reference of tests/llava/slow.py."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor

from tests.llava.slow import Sample, beam_search, follow, greedy, inputs_of
from tests.llava.tiny import prompt, tiny_model, video
from vidcom2 import Compressor, VidCom2

STEPS = 6
ATOL = 2e-4
COMPRESSORS = {
    "dense": None,
    "repack": VidCom2(0.25),
    "original": VidCom2(0.25, positions="original"),
    "rows": VidCom2(0.25, newlines="rows"),
    "rows-original": VidCom2(0.3, positions="original", newlines="rows"),
}
CASES = [
    (compressor, newlines, pool)
    for compressor, newlines, pool in itertools.product(
        COMPRESSORS, ("one_token", "grid", "frame", "no_token"), ("bilinear", "average")
    )
    if newlines == "grid" or (not compressor.startswith("rows") and (pool == "bilinear" or newlines == "one_token"))
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("towers")
    return {
        "qwen": tiny_model(path, "qwen", seed=5),
        "llama": tiny_model(path, "llama", seed=6),
    }


@pytest.fixture
def model(models) -> Any:
    """The Qwen one, with its settings as built and no compressor left on it."""
    return reset(models["qwen"])


def reset(model: Any) -> Any:
    model.config.mm_newline_position, model.config.mm_spatial_pool_mode = "one_token", "bilinear"
    model.config.tokenizer_padding_side = "right"
    assert model.compressor is None
    return model


def samples() -> list[Sample]:
    """Every kind of prompt: short and long video, text only, two videos, image and video."""
    return [
        Sample(prompt(4, "video", 6, seed=1), [("video", video(3, seed=1))]),
        Sample(prompt(9, "video", 11, seed=2), [("video", video(5, seed=2))]),
        Sample(prompt(13, seed=3)),
        Sample(prompt("video", 3, "video", 5, seed=4), [("video", video(2, seed=4)), ("video", video(4, seed=5))]),
        Sample(prompt(2, "image", 3, "video", 4, seed=6), [("image", video(1, seed=6)), ("video", video(2, seed=7))]),
    ]


def batch(samples: list[Sample], side: str = "right", dummy: bool = False) -> tuple[Tensor, dict[str, Any]]:
    """input_ids [B, n] padded on `side`, and the other arguments of generate and forward."""
    longest = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, masked, sample in zip(ids, mask, samples, strict=True):
        place = slice(longest - len(sample.ids), None) if side == "left" else slice(len(sample.ids))
        line[place], masked[place] = sample.ids, 1
    pairs = [pair for s in samples for pair in (s.visuals or ([("image", video(1, seed=99))] if dummy else []))]
    return ids, {
        "attention_mask": mask,
        "images": [pixels for _, pixels in pairs],
        "modalities": [modality for modality, _ in pairs],
    }


def assert_records(model: Any, samples: list[Sample], side: str, compressor: Compressor | None) -> None:
    """model.visual_records say what the reference counted (in its latest run over `samples`)."""
    lengths = [inputs_of(model, sample)[0].shape[1] for sample in samples]
    expected = [(i, counts) for i, sample in enumerate(samples) for counts in sample.counts]
    assert len(model.visual_records) == len(expected)
    for record, (i, counts) in zip(model.visual_records, expected, strict=True):
        compressed = compressor if counts.modality == "video" else None
        assert (record.sample, record.modality) == (i, counts.modality)
        assert record.start == counts.start + (max(lengths) - lengths[i] if side == "left" else 0)
        assert record.method == ("none" if compressed is None else compressed.spec)
        assert record.positions == ("repack" if compressed is None else compressed.positions or "repack")
        assert list(record.frames_before) == counts.frames_before
        assert list(record.frames_after) == counts.frames_after
        assert (record.separators_before, record.separators_after) == (
            counts.separators_before,
            counts.separators_after,
        )
        assert record.tokens_after == sum(counts.frames_after) + counts.separators_after
        assert record.cut == 0


@pytest.mark.parametrize(("name", "newlines", "pool"), CASES)
def test_batch_equals_one_sample_at_a_time(model, name, newlines, pool):
    model.config.mm_newline_position, model.config.mm_spatial_pool_mode = newlines, pool
    compressor, all_samples = COMPRESSORS[name], samples()
    model.compressor = compressor
    try:
        answers, prefills = zip(*(greedy(model, sample, STEPS) for sample in all_samples), strict=True)
        for side, dummy in (("left", False), ("right", True)):
            ids, inputs = batch(all_samples, side, dummy)
            out = model.generate(
                ids, **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            assert out.sequences.tolist() == list(answers)
            torch.testing.assert_close(out.logits[0], torch.stack([p[-1] for p in prefills]), atol=ATOL, rtol=0)
            assert_records(model, all_samples, "left", compressor)

            model.config.tokenizer_padding_side = side
            for use_cache in (False, True):
                with torch.inference_mode():
                    out = model(input_ids=ids, **inputs, use_cache=use_cache)
                assert_records(model, all_samples, side, compressor)
                for logits, expected in zip(out.logits, prefills, strict=True):
                    n = len(expected)
                    logits = logits[-n:] if side == "left" else logits[:n]
                    torch.testing.assert_close(logits, expected, atol=ATOL, rtol=0)
    finally:
        model.compressor = None
    assert len({tuple(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_decoding_by_hand(models, family, name):
    """A prefill with a cache, then one step of one token for the whole batch, with its mask and positions."""
    model, all_samples = reset(models[family]), samples()
    model.config.mm_newline_position, model.compressor = "grid", COMPRESSORS[name]
    try:
        ids, inputs = batch(all_samples)
        expected = torch.stack([follow(model, sample, [7])[-1] for sample in all_samples])
        last = torch.cat([inputs_of(model, sample)[1][:, -1:] for sample in all_samples])
        _, positions, mask, _, embeds, _ = model.prepare_inputs_labels_for_multimodal(
            ids, None, inputs["attention_mask"], None, None, inputs["images"], inputs["modalities"]
        )
        with torch.inference_mode():
            cache = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=True)
            step = model(
                input_ids=torch.full((len(ids), 1), 7),
                attention_mask=torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1),
                position_ids=last + 1,
                past_key_values=cache.past_key_values,
                images=inputs["images"],  # upstream's callers pass them at every step; only a prompt has slots
                modalities=inputs["modalities"],
            )
        torch.testing.assert_close(step.logits[:, -1], expected, atol=ATOL, rtol=0)
    finally:
        model.compressor = None


def test_a_step_without_positions_is_refused(model):
    """It would silently count from the shortened cache; a prompt, also one of text alone, needs no positions."""
    sample = samples()[0]
    model.compressor = COMPRESSORS["original"]
    try:
        with torch.inference_mode():
            cache = model(input_ids=sample.ids[None], **batch([sample])[1], use_cache=True).past_key_values
            with pytest.raises(ValueError, match="position_ids"):
                model(input_ids=torch.tensor([[7]]), past_key_values=cache)
            model(input_ids=torch.tensor([[7, 8]]))
    finally:
        model.compressor = None


@pytest.mark.parametrize("name", ["dense", "repack", "original"])
@pytest.mark.parametrize("position", [0, 2, 3])
def test_one_sample_without_a_mask(model, name, position):
    """Gaps between position ids must not be taken for borders of packed samples, with a cache or without."""
    sample = samples()[position]
    ids, inputs = sample.ids[None], batch([sample])[1]
    del inputs["attention_mask"]
    model.compressor = COMPRESSORS[name]
    try:
        answer, prefill = greedy(model, sample, STEPS)
        for use_cache in (True, False):
            out = model.generate(ids, **inputs, max_new_tokens=STEPS, do_sample=False, use_cache=use_cache)
            assert out.tolist() == [answer]
            with torch.inference_mode():
                logits = model(input_ids=ids, **inputs, use_cache=use_cache).logits
            torch.testing.assert_close(logits[0], prefill, atol=ATOL, rtol=0)
    finally:
        model.compressor = None


@pytest.mark.parametrize("name", COMPRESSORS)
def test_generate_without_cache(model, name):
    all_samples = samples()
    ids, inputs = batch(all_samples)
    model.compressor = COMPRESSORS[name]
    try:
        out = model.generate(ids, **inputs, max_new_tokens=STEPS, do_sample=False, use_cache=False)
        assert out.tolist() == [greedy(model, sample, STEPS)[0] for sample in all_samples]
    finally:
        model.compressor = None


@pytest.mark.parametrize(("family", "tower"), [("qwen", "siglip"), ("llama", "clip")])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_offloaded(tmp_path, family, tower, name):
    """accelerate lets a module have its weights only while it runs; otherwise they are on the meta device."""
    model = tiny_model(tmp_path, family, tower, seed=7, mm_newline_position="grid")
    offloaded = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in offloaded.parameters())
    ids, inputs = batch(samples())
    model.compressor = offloaded.compressor = COMPRESSORS[name]
    ours, expected = (
        one.generate(
            ids, **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        for one in (offloaded, model)
    )
    assert torch.equal(ours.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("name", ["dense", "repack", "original"])
def test_sampling_several_answers(models, family, name):
    """Two sampled answers for each prompt: the logits of each step are those of that answer so far."""
    model, some = reset(models[family]), samples()[:4]
    ids, inputs = batch(some)
    model.compressor = COMPRESSORS[name]
    try:
        torch.manual_seed(0)
        out = model.generate(
            ids,
            **inputs,
            max_new_tokens=STEPS,
            do_sample=True,
            top_k=0,
            num_return_sequences=2,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert out.sequences.shape == (8, STEPS)
        assert len(set(map(tuple, out.sequences.tolist()))) == 8
        for i, tokens in enumerate(out.sequences.tolist()):
            expected = follow(model, some[i // 2], tokens)[-STEPS - 1 : -1]
            torch.testing.assert_close(torch.stack(out.logits)[:, i], expected, atol=ATOL, rtol=0)
    finally:
        model.compressor = None


@pytest.mark.parametrize("name", ["dense", "repack", "original"])
def test_beam_search(model, name):
    some = samples()[1:4]
    ids, inputs = batch(some)
    model.compressor = COMPRESSORS[name]
    try:
        out = model.generate(
            ids,
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            num_beams=2,
            length_penalty=0.0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        answers, scores = zip(*(beam_search(model, sample, 2, 4) for sample in some), strict=True)
        assert out.sequences.tolist() == list(answers)
        torch.testing.assert_close(out.sequences_scores, torch.tensor(scores), atol=1e-3, rtol=0)
    finally:
        model.compressor = None


# ---- what compression must leave alone


@pytest.mark.parametrize("newlines", ["one_token", "grid", "frame", "no_token"])
@pytest.mark.parametrize("settings", [{}, {"positions": "original"}, {"newlines": "rows"}])
def test_retention_1_changes_nothing(model, newlines, settings):
    model.config.mm_newline_position = newlines
    ids, inputs = batch(samples())
    with torch.inference_mode():
        plain = model(input_ids=ids, **inputs).logits
        tokens = model.generate(ids, **inputs, max_new_tokens=STEPS, do_sample=False)
        with VidCom2(1, **settings)(model) as run:
            kept = model(input_ids=ids, **inputs).logits
            assert all(record.retention == 1 for record in run.records)
            assert torch.equal(model.generate(ids, **inputs, max_new_tokens=STEPS, do_sample=False), tokens)
    real = [len(inputs_of(model, sample)[0][0]) for sample in samples()]
    for a, b, n in zip(plain, kept, real, strict=True):
        assert torch.equal(a[:n], b[:n])


@pytest.mark.parametrize("positions", ["repack", "original"])
def test_text_and_images_are_not_compressed(model, positions):
    some = [samples()[2], Sample(prompt(3, "image", 5, seed=8), [("image", video(1, seed=8))])]
    ids, inputs = batch(some)
    with torch.inference_mode():
        plain = model(input_ids=ids, **inputs).logits
        with VidCom2(0.1, positions=positions)(model) as run:
            same = model(input_ids=ids, **inputs).logits
        assert [(r.method, r.retention) for r in run.records] == [("none", 1.0)]
        text = model(input_ids=some[0].ids[None]).logits
    for i, sample in enumerate(some):
        n = len(inputs_of(model, sample)[0][0])
        assert torch.equal(plain[i, :n], same[i, :n])
    torch.testing.assert_close(plain[0, : len(some[0].ids)], text[0], atol=ATOL, rtol=0)


def test_with_block_undoes_itself_and_leaves_other_models_alone(model, models):
    other = reset(models["llama"])
    ids, inputs = batch(samples())

    def run(which: Any) -> Tensor:
        with torch.inference_mode():
            return which(input_ids=ids, **inputs).logits

    before, other_before = run(model), run(other)
    with VidCom2(0.25)(model) as attached:
        compressed = run(model)
        assert compressed.shape[1] < before.shape[1]
        seen = attached.records
        assert torch.equal(run(other), other_before)
        assert attached.records == seen
        with VidCom2(0.5)(other) as second:
            run(other)
            assert {r.method for r in second.records} == {"vidcom2@0.5", "none"}
        assert torch.equal(run(other), other_before)
        with pytest.raises(RuntimeError, match=r"compressed already, by vidcom2@0\.25"):
            VidCom2(0.5).attach(model)
    assert torch.equal(run(model), before)
    with pytest.raises(KeyError), VidCom2(0.25)(model):
        raise KeyError
    assert torch.equal(run(model), before)
