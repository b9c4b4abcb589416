"""Models whose layers are mostly linear attention, beside what test_kinds.py and test_in_llm.py test of every model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.eval.qwen_tiny import make_qwen
from tests.vidcom2 import test_transformers as native
from tests.vidcom2.hf_slow import beam_search
from tests.vidcom2.hf_tiny import Row, batch, prompt, text, tiny, video
from tests.vidcom2.rows import PADDED
from tests.vidcom2.test_transformers import PRUNED, STEPS, answers, assert_close, assert_follows, generate, references
from vidcom2 import InsideLLM, VidCom2, compressor
from vidcom2.methods.fastv import FastV
from vidcom2.methods.pdrop import PDrop
from vidcom2.methods.sparsevlm import SparseVLM
from vidcom2.models.layouts import LAYOUTS, framed_videos

HYBRID = ("qwen3_5", "qwen3_5_moe", "qwen4_exp")
over_hybrid = pytest.mark.parametrize("kind", HYBRID)


def rows_of(kind: str) -> list[Row]:
    parts = [[text(2), video(3), text(3)], [text(7), video(4), text(9)]]
    return [prompt(kind, *each, seed=i) for i, each in enumerate(parts)]


def test_models_have_layers_of_both_kinds():
    for kind in HYBRID:
        layers = native.model_of(kind).model.language_model.layers
        assert [hasattr(layer, "self_attn") for layer in layers] == [False, True, False]


@over_hybrid
@pytest.mark.parametrize("way", ["uncached", "static"])
def test_ways_to_decode(kind, way):
    native.test_ways_to_decode(kind, way)


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_5_moe"])
def test_compiled_decoding_stays_one_graph(kind):
    native.test_compiled_decoding_stays_one_graph(kind)


@over_hybrid
def test_beams(kind):
    model, rows = native.model_of(kind), rows_of(kind)
    with PRUNED(model):
        out = generate(model, batch(rows), num_beams=2, output_scores=True)
    expected = [beam_search(model, row, PRUNED, 2, STEPS)[0] for row in rows]
    assert answers(out) == [tokens for tokens, _ in expected]
    assert_close(out.sequences_scores, torch.tensor([score / STEPS for _, score in expected]))


@over_hybrid
@pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.9:k=1"])
def test_recurrent_states_cannot_be_cropped(kind, spec):
    """transformers says so itself, with or without hooks: for prompt lookup, and for crop()."""
    if (kind, spec) == ("qwen4_exp", "fastv@0.9:k=1"):
        pytest.skip("refused when it is attached")
    model, row, echo = native.model_of(kind), rows_of(kind)[0], [7, 8, 9, 10, 7, 8]
    with compressor(spec)(model):
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            generate(model, batch([row + echo]), prompt_lookup_num_tokens=2)
        cache = generate(model, batch([row])).past_key_values
        length = cache.get_seq_length()
        with pytest.raises(RuntimeError, match="past states"):
            cache.crop(-2)
        assert cache.get_seq_length() == length == len(row.ids) + STEPS - 1


# ---- later turns


def longer(rows: list[Row], first: Any, turns: list[Row], new: list[torch.Tensor]) -> dict[str, Any]:
    """The second turn of a chat whose turns are padded on the left to the longest, each for itself."""
    most = max(map(len, new))
    ids = torch.stack([torch.cat([torch.zeros(most - len(own), dtype=torch.long), own]) for own in new])
    before = batch(rows)["attention_mask"]
    said = first.sequences.shape[1] - before.shape[1]
    mask = torch.cat([before, before.new_ones(len(rows), said), (ids > 0).long()], dim=1)
    return {"input_ids": torch.cat([first.sequences, ids], dim=1), "attention_mask": mask}


@over_hybrid
@pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.7"])
def test_padding_between_turns_is_refused(kind, spec):
    """It would run through the recurrent states, as it does in transformers without hooks, which is wrong silently."""
    if (kind, spec) == ("qwen4_exp", "fastv@0.7"):
        pytest.skip("refused when it is attached")
    model, rows = tiny(kind, layers=4), rows_of(kind)
    turns = [prompt(kind, text(n), seed=n) for n in (4, 9)]
    new = [torch.tensor(turn.ids) for turn in turns]
    bare = generate(model, batch(rows))
    wrong = generate(model, longer(rows, bare, turns, new), past_key_values=bare.past_key_values)
    alone = [row + own + turn for row, own, turn in zip(rows, answers(bare), turns, strict=True)]
    expected = torch.stack([answer.logits for answer in references(model, alone, VidCom2(1))])
    off = (torch.stack(wrong.logits, dim=1) - expected).abs().amax(dim=(1, 2))
    assert off[0] > 0.1  # the shorter turn
    assert off[1] < 1e-3
    with compressor(spec)(model):
        first = generate(model, batch(rows))
        with pytest.raises(ValueError, match="one prompt at a time"):
            generate(model, longer(rows, first, turns, new), past_key_values=first.past_key_values)


@native.encodes_first
@over_hybrid
@pytest.mark.parametrize("count", [1, 2])
def test_a_new_video_in_a_second_turn(kind, count):
    """For one prompt. In a batch the videos' tokens that stay differ in number, which takes padding."""
    model, rows = native.model_of(kind), rows_of(kind)[:count]
    compress = VidCom2(0.3)
    with compress(model):
        first = generate(model, batch(rows))
        turns = [prompt(kind, text(3), video(4 - i, 3, 2 + i), text(7), seed=19 + i) for i in range(count)]
        both = [row + own + turn for row, own, turn in zip(rows, answers(first), turns, strict=True)]
        inputs = batch(both)
        new = batch(turns)
        with torch.no_grad():
            features = model.model.get_video_features(
                new["pixel_values_videos"], new["video_grid_thw"], return_dict=True
            )
        inputs = {name: inputs[name] for name in (*PADDED, "video_grid_thw")}
        inputs["mm_encoder_outputs"] = {"video": features}
        if count == 2:
            with pytest.raises(ValueError, match="one prompt at a time"):
                generate(model, inputs, past_key_values=first.past_key_values)
            return
        out = generate(model, inputs, past_key_values=first.past_key_values)
    assert_follows(out, references(model, both, compress))


# ---- methods inside the LLM


def linear_of(layers: int, interval: int = 4) -> set[int]:
    return {i for i in range(layers) if (i + 1) % interval}


@pytest.mark.parametrize("layers", [24, 32, 40, 48, 64])  # of Qwen3.5's sizes
@pytest.mark.parametrize("spec", ["fastv", "pdrop", "sparsevlm", "sparsevlm:version=2"])
@pytest.mark.parametrize("retention", [0.35, 0.5, 0.75])
def test_stages_rank_in_layers_with_full_attention(layers, spec, retention):
    """And both kinds of layer count for the retention."""
    method = compressor(spec, retention=retention)
    assert isinstance(method, InsideLLM)
    linear, tokens = linear_of(layers), 8 * 196
    stages = method.schedule(layers, tokens, linear)
    usual = {stage.rank for stage in method.schedule(layers, tokens)}
    assert [stage.rank for stage in stages] == sorted({next(i for i in range(j, layers) if i % 4 == 3) for j in usual})
    counts = method.processed(stages, layers, tokens)
    assert abs(sum(counts) / layers - retention * tokens) <= 1
    method.check(layers, linear)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FastV(0.2, k=5).check(24, linear_of(24)), r"floor is 0\.333.*; fastv@0.2:k=4 can"),
        (lambda: FastV(0.1).check(24, linear_of(24)), "even k=4 would be too many"),
        (lambda: FastV(0.9, k=24).check(24, linear_of(24)), "k=24"),
        (
            lambda: FastV(0.9, k=6).check(7, linear_of(7)),
            "layer 5, but .* the last with full attention is layer 3: rank in an earlier one",
        ),
        (lambda: PDrop(0.2).check(24, linear_of(24)), r"floor is 0\.292.*layers=\(3, 7, 15\)"),
        (lambda: PDrop(0.1).check(24, linear_of(24)), "no stage can be before layer 3"),
        (lambda: PDrop(0.5, layers=(4, 6, 9)).check(24, linear_of(24)), r"layers=\(4, 6, 9\).*\(7, 7, 11\)"),
        (lambda: SparseVLM(0.5, layers=(4, 6, 9)).check(24, linear_of(24)), r"layers=\(4, 6, 9\).*\(7, 7, 11\)"),
        (lambda: PDrop(0.5).check(4, set(range(4))), "none has full attention"),
    ],
)
def test_settings_that_no_layer_fits(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("retention", [0.15, 0.2, 0.25])
def test_what_pdrop_advises_works(retention):
    with pytest.raises(ValueError, match="drop earlier") as error:
        PDrop(retention).check(24, linear_of(24))
    found = re.search(r"layers=\((.+)\)$", str(error.value))
    assert found is not None
    PDrop(retention, layers=tuple(map(int, found[1].split(", ")))).check(24, linear_of(24))


@pytest.mark.parametrize("spec", ["fastv@0.9", "pdrop@0.9", "sparsevlm@0.9"])
def test_qwen4_exp_refuses_methods_inside_it(spec):
    model = tiny("qwen4_exp", layers=6)
    before = native.traces(model)
    with pytest.raises(ValueError, match=r"indexed attention.*before the LLM"):
        compressor(spec).attach(model)
    assert native.traces(model) == before


# ---- the real processor


def test_frames_are_those_of_the_processor(tmp_path):
    """In a prompt that it wrote each frame stands between its own start and end, in the order of the features."""
    path = make_qwen(tmp_path, "qwen3_5")
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path)
    pictures = torch.randint(0, 256, (6, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "When?"}]}]
    inputs = processor(
        text=[processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)],
        videos=[pictures],
        video_metadata=[{"fps": 2, "total_num_frames": 6, "frames_indices": list(range(6))}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    seen: dict[str, Any] = {}
    lm = model.model.language_model
    handle = lm.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
        grid = inputs["video_grid_thw"]
        features = model.model.get_video_features(inputs["pixel_values_videos"], grid, return_dict=True)
    handle.remove()
    (found,) = framed_videos(LAYOUTS["qwen3_5"], model.model, dict(inputs), seen["position_ids"])
    ids = inputs["input_ids"][0]
    assert found.frames == 3
    assert len(found.columns) == 3 * 2 * 3
    assert torch.equal(seen["inputs_embeds"][0, found.columns], torch.cat(list(features.pooler_output)))
    for frame in found.columns.view(3, -1).tolist():
        assert frame == list(range(frame[0], frame[-1] + 1))
        assert ids[frame[0] - 1] == model.config.vision_start_token_id
        assert ids[frame[-1] + 1] == model.config.vision_end_token_id
