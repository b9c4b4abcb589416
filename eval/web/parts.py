"""The page's answers and film strips as HTML. A saved report has the same parts.

Every text is escaped here: questions, answers, file names and errors are anybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from ..reports.drawing import kept_picture
from ..reports.html import SIDE, data_url, thumbnail
from ..reports.look import Look
from ..results.sample import LABELS, STAGES

STYLE = Path(__file__).with_name("style.css")
"""How they look, on the page and in a saved report."""
WAITING = "waiting …"
"""What stands on the card of an answer that has not begun."""


@dataclass(frozen=True)
class Card:
    """An answer as the page shows it, finished or not.

    Attributes:
        title: The method and its retention.
        text: The answer as far as it is there.
        running: More of it is to come.
        error: Why there is none.
        tokens: Visual tokens before compression and after. None until they are known.
        first: Seconds to the first token. None until it is known, and for vLLM.
        total: Seconds in all.
        seconds: By stage (STAGES).
    """

    title: str
    text: str = ""
    running: bool = False
    error: str | None = None
    tokens: tuple[float, float] | None = None
    first: float | None = None
    total: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


def exchange(question: str, video: str, model: str, cards: Sequence[Card]) -> str:
    """Write a question with its answers side by side.

    Args:
        question: What was asked.
        video: The video's name and size.
        model: The model's title.
        cards: The answers. Their bars have one scale.
    """
    longest = max((seconds for card in cards for seconds in card.seconds.values()), default=0.0)
    answers = "\n".join(card_html(card, longest) for card in cards)
    return (
        f'<section class="exchange"><p class="asked">{escape(question)}</p>\n'
        f'<p class="faint">{escape(model)} on {escape(video)}</p>\n<div class="cards">{answers}</div></section>'
    )


def card_html(card: Card, longest: float) -> str:
    """Write an answer with its tokens and times. longest: seconds of a whole bar."""
    parts = [f"<h3>{escape(card.title)}</h3>"]
    if card.error is not None:
        parts.append(f'<p class="wrong" role="alert">{escape(card.error)}</p>')
    elif card.text or not card.running:
        parts.append(f'<p class="said">{escape(card.text) or "<i>an empty answer</i>"}</p>')
    else:
        parts.append(f'<p class="said faint">{WAITING}</p>')
    if card.tokens is not None:
        before, after = card.tokens
        first = "" if card.first is None else f"first token after {duration(card.first)}, "
        parts.append(
            f'<p class="numbers"><b>{after:,.0f}</b> of {before:,.0f} visual tokens ({100 * after / before:.1f} %)<br>'
            f"{first}all after {duration(card.total)}, counted from the encoded video</p>"
        )
    if card.seconds:
        parts.append(bars(card.seconds, longest))
    return f'<article aria-busy="{str(card.running).lower()}">{"".join(parts)}</article>'


def bars(seconds: dict[str, float], longest: float) -> str:
    """Write the seconds of each stage as bars. longest: seconds of a whole bar."""
    rows = "".join(
        f"<div><dt>{escape(LABELS[stage])}</dt><dd>{duration(seconds[stage])}</dd>"
        f'<dd class="track" aria-hidden="true">{bar(seconds[stage], longest, "time")}</dd></div>'
        for stage in STAGES
        if stage in seconds
    )
    return f'<p class="faint">Time per stage, the first three once per video:</p><dl class="bars">{rows}</dl>'


def bar(value: float, whole: float, kind: str) -> str:
    """Write a bar. kind: its colour's class."""
    share = 0.0 if whole <= 0 else max(0.0, min(1.0, value / whole))
    return f'<span class="bar {kind}" style="width:{100 * share:.1f}%"></span>'


def duration(seconds: float) -> str:
    """Write a time in ms or s, with three digits."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def films_html(strips: str) -> str:
    """Place film strips side by side, or one below the other where there is no room."""
    return f'<div class="films">{strips}</div>' if strips else ""


def no_strip(title: str, why: str) -> str:
    """Say why a method has no film strip."""
    return (
        f'<section class="film"><h3>{escape(title)}</h3><p class="faint">Nothing is drawn: {escape(why)}</p></section>'
    )


def strip_html(title: str, look: Look) -> str:
    """Write a film strip: each frame with its kept tokens outlined, its uniqueness and its budget."""
    low, high = float(look.uniqueness.min()), float(look.uniqueness.max())
    frames = "".join(
        frame(t + 1, kept_picture(look, t, SIDE), kept, float(unique), (low, high))
        for t, (kept, unique) in enumerate(zip(look.kept, look.uniqueness, strict=True))
    )
    warning = look.eyes.warning
    return (
        f'<section class="film"><h3>{escape(title)}</h3><p class="faint">{escape("; ".join(look.facts))}</p>'
        + (f'<p class="faint">{escape(warning)}</p>' if warning else "")
        + f'<p class="legend"><span class="swatch unique"></span>uniqueness, from {low:.3f} (no bar) to {high:.3f} '
        f'<span class="swatch budget"></span>tokens kept of a frame\'s {look.kept[0].size} '
        f'<span class="swatch outline"></span>a kept token; dark: dropped</p>'
        f'<div class="strip" tabindex="0" role="group" aria-label="{len(look.kept)} frames">{frames}</div></section>'
    )


def frame(number: int, picture: np.ndarray, kept: np.ndarray, unique: float, span: tuple[float, float]) -> str:
    """Write one frame of a film strip. span: the lowest and the highest uniqueness of the video."""
    low, high = span
    said = f"frame {number}: uniqueness {unique:.3f}, {kept.sum()} of {kept.size} tokens kept"
    image = data_url("jpeg", thumbnail(picture))
    return (
        f'<figure role="img" aria-label="{said}" title="{said}"><img src="{image}" alt="">'
        f'<figcaption aria-hidden="true"><span class="track">{bar(unique - low, high - low, "unique")}</span>'
        f'<span class="track">{bar(kept.sum(), kept.size, "budget")}</span><span>{number}: {kept.sum()}</span>'
        "</figcaption></figure>"
    )
