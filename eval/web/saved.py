"""A conversation as an HTML file that needs no other file and no network, like the reports of runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vidcom2 import __version__

from ..reports.html import page
from .parts import STYLE
from .talk import Turn

NAME = "vidcom2-answers.html"
"""What the browser calls a saved conversation."""


def saved_report(turns: Sequence[Turn]) -> str:
    """Write a conversation with its film strips, the first question first."""
    (video,) = {turn.video for turn in turns}
    body = f'<p class="faint">Asked on the page of vidcom2 {escape(__version__)}.</p>\n'
    body += "\n".join(turn.answered + turn.films for turn in turns)
    return page(f"Questions about {video}", body, STYLE.read_text(encoding="utf-8"))


def earlier(turns: Sequence[Turn]) -> str:
    """Write earlier questions, the latest first, each with answers that open on a click."""
    opened = "".join(
        f"<details><summary>{escape(turn.question)}</summary>{turn.answered}</details>" for turn in reversed(turns)
    )
    return f'<section class="earlier"><h3>Earlier questions</h3>{opened}</section>' if turns else ""
