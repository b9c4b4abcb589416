"""A person's session with a model: it is opened once, a video is encoded once, and answers come while they are made.

session = open_session(model)
film = session.watch("video.mp4")
asking = session.ask(film, "What happens?", compressor("vidcom2@0.25"))
for piece in asking:
    print(piece, end="", flush=True)
asking.reply  # tokens and seconds
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import torch

from llava.video import FrameSampling, VideoError
from vidcom2 import Compressor, Dense

from ..models import Protocol, canary, load_engine, protocol_for
from ..models.base import Engine, Unanswerable, require_kept
from ..models.cores import suit_threads
from ..models.served import VllmEngine
from ..results.errors import UserError
from ..results.sample import Answer
from ..run.setup import fitting, loading
from .flags import MAX_NEW_TOKENS
from .streaming import Pieces, Stopped

NO_MEMORY = "can't allocate memory"
"""What torch says, in a RuntimeError, where the CPU has no memory left."""
OF_VIDEO = ("decode", "preprocess", "vision")
"""The stages that a video passes through once, for all of its questions."""

Turn = tuple[str, str]
"""An earlier question and its answer."""


class Impossible(UserError):
    """A question, a video or a model that the session cannot serve. It can go on with others."""


class NoMemory(Impossible):
    """A device has no memory for what was asked.

    Args:
        line: What happened, and what to do about it.
        doing: What there is no memory for, such as "answering".
    """

    def __init__(self, line: str, doing: str):
        super().__init__(line)
        self.doing = doing


@dataclass(frozen=True)
class Film:
    """A video that was read and encoded, for any number of questions.

    Attributes:
        file: Its path.
        engine: The engine that has read it: its protocol tells which frames.
        seen: What the engine made of it.
    """

    file: str
    engine: Engine
    seen: Any


@dataclass(frozen=True)
class Reply:
    """An answer with what it cost.

    Attributes:
        answer: The answer, with seconds per stage.
        compressor: How the video was compressed.
    """

    answer: Answer
    compressor: Compressor

    @property
    def tokens_before(self) -> int:
        """Visual tokens without compression."""
        return sum(record.tokens_before for record in self.answer.records)

    @property
    def tokens_after(self) -> float:
        """Visual tokens that the LLM saw. Inside the LLM, the mean over its layers."""
        return sum(record.tokens_after for record in self.answer.records)

    @property
    def video_seconds(self) -> float:
        """Seconds for reading and encoding the video, which is done once for all of its questions."""
        return sum(self.answer.seconds[stage] for stage in OF_VIDEO)

    @property
    def first_token(self) -> float | None:
        """Seconds from the encoded video to the first token. None for vLLM, which does not tell it."""
        seconds = self.answer.seconds
        return seconds["compress"] + seconds["prefill"] if seconds["prefill"] else None

    @property
    def in_all(self) -> float:
        """Seconds from the encoded video to the last token."""
        return sum(seconds for stage, seconds in self.answer.seconds.items() if stage not in OF_VIDEO)


def open_session(
    model: str,
    protocol: Protocol | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attn: str | None = None,
    bits: int | None = None,
    vllm: Compressor | None = None,
) -> Session:
    """Load a model.

    Args:
        model: Checkpoint directory or hub name.
        protocol: Frames and prompts. None: what `protocol_for` gives.
        device: "cpu", "cuda" or "auto". None: the GPU if there is one.
        dtype: "float16", "bfloat16" or "float32". None: as released on a GPU, float32 on a CPU.
        attn: Attention implementation of the LLM. None: the best that is installed.
        bits: 4 or 8 to hold the LLM in fewer bits, by bitsandbytes. None: in `dtype`.
        vllm: Answer with vLLM under this compressor, its only one. None: with torch.

    Raises:
        UserError: The model cannot be loaded; `NoMemory` if there is too little for it.
        ValueError, OSError, ImportError: It has no protocol.
    """
    protocol = protocol or protocol_for(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else protocol.default_dtype)
    flag = f"--model {model}"
    with loading(flag), room_for(f"loading {flag}", "take --load-4bit or a smaller model"):
        if vllm is not None:
            engine: Engine = VllmEngine(model, protocol, "cpu" if device == "cpu" else "cuda:0", dtype, vllm)
        else:
            engine = load_engine(model, protocol, device, dtype, attn, bits=bits)
    if device == "cpu" and vllm is None:
        suit_threads(engine.model)
    return Session(model, engine)


class Session:
    """A loaded model. Questions of several threads take turns.

    Args:
        model: Checkpoint directory or hub name.
        engine: The model.
    """

    def __init__(self, model: str, engine: Engine):
        self.model, self.engine = model, engine
        self._turn = Lock()
        self._checked: set[Compressor] = {Dense()}

    @property
    def streams(self) -> bool:
        """Whether pieces come while an answer is made. vLLM gives the whole answer as one piece."""
        return not isinstance(self.engine, VllmEngine)

    def check(self, compressor: Compressor) -> None:
        """Try a compressor on the model, and what it does to a tiny model of the family. `ask` does it, too.

        Raises:
            UserError: It cannot serve the model.
        """
        with self._turn:
            if compressor not in self._checked:
                canary.require_for(self.model, [compressor])
                with fitting(f"--model {self.model}"):
                    self.engine.check(compressor)
                self._checked.add(compressor)

    def watch(self, video: str, sampling: FrameSampling | None = None) -> Film:
        """Read and encode a video, once for all of its questions. A Qwen model encodes it with the first question.

        Args:
            video: Path of the file.
            sampling: Which frames are used. None: those of the engine's protocol.

        Raises:
            Impossible: The video cannot be read, there is no memory for it, or none of its frames is in a span of
                `--keep`.
        """
        engine = self.engine if sampling is None else self.engine.sampled(sampling)
        with room_for(f"encoding {video}", "take fewer --frames, or --load-4bit"):
            try:
                read = engine.read(video)
            except VideoError as error:
                raise Impossible(str(error)) from error
            with self._turn:
                film = Film(video, engine, engine.see(read))
        try:
            require_kept(engine, film.seen, video)
        except ValueError as error:
            raise Impossible(str(error)) from error
        return film

    def ask(
        self,
        film: Film,
        question: str,
        compressor: Compressor,
        history: Sequence[Turn] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
    ) -> Asking:
        """Ask a question. Nothing happens before the first piece is asked for.

        Args:
            film: From `watch`.
            question: What is asked.
            compressor: How the video's tokens are compressed.
            history: Earlier questions about the video with their answers. Their texts may not be empty.
            max_new_tokens: The longest answer.
            temperature: 0 decodes greedily.

        Returns:
            An iterator over the answer's text in pieces. It raises `Impossible` if the model has no answer.
        """
        turns = (*(text for turn in history for text in turn), question)
        return Asking(self, film, turns, compressor, {"max_new_tokens": max_new_tokens, "temperature": temperature})

    def answered(
        self, film: Film, turns: tuple[str, ...], generation: dict[str, Any], compressor: Compressor
    ) -> Answer:
        """Answer in this thread, when the questions of other threads have been answered; see `Asking`.

        Raises:
            Impossible: The model has no answer.
        """
        with room_for("answering", "take fewer --frames, a lower --retention, or --load-4bit"):
            self.check(compressor)
            try:
                with self._turn:
                    return film.engine.answer(film.seen, turns, generation, compressor)
            except (Unanswerable, ValueError) as error:  # ValueError: the method cannot serve this video
                raise Impossible(str(error)) from error

    def close(self) -> None:
        """Stop what the engine has started. The session answers no more."""
        self.engine.close()


class Asking:
    """A question that is being answered: iterate over the pieces of its answer, then look at `reply`.

    The model answers in a thread of its own. Whoever stops to iterate before the end calls `close`, which ends the
    answer at its next token.

    Attributes:
        reply: The answer with its costs, after the last piece.
    """

    def __init__(
        self,
        session: Session,
        film: Film,
        turns: tuple[str, ...],
        compressor: Compressor,
        generation: dict[str, Any],
    ):
        self._session, self._film, self._turns = session, film, turns
        self._compressor, self._generation = compressor, generation
        self.reply: Reply | None = None
        self._pieces = self._iterate()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        """End the answer."""
        self._pieces.close()

    def _iterate(self) -> Generator[str, None, None]:
        queue: SimpleQueue[str | Reply | BaseException] = SimpleQueue()
        closed = Event()

        def emit(piece: str) -> None:
            if closed.is_set():
                raise Stopped
            if piece:
                queue.put(piece)

        def work() -> None:
            try:
                queue.put(self._answer(emit))
            except Stopped:
                pass
            except BaseException as error:  # raised again where the pieces are read
                queue.put(error)

        thread = Thread(target=work, name="answer", daemon=True)
        thread.start()
        try:
            while isinstance(piece := queue.get(), str):
                yield piece
            if isinstance(piece, BaseException):
                raise piece
            self.reply = piece
        finally:
            closed.set()
            thread.join()

    def _answer(self, emit: Any) -> Reply:
        engine = self._film.engine
        if self._session.streams:
            pieces = Pieces(engine.text, emit)
            generation = {**self._generation, "streamer": pieces}
            answer = self._session.answered(self._film, self._turns, generation, self._compressor)
            pieces.finish(answer.text)
        else:
            answer = self._session.answered(self._film, self._turns, self._generation, self._compressor)
            emit(answer.text)
        return Reply(answer, self._compressor)


@contextmanager
def room_for(doing: str, fix: str) -> Iterator[None]:
    """Raise NoMemory if the block finds no memory on its device.

    Args:
        doing: What the block does.
        fix: What to do about it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        device = "GPU" if isinstance(error, torch.OutOfMemoryError) else "CPU"
        if device == "CPU" and isinstance(error, RuntimeError) and NO_MEMORY not in str(error):
            raise
        said = f" ({first})" if (first := str(error).partition("\n")[0]) else ""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise NoMemory(f"the {device} has no memory for {doing}: {fix}{said}", doing) from error
