"""Several questions answered as one batch get the answers they get one by one."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.models.base import Engine, NoNumbers, PromptTooLong, Unanswerable
from eval.models.llava import LlavaEngine, LlavaProtocol
from eval.results.sample import Answer
from llava.video import FrameSampling
from tests.eval.qwen_tiny import IDS, make_qwen
from tests.fixtures.checkpoint import make_checkpoint
from tests.llava.test_video import noisy_frames
from vidcom2 import Dense, compressor

KINDS = ("onevision", "video", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPECS = ("none", "vidcom2@0.25", "vidcom2@0.25:positions=repack", "fastv@0.6:k=1")
QUESTIONS = (
    "What?",
    "Which of these is it, and why?\nA. one\nB. another\nC. none of both\nD. all",
    "How many?\nA. 1\nB. 2",
)
WORDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": IDS["im_end"]}


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory) -> Any:
    @cache
    def make(kind: str) -> Engine:
        root = tmp_path_factory.mktemp(kind)
        path = make_checkpoint(root, kind) if kind in ("onevision", "video") else make_qwen(root, kind)  # type: ignore[arg-type]
        protocol = protocol_for(str(path))
        if kind not in ("video", "qwen2_vl"):  # which see more of longer videos
            protocol = protocol.sampled(FrameSampling("uniform", max_frames=6))
        return load_engine(str(path), protocol, "cpu", "float32")

    return make


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for i, (frames, crop) in enumerate([(24, 64), (56, 52), (40, 60)]):
        paths.append(str(folder / f"{i}.mp4"))
        write_video(Path(paths[-1]), noisy_frames(56)[-frames:, :, :crop], 8)
    return paths


def generation(engine: Engine) -> dict[str, Any]:
    """LLaVA's tiny checkpoints end their answers with the first letter, unless they are told another end."""
    return WORDY if isinstance(engine, LlavaEngine) else {"max_new_tokens": 6, "do_sample": False}


def told(answer: Answer | Unanswerable) -> Any:
    """All but the times."""
    assert isinstance(answer, Answer)
    return dataclasses.replace(answer, seconds={})


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("video", "qwen2_5_vl") else []) for kind in KINDS]
)
def test_a_batch_answers_as_one_by_one(kind, spec, engine_of, videos):
    engine, method = engine_of(kind), compressor(spec)
    alone = [
        engine.answer(engine.see(engine.read(video)), question, generation(engine), method)
        for video, question in [*zip(videos, QUESTIONS, strict=True), *((videos[0], text) for text in QUESTIONS[1:])]
    ]
    seen = [engine.see(engine.read(video)) for video in videos]
    three = engine.answer_all(list(zip(seen, QUESTIONS, strict=True)), generation(engine), method)
    same = engine.answer_all([(seen[0], question) for question in QUESTIONS], generation(engine), method)
    assert [told(answer) for answer in three] == [told(answer) for answer in alone[:3]]
    assert [told(answer) for answer in same] == [told(answer) for answer in (alone[0], *alone[3:])]
    assert len({answer.text for answer in alone}) > 1
    for answer in alone:
        (record,) = answer.records
        assert record.tokens_after > 0
        assert (record.tokens_after == record.tokens_before) == (not method.drops)
        assert all(seconds > 0 for seconds in answer.seconds.values())
    if kind in ("video", "qwen2_vl"):
        assert len({answer.frames for answer in alone}) == 3


@pytest.mark.parametrize(("kind", "before"), [("onevision", "<image>"), ("qwen2_vl", "<|video_pad|>")])
def test_where_a_video_begins(kind, before, engine_of, videos):
    """Padding of a batch does not count."""
    engine = engine_of(kind)
    seen = engine.see(engine.read(videos[0]))
    tokenizer = engine.tokenizer if isinstance(engine, LlavaEngine) else engine.processor.tokenizer
    for answer in engine.answer_all([(seen, question) for question in QUESTIONS], generation(engine), Dense()):
        assert answer.records[0].start == len(tokenizer(answer.prompt.split(before)[0]).input_ids) > 0


@pytest.mark.parametrize("kind", ["video", "qwen2_vl"])
def test_times_of_a_batch_are_shared(kind, engine_of, videos):
    engine = engine_of(kind)
    seen = [engine.see(engine.read(video)) for video in (videos[0], videos[1])]
    answers = engine.answer_all(
        [(seen[0], "Who?"), (seen[1], "When?"), (seen[0], "Where?")], generation(engine), Dense()
    )
    for stage in ("compress", "prefill", "generate"):
        assert len({answer.seconds[stage] for answer in answers}) == 1
    for stage in ("decode", "preprocess", "vision"):
        first, other, second = (answer.seconds[stage] for answer in answers)
        assert first == second != other


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
def test_frames_are_prepared_and_encoded_once(kind, engine_of, videos, monkeypatch):
    engine = engine_of(kind)
    calls: list[str] = []
    prepare, encode = engine.processor.video_processor._preprocess, engine.model.model.visual.patch_embed.forward
    monkeypatch.setattr(
        engine.processor.video_processor, "_preprocess", lambda *a, **k: calls.append("prepare") or prepare(*a, **k)
    )
    monkeypatch.setattr(
        engine.model.model.visual.patch_embed, "forward", lambda *a, **k: calls.append("encode") or encode(*a, **k)
    )
    seen = [engine.see(engine.read(video)) for video in videos[:2]]
    for method in (Dense(), compressor("vidcom2@0.5")):
        engine.answer_all([(seen[0], "Who?"), (seen[1], "When?"), (seen[0], "Where?")], generation(engine), method)
        engine.answer(seen[1], "Why?", generation(engine), method)
    assert sorted(calls) == ["encode"] * 2 + ["prepare"] * 2


def test_a_stop_text_ends_its_own_answer_only(engine_of, videos, monkeypatch):
    engine = engine_of("onevision")
    seen = [engine.see(engine.read(video)) for video in videos]
    asked = [(one, question) for one in seen for question in QUESTIONS]
    whole = [answer.text for answer in engine.answer_all(asked, WORDY, Dense())]
    assert {len(text) for text in whole} == {6}
    stop = whole[0][2]
    monkeypatch.setattr(LlavaProtocol, "stop_text", stop)
    stopped = [answer.text for answer in engine.answer_all(asked, WORDY, Dense())]
    assert stopped == [text[: text.index(stop) + 1] if stop in text else text for text in whole]
    assert len({len(text) for text in stopped}) > 1


@pytest.mark.parametrize("spec", ["none", "vidcom2@0.9", "fastv@0.6:k=1"])
def test_a_prompt_that_is_too_long_costs_itself_only(spec, engine_of, videos, monkeypatch):
    engine, method = engine_of("onevision"), compressor(spec)
    seen = [engine.see(engine.read(video)) for video in videos]
    asked = list(zip(seen, QUESTIONS, strict=True))
    expected = engine.answer_all(asked, WORDY, method)
    lengths = [
        len(engine.tokenizer(answer.prompt.replace("<image>", "")).input_ids) + answer.records[0].prompt_rows
        for answer in expected
    ]
    monkeypatch.setattr(engine.model.config, "tokenizer_model_max_length", lengths[1], raising=False)
    assert list(map(told, engine.answer_all(asked, WORDY, method))) == list(map(told, expected))
    monkeypatch.setattr(engine.model.config, "tokenizer_model_max_length", lengths[1] - 1)
    first, error, last = engine.answer_all(asked, WORDY, method)
    assert [told(first), told(last)] == [told(expected[0]), told(expected[2])]
    assert isinstance(error, PromptTooLong)
    assert str(error).startswith(f"{lengths[1]} tokens do not fit the model's {lengths[1] - 1}: ")
    with pytest.raises(PromptTooLong):
        engine.answer(*asked[1], WORDY, method)
    assert engine.model.compressor is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["none", "vidcom2@0.25"])
def test_a_question_that_speaks_of_images_is_text(kind, spec, engine_of, videos, monkeypatch):
    engine, method, calls = engine_of(kind), compressor(spec), []
    generate = engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda *a, **k: calls.append((a, k)) or generate(*a, **k))
    seen = engine.see(engine.read(videos[0]))
    plain, marked = "What does stand for?", "What does <image> stand for? <image>"
    both = engine.answer_all([(seen, plain), (seen, marked)], generation(engine), method)
    alone = engine.answer(seen, marked, generation(engine), method)
    assert told(both[1]) == told(alone)
    assert told(both[0]) == told(engine.answer(seen, plain, generation(engine), method))
    if isinstance(engine, LlavaEngine):
        before, behind = alone.prompt.split("<image>", 1)
        assert behind.count("<image>") == 2
        ids = [engine.tokenizer(part).input_ids for part in (before, behind)]
        assert calls[1][0][0].tolist() == [[*ids[0], -200, *ids[1]]]


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("place", ["<|video_pad|>", "<|image_pad|>"])
def test_a_question_with_another_place_for_a_video_costs_itself_only(kind, place, engine_of, videos):
    engine = engine_of(kind)
    seen = engine.see(engine.read(videos[0]))
    asked = [(seen, text) for text in (QUESTIONS[0], f"What does {place} stand for?", QUESTIONS[2])]
    first, error, last = engine.answer_all(asked, generation(engine), Dense())
    assert str(error) == f"the question says {place}, which this model takes for a place"
    pair = engine.answer_all([asked[0], asked[2]], generation(engine), Dense())
    assert [told(first), told(last)] == [told(answer) for answer in pair]
    with pytest.raises(Unanswerable, match="takes for a place"):
        engine.answer(*asked[1], generation(engine), Dense())


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["onevision", "qwen2_vl"])
def test_what_is_no_number_is_no_answer(kind, beams, engine_of, videos, monkeypatch):
    """Of the second question, the LLM computes NaN."""
    engine = engine_of(kind)
    seen = [engine.see(engine.read(video)) for video in videos]
    asked = list(zip(seen, QUESTIONS, strict=True))
    arguments = {**generation(engine), "num_beams": beams}
    expected = engine.answer_all(asked, arguments, Dense())
    assert all(isinstance(answer, Answer) for answer in expected)

    def damage(_: Any, __: Any, logits: Any) -> Any:
        logits = logits.clone()
        logits.view(3, -1)[1] = float("nan")
        return logits

    handle = engine.model.lm_head.register_forward_hook(damage)
    try:
        first, error, last = engine.answer_all(asked, arguments, Dense())
    finally:
        handle.remove()
    assert [told(first), told(last)] == [told(expected[0]), told(expected[2])]
    assert isinstance(error, NoNumbers)


@pytest.mark.parametrize("kind", ["onevision", "qwen2_vl"])
def test_a_video_that_is_no_numbers_costs_its_own_questions_only(kind, engine_of, videos, monkeypatch):
    """Where the compressor finds it out, before there are answers."""
    engine, method = engine_of(kind), compressor("vidcom2@0.25")
    seen = [engine.see(engine.read(video)) for video in videos]
    asked = list(zip(seen, QUESTIONS, strict=True))
    expected = engine.answer_all(asked, generation(engine), method)
    encoded = seen[1].encoded
    with torch.inference_mode():
        (encoded.features if isinstance(engine, LlavaEngine) else encoded.pooler_output).fill_(torch.nan)
    first, error, last = engine.answer_all(asked, generation(engine), method)
    assert [told(first), told(last)] == [told(expected[0]), told(expected[2])]
    assert isinstance(error, NoNumbers)


@pytest.mark.parametrize("kind", ["onevision", "qwen2_vl", "qwen3_vl"])
def test_one_call_padded_on_the_left(kind, engine_of, videos, monkeypatch):
    engine, calls = engine_of(kind), []
    generate = engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda *a, **k: calls.append(k) or generate(*a, **k))
    seen = engine.see(engine.read(videos[0]))
    engine.answer_all([(seen, question) for question in QUESTIONS], generation(engine), Dense())
    (arguments,) = calls
    mask = arguments["attention_mask"]
    assert len(mask) == len(set(mask.sum(dim=1).tolist())) == 3
    assert bool((mask.diff(dim=1) >= 0).all())
    if not isinstance(engine, LlavaEngine):  # whose generate() is shown the prompt
        for line, real in zip(arguments["input_ids"], mask.bool(), strict=True):
            assert set(line[~real].tolist()) <= set(line[real].tolist())
