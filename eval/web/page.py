"""The page: what stands where, and what happens on a click."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from vidcom2 import Dense, method_names

from ..results.errors import UserError
from ..results.files import write_whole
from .examples import Example
from .parts import WAITING
from .saved import NAME, earlier, saved_report
from .server import KEPT_FOR, SWEPT_EVERY
from .talk import Talk, Turn, Unclear, Wanted, methods
from .uploads import Clip, Limits, Refused, Uploads, accept

TITLE = "Ask a video"
NONE = "none"
"""No second method."""
LONGEST = 4000
"""Characters of a question."""
TO_ANSWERS = """() => {
  if (innerWidth < 700) document.getElementById("answers").scrollIntoView({behavior: "smooth"});
}"""
"""Where the answers are below the fields, show them."""
TURNS = 10
"""Questions of a conversation that are held."""
METHODS = tuple(name for name in method_names() if name != Dense.name)
INTRO = (
    "VidCom² drops most of a video's tokens before a language model reads them. Ask a question: it is answered from "
    "the tokens that a method keeps and from all of them, and you see which were kept."
)


@dataclass(frozen=True)
class Fields:
    """The components that a question is made of."""

    video: gr.Video
    example: gr.Dropdown
    model: gr.Dropdown
    method: gr.Dropdown
    retention: gr.Slider
    second: gr.Dropdown
    question: gr.Textbox
    follow_up: gr.Checkbox


@dataclass(frozen=True)
class Results:
    """The components that show what came of it."""

    status: gr.HTML
    answers: gr.HTML
    films: gr.HTML
    save: gr.DownloadButton
    turns: gr.State


def build(talk: Talk, examples: Mapping[str, Example], limits: Limits, uploads: Uploads) -> gr.Blocks:
    """Make the page.

    Args:
        talk: Answers questions.
        examples: By title.
        limits: How large videos may be.
        uploads: The sessions' files.
    """
    with gr.Blocks(title=f"{TITLE} · VidCom²", analytics_enabled=False, delete_cache=(SWEPT_EVERY, KEPT_FOR)) as page:
        gr.HTML(f'<div class="vidcom2"><h1>{TITLE}</h1><p class="faint">{INTRO}</p></div>')
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                fields, status, ask, stop, save = settings(talk.models, examples, limits)
            with gr.Column(scale=5, min_width=300):
                answers = gr.HTML(elem_id="answers", elem_classes="vidcom2")
                films = gr.HTML(elem_id="films", elem_classes="vidcom2")
        results = Results(status, answers, films, save, gr.State((), time_to_live=KEPT_FOR))
        connect(page, Handlers(talk, examples, limits, uploads), fields, results, ask, stop)
    return page


def settings(
    models: Sequence[str], examples: Mapping[str, Example], limits: Limits
) -> tuple[Fields, gr.HTML, gr.Button, gr.Button, gr.DownloadButton]:
    """Place the fields and buttons, each with a label."""
    video = gr.Video(
        label=f"Video (at most {limits.megabytes:g} MB and {limits.minutes:g} minutes)",
        sources=["upload"],
        height=220,
        elem_id="video",
    )
    example = gr.Dropdown(list(examples), value=None, label="Or choose an example", elem_id="example")
    status = gr.HTML(elem_id="status", elem_classes="vidcom2")
    question = gr.Textbox(
        label="Question", lines=3, max_lines=10, max_length=LONGEST, info="Shift+Enter asks.", elem_id="question"
    )
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=80)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    model = gr.Dropdown(list(models), value=models[0], label="Model", elem_id="model")
    method = gr.Dropdown(METHODS, value="vidcom2", label="Method", elem_id="method")
    retention = gr.Slider(5, 100, value=25, step=1, label="Retention, % of the visual tokens", elem_id="retention")
    second = gr.Dropdown((NONE, *METHODS), value=NONE, label="A second method beside it", elem_id="second")
    follow_up = gr.Checkbox(
        label="Follow-up question",
        info="The model also gets the earlier questions and its answers.",
        elem_id="follow-up",
    )
    save = gr.DownloadButton("Save as HTML", interactive=False, elem_id="save")
    return Fields(video, example, model, method, retention, second, question, follow_up), status, ask, stop, save


class Handlers:
    """What happens on a click. Whatever a user can get wrong ends in one line in the page.

    Args:
        talk: Answers questions.
        examples: By title.
        limits: How large videos may be.
        uploads: The sessions' files.
    """

    def __init__(self, talk: Talk, examples: Mapping[str, Example], limits: Limits, uploads: Uploads):
        self._talk, self._examples, self._limits, self._uploads = talk, examples, limits, uploads

    def take(self, video: str | None, request: gr.Request) -> Update:
        """Check a new video, and forget the one before it with its questions."""
        if video is None:
            self.leave(request)
            return fresh("")
        try:
            return fresh(note(str(self._accepted(Path(video), request))))
        except Refused as error:
            return fresh(problem(error))

    def choose(self, title: str | None) -> tuple[Any, Any]:
        """Put an example's video and question into their fields."""
        example = None if title is None else self._examples.get(title)
        return (gr.skip(), gr.skip()) if example is None else (str(example.video), example.question)

    def ask(
        self,
        video: str | None,
        model: str,
        method: str,
        retention: float,
        second: str,
        question: str,
        follow_up: bool,
        turns: tuple[Turn, ...],
        request: gr.Request,
    ) -> Iterator[Update]:
        """Answer a question, and yield what `Results` shows, again and again."""
        try:
            if video is None:
                raise Unclear("there is no video: drop one into the field, or choose an example")
            if not question.strip():
                raise Unclear("there is no question: write one into the field")
            chosen = methods([name for name in (method, second) if name != NONE], retention / 100)
            path = Path(video).resolve()
            clip = self._accepted(path, request)
        except UserError as error:
            yield gr.skip(), problem(error), "", gr.skip(), gr.skip()
            return
        wanted = Wanted(path, clip, model, question.strip(), chosen, turns if follow_up else ())
        yield note(str(clip)), "", "", gr.DownloadButton(interactive=False), gr.skip()
        for shown in self._talk.answer(wanted):
            if shown.turn is None:
                yield gr.skip(), shown.answered, shown.films, gr.skip(), gr.skip()
            else:
                turns = (*turns, shown.turn)[-TURNS:]
                file = self._saved(turns, str(request.session_hash))
                saving = gr.DownloadButton(value=str(file), interactive=True)
                yield gr.skip(), shown.answered + earlier(turns[:-1]), shown.films, saving, turns

    def leave(self, request: gr.Request) -> None:
        """Delete a session's files."""
        self._uploads.leave(str(request.session_hash))

    def _accepted(self, video: Path, request: gr.Request) -> Clip:
        """Hold a video's file for this session, and check it. Raises Refused."""
        self._uploads.hold(str(request.session_hash), video)  # also a refused one: the field still shows it
        return accept(video, self._limits)

    def _saved(self, turns: Sequence[Turn], session: str) -> Path:
        """Write a conversation as an HTML report, which is deleted with the session's video."""
        file = self._uploads.place(session, NAME)
        write_whole(file, saved_report(turns))
        return file


Update = tuple[Any, Any, Any, Any, Any]
"""What `Results` shows: status, answers, film strips, the button that saves, and the turns."""


def fresh(status: str) -> Update:
    """Return an empty page with a status line."""
    return status, "", "", gr.DownloadButton(value=None, interactive=False), ()


def connect(
    page: gr.Blocks, handlers: Handlers, fields: Fields, results: Results, ask: gr.Button, stop: gr.Button
) -> None:
    """Say what happens on which click. Models work on one question at a time; the others wait in the queue."""
    outputs = [results.status, results.answers, results.films, results.save, results.turns]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    fields.example.input(handlers.choose, fields.example, [fields.video, fields.question], **quiet)
    fields.video.change(handlers.take, fields.video, outputs, concurrency_limit=2, **quiet)
    asked = gr.on(
        [ask.click, fields.question.submit],
        handlers.ask,
        [
            *(fields.video, fields.model, fields.method, fields.retention, fields.second, fields.question),
            *(fields.follow_up, results.turns),
        ],
        outputs,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress_on=[results.answers],
        **quiet,
    )
    gr.on([ask.click, fields.question.submit], None, js=TO_ANSWERS, api_visibility="private")
    stopping = stop.click(None, cancels=[asked])  # its last update may still be on the way
    stopping.then(stopped, results.answers, [results.status, results.answers], **quiet)
    page.unload(handlers.leave)


def note(text: str) -> str:
    """Write a line below the video."""
    return f'<p class="faint">{escape(text)}</p>'


def stopped(answers: str | None) -> tuple[str, str]:
    """Say that an answer was stopped, and that those which had not begun will not come."""
    return note("stopped"), (answers or "").replace(WAITING, "stopped")


def problem(error: Exception) -> str:
    """Write what is wrong, for eyes and for screen readers."""
    return f'<p class="wrong" role="alert">{escape(str(error))}</p>'
