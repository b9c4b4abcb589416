"""What the page does with a question: it is answered densely and compressed, then what was kept is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from llava.video import VideoError
from vidcom2 import Compressor, Dense, compressor

from ..ask.session import Film, NoMemory, Reply, Session, room_for
from ..models.base import Unanswerable
from ..reports.look import look_at
from ..results.errors import UserError
from .parts import Card, exchange, films_html, no_strip, strip_html
from .uploads import Clip

NO_MEMORY = "the server has no memory for {}: choose a shorter or smaller video, a lower retention, or another model"
"""What a guest is told, who can type no flags. The session says for what."""
FILMS = 4
"""Encoded videos that are held for further questions."""


class Unclear(UserError):
    """A question that cannot be asked as it is. The message is one line."""


@dataclass(frozen=True)
class Offer:
    """A model that can be chosen.

    Attributes:
        name: Checkpoint directory or hub name.
        open: Loads it.
    """

    name: str
    open: Callable[[], Session]


@dataclass(frozen=True)
class Turn:
    """A question that was answered.

    Attributes:
        video: The video's name.
        question: The question.
        answers: The answers by the compressor's spec.
        answered: The answers as the page shows them, in HTML.
        films: The film strips, in HTML.
    """

    video: str
    question: str
    answers: dict[str, str]
    answered: str
    films: str


@dataclass(frozen=True)
class Wanted:
    """What is asked.

    Attributes:
        video: The uploaded file.
        clip: What it is.
        model: The model's title.
        question: The question.
        methods: The methods that answer beside dense.
        earlier: Earlier questions about the video, which the model gets as well.
    """

    video: Path
    clip: Clip
    model: str
    question: str
    methods: tuple[Compressor, ...]
    earlier: tuple[Turn, ...] = ()


def methods(names: Sequence[str], retention: float) -> tuple[Compressor, ...]:
    """Return the methods of these names at a retention.

    Raises:
        Unclear: Two are the same, or one cannot have this retention.
    """
    if len(set(names)) < len(names):
        raise Unclear(f"{names[0]} is chosen twice: choose another second method, or none")
    try:
        return tuple(compressor(name, retention=retention) for name in names)
    except ValueError as error:
        raise Unclear(str(error)) from error


@dataclass(frozen=True)
class Shown:
    """What the page shows while a question is answered.

    Attributes:
        answered: The answers so far, in HTML.
        films: The film strips, in HTML.
        turn: The finished question. None before.
    """

    answered: str
    films: str = ""
    turn: Turn | None = None


class Talk:
    """The models, and the videos that they have encoded last.

    Args:
        models: By title. The first one is opened at once, another one with its first question.
        max_new_tokens: The longest answer.
    """

    def __init__(self, models: dict[str, Offer], max_new_tokens: int):
        self._offers, self._max_new_tokens = models, max_new_tokens
        self._sessions: dict[str, Session] = {}
        self._films: dict[tuple[str, Path], Film] = {}
        self._lock = Lock()
        self.session(self.models[0])

    @property
    def models(self) -> list[str]:
        """The models' titles."""
        return list(self._offers)

    def session(self, model: str) -> Session:
        """Return a model, opened. Raises UserError if it cannot be."""
        if model not in self._sessions:
            self._sessions[model] = self._offers[model].open()
        return self._sessions[model]

    def forget(self, video: Path) -> None:
        """Forget what the models made of a video."""
        with self._lock:
            for key in [key for key in self._films if key[1] == video]:
                del self._films[key]

    def close(self) -> None:
        """Close all models."""
        for session in self._sessions.values():
            session.close()

    def answer(self, wanted: Wanted) -> Iterator[Shown]:
        """Answer a question under each method and densely, and draw what the methods kept.

        An answer that fails has its reason on its card, and the others are given all the same.
        """
        order = (*wanted.methods[:1], Dense(), *wanted.methods[1:])
        cards = {one: Card(heading(one), running=True) for one in order}

        def answered() -> str:
            return exchange(wanted.question, str(wanted.clip), wanted.model, list(cards.values()))

        yield Shown(answered())
        for one in order:
            for card in self._stream(wanted, one, cards[one]):
                cards[one] = card
                yield Shown(answered())
        drawn = ""
        for strip in self._strips(wanted, [one for one in wanted.methods if cards[one].error is None]):
            drawn += strip
            yield Shown(answered(), films_html(drawn))
        answers = {one.spec: card.text for one, card in cards.items()}
        turn = Turn(wanted.clip.name, wanted.question, answers, answered(), films_html(drawn))
        yield Shown(turn.answered, turn.films, turn)

    def _stream(self, wanted: Wanted, one: Compressor, card: Card) -> Iterator[Card]:
        """Yield an answer's card as it grows."""
        try:
            session = self.session(wanted.model)
            film = self._film(session, wanted)
            history = [(turn.question, turn.answers[one.spec]) for turn in wanted.earlier if turn.answers.get(one.spec)]
            asking = session.ask(film, wanted.question, one, history, self._max_new_tokens)
            with closing(asking):
                for piece in asking:
                    card = replace(card, text=card.text + piece)
                    yield card
            assert asking.reply is not None
            yield finished(card, asking.reply)
        except UserError as error:
            yield replace(card, running=False, error=self._said(error, wanted))

    def _film(self, session: Session, wanted: Wanted) -> Film:
        """Return the video as a model has encoded it, if need be after encoding it. Of other videos, some are held."""
        key = (wanted.model, wanted.video)
        with self._lock:
            film = self._films.pop(key, None)
        film = film or session.watch(str(wanted.video))
        with self._lock:
            self._films[key] = film
            while len(self._films) > FILMS:
                del self._films[next(iter(self._films))]
        return film

    def _strips(self, wanted: Wanted, drawn: Sequence[Compressor]) -> Iterator[str]:
        """Yield a film strip for each method, or a line that says why there is none."""
        for one in drawn:
            if not one.tells_places:
                yield no_strip(heading(one), f"{one.spec} gives its tokens places that are not their own")
                continue
            try:
                film = self._film(self.session(wanted.model), wanted)
                with room_for("drawing what was kept", "choose a lower retention"):
                    look = look_at(film.engine, film.seen, film.file, wanted.question, one)
                    strip = strip_html(heading(one), look)
                yield strip
            except (UserError, Unanswerable, VideoError, ValueError) as error:
                yield no_strip(heading(one), self._said(error, wanted))

    def _said(self, error: Exception, wanted: Wanted) -> str:
        """Say an error in one line, with what the user calls video and model instead of the server's paths."""
        text = NO_MEMORY.format(error.doing) if isinstance(error, NoMemory) else str(error)
        text = text.replace(str(wanted.video), wanted.clip.name)
        return " ".join(text.replace(f"--model {self._offers[wanted.model].name}", wanted.model).split())


def heading(one: Compressor) -> str:
    """Return what the page calls a method: its name and the share that it is asked to keep."""
    return f"{one.name}, {100 * one.retention:g} %" if one.drops else "dense: all tokens"


def finished(card: Card, reply: Reply) -> Card:
    """Return the card of a finished answer."""
    return replace(
        card,
        text=reply.answer.text,
        running=False,
        tokens=(reply.tokens_before, reply.tokens_after),
        first=reply.first_token,
        total=reply.in_all,
        seconds=reply.answer.seconds,
    )
