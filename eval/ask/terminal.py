"""A session in a terminal: a question, or several read line by line, and answers that are printed as they are made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vidcom2 import Compressor

from ..results.tables import Rows, print_table
from ..results.terminal import INTERRUPTED, stdout
from .session import Film, Impossible, Reply, Session, Turn

WARM_UP = 2
"""Tokens of the answers before those that --compare measures: one from the prefill, one from the cache."""


@dataclass(frozen=True)
class Talk:
    """How questions about a video are answered.

    Attributes:
        video: Path of the video.
        compressors: What each question is answered under. If there are several, they are compared.
        generation: `max_new_tokens` and `temperature` of `Session.ask`.
        prompts: Whether prompts are printed.
    """

    video: str
    compressors: Sequence[Compressor]
    generation: dict[str, Any]
    prompts: bool

    @property
    def compares(self) -> bool:
        """Whether answers are compared."""
        return len(self.compressors) > 1


def hold(open_session: Callable[[], Session], talk: Talk, question: str | None) -> int:
    """Open a session and answer a question, or those that are read from standard input.

    Returns:
        The exit status: 0 if all questions were answered.

    Raises:
        UserError: The model cannot be loaded, or the video cannot be read or encoded.
    """
    try:
        session = open_session()
        try:
            film = session.watch(talk.video)
            return converse(session, film, talk, questions() if question is None else [question])
        finally:
            session.close()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def questions() -> Iterator[str]:
    """Read questions from standard input, until an empty line or its end. Ask for them if that is a terminal."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if not line.strip():
                return
            yield line.strip()
        return
    print("ask about the video; an empty line or Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if not line:
            return
        yield line


def converse(session: Session, film: Film, talk: Talk, asked: Iterable[str]) -> int:
    """Answer questions, each after the earlier ones, and return the exit status. A failed one leaves no trace."""
    histories: dict[Compressor, list[Turn]] = {one: [] for one in talk.compressors}
    failed = answered = False
    for question in asked:
        replies = []
        for one in talk.compressors:
            try:
                if talk.compares and not answered:
                    warm_up(session, film, question, one)
                reply = answer(session, film, talk, question, one, histories[one])
            except Impossible as error:
                print(f"error: {f'{name(one)}: ' if talk.compares else ''}{error}", file=sys.stderr)
                failed = True
                continue
            replies.append(reply)
            if reply.answer.text.strip():
                histories[one].append((question, reply.answer.text))
            else:
                print("note: the answer is empty, and later questions do not see it", file=sys.stderr)
        if replies:
            print_costs(replies, talk, first=not answered)
            answered = True
    if not answered and not failed:
        print("error: there was no question on standard input", file=sys.stderr)
        return 1
    return int(failed)


def warm_up(session: Session, film: Film, question: str, compressor: Compressor) -> None:
    """Answer before it is measured: what happens in a process for the first time takes longer."""
    for _ in session.ask(film, question, compressor, max_new_tokens=WARM_UP):
        pass


def answer(
    session: Session, film: Film, talk: Talk, question: str, compressor: Compressor, history: Sequence[Turn]
) -> Reply:
    """Print an answer while it is made, and return it. Raises Impossible."""
    asking = session.ask(film, question, compressor, history, **talk.generation)
    begun = False
    try:
        for piece in asking:
            if talk.compares and not begun:
                print(f"{name(compressor)}: ", end="")
            begun = True
            print(piece, end="", flush=True)
    finally:
        asking.close()
        if begun:
            print(flush=True)
    assert asking.reply is not None
    if not begun:
        print(f"{name(compressor)}: " if talk.compares else "", flush=True)
    return asking.reply


def name(compressor: Compressor) -> str:
    """Return what a compressor is called beside another one."""
    return compressor.spec if compressor.drops else "dense"


def print_costs(replies: Sequence[Reply], talk: Talk, first: bool) -> None:
    """Print what the answers to a question cost.

    Args:
        replies: The answers, one for each compressor that has one.
        talk: Whether they are compared, and whether prompts are printed.
        first: Whether they are the first about the video, which was read and encoded for them.
    """
    video = f"{replies[0].video_seconds:.2f} s to read and encode the video"
    if talk.compares:
        print_table(stdout(), compared(replies))
        if first:
            print(f"{video} come before that, once for all answers", file=sys.stderr)
    else:
        print(f"{cost(replies[0])}{f'; {video} before that' if first else ''}", file=sys.stderr)
    for reply in replies if talk.prompts else ():
        print(f"prompt: {reply.answer.prompt!r}", file=sys.stderr)


def cost(reply: Reply) -> str:
    """Return what an answer cost, in one line."""
    begins = "" if reply.first_token is None else f"{reply.first_token:.2f} s to the first token, "
    return f"{reply.tokens_before} -> {reply.tokens_after:g} visual tokens, {begins}{reply.in_all:.2f} s in all"


def compared(replies: Sequence[Reply]) -> Rows:
    """Return a table of what the answers to a question cost, with ratios if there are two."""
    numbers = [(float(reply.tokens_after), reply.first_token or 0.0, reply.in_all) for reply in replies]
    rows: Rows = [("", "visual tokens", "first token, s", "in all, s")]
    for reply, (kept, begins, ends) in zip(replies, numbers, strict=True):
        rows.append((name(reply.compressor), f"{kept:g}", f"{begins:.3f}", f"{ends:.3f}"))
    if len(replies) == 2:
        dense, other = numbers
        ratios = [f"{a / b:.2f}" for a, b in zip(dense, other, strict=True)]
        rows.append(("ratio", *ratios))
    return rows
