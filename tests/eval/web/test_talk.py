"""Questions to the demo models: answers are the engine's, and whatever goes wrong is one line."""

from __future__ import annotations

import re

import pytest
import torch

from eval.web.talk import Unclear, Wanted, methods
from eval.web.uploads import accept
from tests.eval.web.conftest import LIMITS
from tests.eval.web.test_parts import Reader
from vidcom2 import Dense, compressor

MODEL = "demo model llava-onevision"
QUESTION = "How many times does the lamp light up?\n(A) three\n(B) two\n(C) one\n(D) four\nOnly give the best option."


@pytest.fixture
def ask(server, clip):
    """Ask a question under some methods; returns the last thing shown, which has the turn."""

    def ask(*specs, question=QUESTION, earlier=(), model=MODEL):
        chosen = tuple(map(compressor, specs))
        *_, last = server.talk.answer(Wanted(clip, accept(clip, LIMITS), model, question, chosen, earlier))
        return last

    yield ask
    server.talk.forget(clip)


def cards(shown):
    return re.findall(r"<article.*?</article>", shown.answered, re.S)


def errors(shown):
    """The error of each card, or None."""
    found = [re.search(r'role="alert">(.*?)</p>', card) for card in cards(shown)]
    return [None if match is None else Reader(match[1]).said for match in found]


@pytest.mark.parametrize("model", [MODEL, "demo model llava-video"])
def test_answers_are_the_engines(ask, server, clip, model):
    shown = ask("vidcom2@0.25", "simplecluster@0.1", model=model)
    engine = server.talk.session(model).engine
    seen = engine.see(engine.read(str(clip)))
    assert errors(shown) == [None, None, None]
    order = [compressor("vidcom2@0.25"), Dense(), compressor("simplecluster@0.1")]
    for one, card in zip(order, cards(shown), strict=True):
        answer = engine.answer(seen, QUESTION, {"max_new_tokens": 8}, one)
        (record,) = answer.records
        assert shown.turn.answers[one.spec] == answer.text
        assert f"<b>{record.tokens_after:,}</b> of {record.tokens_before:,} visual tokens" in card
    assert re.findall(r"<h3>(.*?)</h3>", shown.films) == ["vidcom2, 25 %", "simplecluster, 10 %"]
    assert shown.films.count("<figure") == 2 * 32


def test_it_streams(server, clip):
    wanted = Wanted(clip, accept(clip, LIMITS), MODEL, QUESTION, (compressor("vidcom2@0.25"),))
    states = [[re.search("waiting", card) is not None for card in cards(one)] for one in server.talk.answer(wanted)]
    assert states[0] == [True, True]
    assert [False, True] in states
    assert states[-1] == [False, False]


def test_a_method_that_is_refused_spoils_nothing(ask):
    shown = ask("fastv@0.25")
    refused, dense = errors(shown)
    assert refused.startswith(f"on {MODEL}, fastv cannot reach retention=0.25")
    assert dense is None
    assert shown.films == ""
    assert errors(ask("vidcom2@0.25")) == [None, None]


def test_a_method_that_hides_places_is_not_drawn(ask):
    shown = ask("holitom.released@0.25")
    assert errors(shown) == [None, None]
    assert "Nothing is drawn: holitom@0.25:form=released gives its tokens places that are not their own" in shown.films


def test_too_long_a_prompt(ask, server, monkeypatch):
    config = server.talk.session(MODEL).engine.model.config
    monkeypatch.setattr(config, "tokenizer_model_max_length", 500)
    compressed, dense = errors(ask("vidcom2@0.25"))
    assert compressed is None
    assert re.fullmatch(
        r"\d+ tokens do not fit the model's 500: use fewer frames, a lower retention or a shorter question", dense
    )
    monkeypatch.undo()
    assert errors(ask("vidcom2@0.25")) == [None, None]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nmore"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory(ask, server, monkeypatch, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr(server.talk.session(MODEL).engine, "answer", full)
    shown = ask("vidcom2@0.25")
    fix = "choose a shorter or smaller video, a lower retention, or another model"
    assert errors(shown) == 2 * [f"the server has no memory for answering: {fix}"]
    assert shown.turn.answers["none"] == ""
    monkeypatch.undo()
    assert errors(ask("vidcom2@0.25")) == [None, None]


def test_other_errors_are_ours_and_not_hidden(ask, server, monkeypatch):
    def wrong(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.talk.session(MODEL).engine, "answer", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        ask("vidcom2@0.25")


def test_a_follow_up_gets_the_earlier_answers_of_its_own_method(ask, server, monkeypatch):
    first = ask("vidcom2@0.25").turn
    asked = []
    session = server.talk.session(MODEL)
    plain = session.ask

    def noted(film, question, one, history, length):
        asked.append((one.spec, history))
        return plain(film, question, one, history, length)

    monkeypatch.setattr(session, "ask", noted)
    assert errors(ask("vidcom2@0.25", question="And before?", earlier=(first,))) == [None, None]
    assert asked == [(spec, [(QUESTION, first.answers[spec])]) for spec in ("vidcom2@0.25", "none")]


def test_a_video_is_encoded_once_and_forgotten_when_told(ask, server, clip, monkeypatch):
    session = server.talk.session(MODEL)
    watched = []
    plain = session.watch
    monkeypatch.setattr(session, "watch", lambda video: watched.append(video) or plain(video))
    ask("vidcom2@0.25")
    ask("vidcom2@0.1")
    assert watched == [str(clip)]
    server.talk.forget(clip)
    ask("vidcom2@0.1")
    assert watched == 2 * [str(clip)]


def test_methods():
    assert methods(["vidcom2", "fastv"], 0.15) == (compressor("vidcom2@0.15"), compressor("fastv@0.15"))
    with pytest.raises(Unclear, match="vidcom2 is chosen twice"):
        methods(["vidcom2", "vidcom2"], 0.25)
    with pytest.raises(Unclear, match="retention"):
        methods(["vidcom2"], 1.5)
