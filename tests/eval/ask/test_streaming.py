"""Pieces of text: what is handed on is the beginning of the answer, and no token takes it back."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, TextIteratorStreamer

from eval.ask.streaming import UNFINISHED, Pieces, Stopped


def streamed(text, tokens: list[int]) -> tuple[list[str], Pieces]:
    """The pieces of an answer, as generate() streams its tokens after a prompt."""
    emitted: list[str] = []
    pieces = Pieces(text, emitted.append)
    pieces.put(torch.tensor([[7, 7]]))
    for token in tokens:
        pieces.put(torch.tensor([token]))
    pieces.end()
    pieces.finish(text(tokens))
    return [piece for piece in emitted if piece], pieces


def of_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace").strip()


@pytest.mark.parametrize("text", ["two words", "  edges \n", "naïve 日本 🎬!", "a\n\nb \n c", ""])
def test_pieces_are_the_answer(text):
    pieces, _ = streamed(of_bytes, list(text.encode()))
    assert "".join(pieces) == text.strip()
    assert not any(UNFINISHED in piece for piece in pieces)
    assert len(pieces) == len(text.strip().replace(" ", "").replace("\n", ""))


def test_a_character_comes_when_it_is_whole():
    emitted: list[str] = []
    pieces = Pieces(of_bytes, emitted.append)
    pieces.put(torch.empty(1, 0))  # the prompt of a model that gets embeddings
    seen = []
    for byte in "é!".encode():
        pieces.put(torch.tensor([byte]))
        seen.append("".join(emitted))
    assert seen == ["", "é", "é!"]


def test_broken_characters_at_the_end_are_in_the_answer():
    pieces, _ = streamed(of_bytes, [*b"ab", 0xC3])
    assert "".join(pieces) == f"ab{UNFINISHED}"


def test_spaces_before_words_after_a_line_break():
    """transformers' own streamer loses them with tokenizers such as Llama's, whose decoder strips the first space."""
    words = {"\n": 0, "▁": 1, "▁b": 2, "a": 3, "<unk>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokens = [3, 0, 2, 2]
    pieces, _ = streamed(lambda ids: fast.decode(ids, skip_special_tokens=True), tokens)
    whole = fast.decode(tokens)
    assert "".join(pieces) == whole == "a\n b b"
    theirs = TextIteratorStreamer(fast)
    for token in tokens:
        theirs.put(torch.tensor([token]))
    theirs.end()
    assert "".join(theirs) != whole


def test_an_answer_that_was_not_streamed_is_an_error():
    _, pieces = streamed(of_bytes, list(b"abc"))
    with pytest.raises(RuntimeError, match="'abd'"):
        pieces.finish("abd")


def test_nobody_listens():
    def gone(_: str) -> None:
        raise Stopped

    pieces = Pieces(of_bytes, gone)
    pieces.put(torch.tensor([[1]]))
    with pytest.raises(Stopped):
        pieces.put(torch.tensor([0x20]))  # even if it brings no text
