"""Sessions: streamed answers are the engine's, conversations are the template's, and a video is encoded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformers import AutoProcessor

import eval.ask.session as module
from eval.ask.session import Impossible, NoMemory, open_session
from eval.models import load_engine, protocol_for
from eval.models.base import turns
from eval.models.llava import LlavaEngine
from eval.models.served import VllmEngine
from eval.models.served_prompts import prompts_of
from eval.results.sample import Sample
from llava.conversation import conv_templates
from llava.video import FrameSampling
from tests.eval.ask.conftest import FRAMES
from vidcom2 import Dense, NotFinite, VidCom2, compressor

KINDS = ("onevision", "qwen2_vl", "qwen3_5")
on_llava = pytest.mark.parametrize("session", ["onevision"], indirect=True)
LENGTH = 24
QUESTION = "What <b>happens</b> here?"


def asked(session, film, *arguments, **more):
    """The pieces of an answer, and its reply."""
    asking = session.ask(film, *arguments, **{"max_new_tokens": LENGTH, **more})
    return list(asking), asking.reply


@pytest.fixture(autouse=True)
def talkative(request):
    """Random models say many words only if they may not stop."""
    if "session" in request.fixturenames:
        request.getfixturevalue("session").engine.model.generation_config.min_new_tokens = LENGTH


@contextmanager
def counted(session):
    """How often the vision tower runs."""
    model = session.engine.model
    tower = model.get_vision_tower() if isinstance(session.engine, LlavaEngine) else model.model.visual.patch_embed
    calls: list[object] = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("session", "spec"),
    [("onevision", "none"), ("onevision", "fastv@0.8:k=1"), *((kind, "vidcom2@0.5") for kind in KINDS)],
    indirect=["session"],
)
def test_pieces_are_the_engines_answer(session, film, spec):
    pieces, reply = asked(session, film, QUESTION, compressor(spec))
    engine = load_engine(session.model, session.engine.protocol, "cpu", "float32")
    engine.model.generation_config.min_new_tokens = LENGTH
    plain = engine.answer(engine.see(engine.read(film.file)), QUESTION, {"max_new_tokens": LENGTH}, compressor(spec))
    assert "".join(pieces) == reply.answer.text == plain.text
    assert len(pieces) > 5
    assert reply.answer.prompt == plain.prompt
    assert reply.answer.records == plain.records
    sample = Sample.made(("task", 0), film.file, reply.answer)  # what results count
    assert (reply.tokens_before, reply.tokens_after) == (sample.tokens_before, sample.tokens_after)
    assert reply.first_token == sample.seconds["compress"] + sample.seconds["prefill"]
    assert reply.in_all + reply.video_seconds == pytest.approx(sum(sample.seconds.values()))


@pytest.mark.parametrize("session", ["onevision", "llava_video"], indirect=True)
def test_a_conversation_with_llava(session, film):
    with counted(session) as calls:
        _, first = asked(session, film, "one?", VidCom2(0.5))
        _, other = asked(session, film, "two?", Dense(), [("one?", first.answer.text)])
    assert not calls  # `film` has seen it
    conversation = conv_templates["qwen_1_5"].copy()
    for role, text in zip((0, 1, 0, 1), ("<image>\none?", first.answer.text, "two?", None), strict=True):
        conversation.append_message(conversation.roles[role], text)
    assert other.answer.prompt == conversation.get_prompt()
    assert first.answer.prompt == other.answer.prompt.partition(f"\n{first.answer.text}<|im_end|>")[0] + "\n"
    assert other.answer.records[0].tokens_before == first.answer.records[0].tokens_before


def test_the_times_of_frames_stand_in_the_first_turn(llava_video):
    protocol = replace(protocol_for(str(llava_video)), time_instruction=True)
    alone, two = protocol.prompt("one?", [0.0, 1.0], 2.0), protocol.prompt(("one?", "A", "two?"), [0.0, 1.0], 2.0)
    assert two.startswith(alone + "A<|im_end|>\n")
    assert two.count("located at 0.00s,1.00s.") == 1


@pytest.mark.parametrize("session", ["qwen2_vl", "qwen3_vl", "qwen3_5"], indirect=True)
def test_a_conversation_with_qwen(session, noise):
    with counted(session) as calls:
        film = session.watch(str(noise))
        _, first = asked(session, film, "one?", VidCom2(0.5))
        _, other = asked(session, film, "two <image>?", VidCom2(0.5), [("one?", first.answer.text)])
    assert len(calls) == 1
    protocol = session.engine.protocol
    system = [{"role": "system", "content": protocol.system}] if protocol.system else []
    words = [{"type": "text", "text": text} for text in ("one?", first.answer.text, "two <image>?")]
    if protocol.simple:
        words[2]["text"] = "two ?"  # as lmms-eval's wrapper
    messages = [
        *system,
        {"role": "user", "content": [{"type": "video", "video": str(noise)}, words[0]]},
        {"role": "assistant", "content": [words[1]]},
        {"role": "user", "content": [words[2]]},
    ]
    processor = AutoProcessor.from_pretrained(session.model)
    template = {"enable_thinking": False} if "3_5" in session.model else {}
    expected = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
    assert other.answer.prompt == expected
    assert other.answer.records[0].tokens_after == first.answer.records[0].tokens_after


@pytest.mark.parametrize("session", ["onevision", "qwen2_vl"], indirect=True)
def test_vllm_gets_the_same_conversation(session, film):
    """Its prompts are made without it."""
    turns = ("one?", "A", "two?")
    engine = session.engine
    answer = engine.answer(film.seen, turns, {"max_new_tokens": 1}, Dense())
    prompts = prompts_of(session.model, engine.protocol)
    assert prompts.prompt(prompts.read(film.file), turns).text == answer.prompt


@on_llava
def test_other_frames(session, noise):
    film = session.watch(str(noise), FrameSampling("uniform", max_frames=3))
    _, reply = asked(session, film, QUESTION, Dense())
    assert reply.answer.frames == 3
    _, usual = asked(session, session.watch(str(noise)), QUESTION, Dense())
    assert usual.answer.frames == FRAMES


@on_llava
def test_closing_ends_the_answer(session, film):
    alone, _ = asked(session, film, QUESTION, VidCom2(0.5), max_new_tokens=LENGTH)
    asking = session.ask(film, QUESTION, VidCom2(0.5), max_new_tokens=LENGTH)
    steps: list[object] = []
    handle = session.engine.model.get_model().register_forward_hook(lambda *_: steps.append(1))
    assert next(iter(asking)) == alone[0]
    asking.close()
    handle.remove()
    assert asking.reply is None
    assert len(steps) < len(alone)
    assert asked(session, film, QUESTION, VidCom2(0.5), max_new_tokens=LENGTH)[0] == alone  # nothing is left attached


@on_llava
def test_threads_take_turns(session, film):
    specs = [compressor(spec) for spec in ("none", "vidcom2@0.5", "fastv@0.8:k=1", "random@0.3")]
    alone = ["".join(asked(session, film, QUESTION, one)[0]) for one in specs]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda one: "".join(asked(session, film, QUESTION, one)[0]), specs)) == alone


@on_llava
def test_a_prompt_that_is_too_long_streams_nothing(session, film, monkeypatch, caplog):
    model = session.engine.model
    monkeypatch.setattr(model.config, "tokenizer_model_max_length", 1)
    with pytest.raises(Impossible) as error:
        asked(session, film, QUESTION, Dense())
    monkeypatch.setattr(model.config, "tokenizer_model_max_length", int(str(error.value).split()[0]) - 1)
    asking, pieces = session.ask(film, QUESTION, Dense()), []
    steps: list[object] = []
    handle = model.get_model().register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(
        Impossible, match=r"do not fit the model's .*: use fewer frames, a lower retention or a shorter question"
    ):
        pieces.extend(asking)
    handle.remove()
    assert not pieces
    assert not steps
    assert not caplog.records
    assert "".join(asked(session, film, QUESTION, VidCom2(0.5))[0])  # which fits


@pytest.mark.parametrize("session", ["qwen2_vl"], indirect=True)
def test_a_placeholder_in_an_earlier_turn(session, film):
    with pytest.raises(Impossible, match="video_pad"):
        asked(session, film, "two?", Dense(), [("<|video_pad|>", "A")])


FULL = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore"),
    "CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "decoder": MemoryError(),
}


@on_llava
@pytest.mark.parametrize("where", FULL)
def test_no_memory(session, film, noise, monkeypatch, where):
    """Each line names what to do."""

    def exhausted(*_, **__):
        raise FULL[where]

    said = rf"^the {where.replace('decoder', 'CPU')} has no memory for "
    end = "$" if where == "decoder" else r" \("  # Python says nothing of it
    flags = "take fewer --frames, a lower --retention, or --load-4bit"
    with monkeypatch.context() as patch:
        patch.setattr(session.engine.model, "generate", exhausted)
        with pytest.raises(NoMemory, match=rf"{said}answering: {flags}{end}"):
            asked(session, film, QUESTION, VidCom2(0.5))
    for owner, part in ((session.engine, "read"), (session.engine, "see"), (session.engine.model, "encode")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, part, exhausted)
            with pytest.raises(NoMemory, match=rf"{said}encoding .*noise.mp4: take fewer --frames, or --load-4bit"):
                session.watch(str(noise))
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_engine", exhausted)
        with pytest.raises(NoMemory, match=rf"{said}loading --model .*: take --load-4bit or a smaller model") as error:
            open_session(session.model)
    assert "\n" not in str(error.value)
    assert asked(session, film, QUESTION, VidCom2(0.5))[1].answer.text


@on_llava
def test_a_bug_is_not_called_a_lack_of_memory(session, film, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(session.engine.model, "generate", wrong)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        asked(session, film, QUESTION, VidCom2(0.5))


@on_llava
def test_other_errors(session, film, tmp_path, monkeypatch):
    with pytest.raises(Impossible, match="no such file"):
        session.watch(str(tmp_path / "none.mp4"))
    with pytest.raises(Impossible, match="turn 2 of the conversation is empty"):
        asked(session, film, QUESTION, Dense(), [("one?", "")])
    with pytest.raises(ValueError, match="2 turns does not end with a question"):
        turns(("one?", "A"))

    def not_finite(*_, **__):
        raise NotFinite("NaN")

    monkeypatch.setattr(session.engine.model, "generate", not_finite)
    with pytest.raises(Impossible, match="computes NaN"):
        asked(session, film, QUESTION, Dense())


@on_llava
def test_an_engine_without_streams_gives_the_answer_whole(session, film, monkeypatch):
    """As vLLM's, which is not installed here."""
    pieces, _ = asked(session, film, QUESTION, VidCom2(0.5))
    monkeypatch.setattr(module.Session, "streams", False)
    assert asked(session, film, QUESTION, VidCom2(0.5))[0] == ["".join(pieces)]
    assert not hasattr(VllmEngine, "text")


@pytest.mark.parametrize(
    ("name", "bits", "language"),
    [
        ("onevision", 4, "model.layers."),
        ("qwen2_vl", 4, "model.language_model.layers."),
        ("qwen3_vl", 8, "model.language_model.layers."),
    ],
)
def test_fewer_bits(checkpoints, name, bits, language):
    """The language model's layers have them, and nothing else."""
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    kind = {4: bnb.nn.Linear4bit, 8: bnb.nn.Linear8bitLt}[bits]
    model = open_session(str(checkpoints[name]), device="cpu", bits=bits).engine.model
    linear = {key: type(layer) for key, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert len(linear) > 10
    for key, made in linear.items():
        assert (made is kind) == key.startswith(language), key
