"""Qwen-Omni: videos whose tokens stand between those of their sound, against the slow reference."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.vidcom2 import test_in_llm
from tests.vidcom2.hf_slow import beam_search, encode, lm_of, shorten
from tests.vidcom2.hf_tiny import Row, batch, image, prompt, randomise, text, tiny, video
from tests.vidcom2.kinds.qwen_omni import AUDIO, RATE, film, sound, with_sound
from tests.vidcom2.omni_tiny import whole_model
from tests.vidcom2.rows import HIDDEN
from tests.vidcom2.test_transformers import (
    PRUNED,
    WHOLE,
    answers,
    assert_close,
    assert_follows,
    encodes_first,
    generate,
    references,
)
from vidcom2 import VidCom2, compressor

KINDS = tuple(RATE)
over_kinds = pytest.mark.parametrize("kind", KINDS)

model_of = functools.cache(tiny)


def heard(kind: str, *sizes: Any, seed: int = 0) -> Row:
    return film(kind, *sizes, torch.Generator().manual_seed(seed))


def listen(kind: str, mels: int, seed: int = 0) -> Row:
    return sound(kind, mels, torch.Generator().manual_seed(100 + seed))


def words(kind: str, n: int, seed: int = 0) -> Row:
    return prompt(kind, text(n), seed=seed)


def cases(kind: str) -> dict[str, list[Row]]:
    """Films: frames, height, width, seconds between frames, mel frames (10 ms) of sound."""
    say, pictured = functools.partial(words, kind), prompt(kind, text(2), image(), text(3), seed=5)
    longer = heard(kind, 4, 2, 3, 1.0, 390)
    outlasts = heard(kind, 3, 3, 2, 0.5, 620, seed=1)
    cut_short = heard(kind, 6, 2, 2, 1.5, 130, seed=2)
    return {
        "one": [say(5) + longer + say(6)],
        "sound outlasts": [say(3) + outlasts + say(4)],
        "picture outlasts": [say(3) + cut_short + say(4)],
        "two": [say(3) + longer + say(4) + cut_short + say(5)],
        "padded": [say(2) + outlasts + say(3), say(7) + longer + say(9, seed=1)],
        "text only": [say(4) + cut_short + say(5), say(11, seed=1)],
        "sound only": [say(3) + listen(kind, 250) + say(4), say(2, seed=1) + longer + say(3)],
        "all": [pictured + longer + listen(kind, 130) + say(6), say(2) + cut_short + pictured],
    }


CASES = tuple(cases(KINDS[0]))
over_cases = pytest.mark.parametrize("case", CASES)


def inputs_of(rows: list[Row]) -> dict[str, Any]:
    return batch(rows) | {"use_audio_in_video": any(map(with_sound, rows))}


@contextmanager
def watched(model: Any) -> Iterator[list[dict[str, Any]]]:
    """What the language model gets in each forward, hooks done."""
    calls: list[dict[str, Any]] = []
    handle = lm_of(model).register_forward_pre_hook(
        lambda lm, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        handle.remove()


@over_kinds
@over_cases
@pytest.mark.parametrize("positions", ["original", "repack"])
def test_answers_equal_the_reference(kind, case, positions):
    model, rows, method = model_of(kind), cases(kind)[case], VidCom2(0.3, positions=positions)
    with method(model) as run, torch.no_grad():
        out, inputs = generate(model, inputs_of(rows)), inputs_of(rows)
        forward = model(**inputs).logits
    expected = references(model, rows, method)
    assert_follows(out, expected)
    assert_close(forward[:, -1], torch.stack([answer.logits[0] for answer in expected]))
    counts = [own for row in rows for own in shorten(model, row, method).counts]
    assert [list(record.frames_before) for record in run.records] == [own.frames_before for own in counts]
    assert [list(record.frames_after) for record in run.records] == [own.frames_after for own in counts]


@over_kinds
@over_cases
def test_everything_kept_is_the_model_as_it_was(kind, case):
    model, rows = model_of(kind), cases(kind)[case]
    bare = generate(model, inputs_of(rows))
    with WHOLE(model):
        out = generate(model, inputs_of(rows))
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))
    assert_follows(bare, references(model, rows, WHOLE))


@over_kinds
def test_second_turn(kind):
    model, rows = model_of(kind), [cases(kind)["one"][0]]
    with PRUNED(model):
        first = generate(model, inputs_of(rows))
        longer = [rows[0] + answers(first)[0] + words(kind, 4, seed=9)]
        text_only = {name: batch(longer)[name] for name in ("input_ids", "attention_mask")}
        out = generate(model, text_only, past_key_values=first.past_key_values)
    assert_follows(out, references(model, longer))


@over_kinds
@encodes_first  # in 5.17 generate() puts the patches of its copies of a prompt in a wrong order
def test_beams(kind):
    model, rows = model_of(kind), cases(kind)["padded"]
    with PRUNED(model):
        out = model.generate(**inputs_of(rows), num_beams=3, max_new_tokens=4, do_sample=False)
    assert out[:, -4:].tolist() == [beam_search(model, row, PRUNED, 3, 4)[0][0] for row in rows]


@over_kinds
def test_only_rows_of_the_video_go(kind):
    """Sound and words keep their embeddings, order and positions; the budgets are those of all frames together."""
    model, (row,) = model_of(kind), cases(kind)["two"]
    with watched(model) as calls, torch.no_grad():
        model(**inputs_of([row]))
    with PRUNED(model), watched(model) as pruned_calls, torch.no_grad():
        model(**inputs_of([row]))
    (dense,), (pruned,) = calls, pruned_calls
    whole, left = dense["inputs_embeds"][0], pruned["inputs_embeds"][0]
    kept = list(range(len(row.ids)))
    for seen, features, _ in encode(model, row):
        if seen.modality == "video":
            assert torch.equal(whole[list(seen.at)], features)  # the i-th placeholder is the i-th token of the tower
            chosen = PRUNED.select(features.view(seen.frames, seen.tokens, HIDDEN)).index.tolist()
            kept = [i for i in kept if i not in seen.at or seen.at.index(i) in chosen]
    assert torch.equal(left, whole[kept])
    assert torch.equal(pruned["position_ids"][:, 0], dense["position_ids"][:, 0][:, kept])
    assert sum(row.ids[i] == AUDIO for i in kept) == row.ids.count(AUDIO)


# ---- methods inside the LLM


@functools.cache
def native(kind: str) -> Any:
    return test_in_llm.Native(kind)


@over_kinds
@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
@pytest.mark.parametrize("case", ["one", "all"])
def test_inside_the_llm(kind, spec, case):
    family, method, rows = native(kind), test_in_llm.method_of(spec), cases(kind)[case]
    call = test_in_llm.Call(inputs_of(rows), [family.dense(row) for row in rows])
    with method(family.model) as run:
        out = test_in_llm.generate(family.model, call.inputs)
    expected = [test_in_llm.greedy(family, dense, method) for dense in call.prompts]
    test_in_llm.assert_follows(out, expected)
    test_in_llm.assert_records(run, call, method, expected)


# ---- refused


@over_kinds
@pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.5:k=1"])
def test_use_audio_in_video_must_fit_the_prompt(kind, spec):
    model, heard_row = model_of(kind), cases(kind)["one"][0]
    silent = prompt(kind, text(3), video(3), text(4))
    with compressor(spec)(model):
        for rows, flag, complaint in (
            ([heard_row], False, "pass use_audio_in_video=True to the model"),
            ([silent], True, "without its sound"),
            ([heard_row, silent], True, "without its sound"),
            ([heard_row, silent], False, "pass use_audio_in_video=True to the model"),
        ):
            with pytest.raises(ValueError, match=complaint):
                model.generate(**batch(rows), use_audio_in_video=flag, max_new_tokens=2)
        generate(model, batch([silent]))


@over_kinds
def test_transformers_itself_takes_a_wrong_use_audio_in_video(kind):
    """Why we refuse it: the video gets the positions of text."""
    model, row = model_of(kind), cases(kind)["one"][0]
    (seen,) = row.videos
    with watched(model) as calls:
        model.generate(**batch([row]), max_new_tokens=1)
    place = calls[0]["position_ids"][-3:, 0, list(seen.at)]
    assert torch.equal(place - place[:, :1], (torch.tensor(seen.at) - seen.at[0]).expand(3, -1).to(place))


@over_kinds
def test_positions_of_text_are_refused(kind):
    model, row = model_of(kind), prompt(kind, text(3), video(3), text(4))
    inputs = batch([row])
    del inputs["attention_mask"]
    with PRUNED(model), pytest.raises(ValueError, match="got text positions for a video: pass attention_mask"):
        model(**inputs)


# ---- the whole model


@over_kinds
def test_the_thinker_is_found_in_the_whole_model(kind):
    model = whole_model(kind).eval()
    randomise(model.thinker)
    inputs = inputs_of(cases(kind)["one"])
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with PRUNED(model.thinker):
        expected = model.thinker.generate(**inputs, **settings)
    settings = {f"thinker_{name}": value for name, value in settings.items()}
    settings |= {"return_audio": False} if kind == "qwen3_omni_moe_thinker" else {"generation_mode": "text"}
    with PRUNED(model) as run:
        assert torch.equal(model.generate(**inputs, **settings), expected)
    assert run.records[0].tokens_after < run.records[0].tokens_before


def test_speech_is_refused():
    """The talker needs a hidden state of the thinker for each token of the prompt."""
    model = whole_model("qwen2_5_omni_thinker")
    inputs = inputs_of(cases("qwen2_5_omni_thinker")["one"])
    with PRUNED(model), pytest.raises(ValueError, match=r"generation_mode='text'"):
        model.generate(**inputs, thinker_max_new_tokens=2)


@over_kinds
def test_hidden_states_are_refused(kind):
    model = model_of(kind)
    with PRUNED(model), pytest.raises(ValueError, match="output_hidden_states=True cannot be used"):
        generate(model, inputs_of(cases(kind)["one"]), output_hidden_states=True)
