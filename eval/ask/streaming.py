"""The pieces of an answer, as a model makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.generation.streamers import BaseStreamer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers write for the bytes of a character whose other bytes are still to come."""


class Stopped(Exception):
    """Nobody reads the answer any more."""


class Pieces(BaseStreamer):
    """A streamer for generate() that hands on text as soon as no later token can change it.

    transformers' own TextStreamer decodes parts of an answer apart from each other, which is not the same text with
    every tokenizer. Here the whole answer is decoded anew at each token, as the engine decodes it in the end.

    Args:
        text: Decodes the tokens so far; see `Engine.text`.
        emit: Called with each piece. An exception that it raises ends the generation.
    """

    def __init__(self, text: Callable[[Any], str], emit: Callable[[str], None]):
        self._text, self._emit = text, emit
        self._tokens: list[int] = []
        self._in_prompt = True  # generate() first hands on the prompt, empty where it is made of embeddings
        self.sent = ""

    def put(self, value: Any) -> None:
        """Take the prompt, or the next token, as generate() calls it."""
        if self._in_prompt:
            self._in_prompt = False
            return
        self._tokens += value.flatten().tolist()
        whole = self._text(self._tokens).rstrip().rstrip(UNFINISHED).rstrip()
        if len(whole) > len(self.sent) and whole.startswith(self.sent):
            self._hand_on(whole)
        else:
            self._emit("")

    def end(self) -> None:
        """Do nothing: what was held back comes with the answer."""

    def finish(self, answer: str) -> None:
        """Hand on what is left of the answer.

        Raises:
            RuntimeError: What was handed on is not its beginning.
        """
        if not answer.startswith(self.sent):
            raise RuntimeError(f"the answer is {answer!r}, and {self.sent!r} was streamed")
        if answer != self.sent:
            self._hand_on(answer)

    def _hand_on(self, whole: str) -> None:
        piece, self.sent = whole[len(self.sent) :], whole
        self._emit(piece)
