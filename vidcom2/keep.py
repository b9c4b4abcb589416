"""`Keep`: which seconds of a video a caller wants to keep more of, such as "12s-15s:full"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vidcom2.by_hand import Budgets, ImpossibleBudgets

SPAN = re.compile(r"(\d+(?:\.\d+)?)s-(\d+(?:\.\d+)?)s:(full|\d+(?:\.\d+)?%|\d+)", re.ASCII)
"""A span in a text."""


def plain(number: float) -> str:
    """Write a number as SPAN reads it, without an exponent: runs are told apart by this text."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Span:
    """A part of a video, and how much each frame in it keeps.

    Attributes:
        start: Second of its beginning.
        end: Second of its end. A frame at either second is in the span.
        share: Share of its tokens that a frame keeps, in (0, 1]; None where `tokens` says it.
        tokens: Tokens that a frame keeps.
    """

    start: float
    end: float
    share: float | None
    tokens: int = 0

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read what `str` writes.

        Raises:
            ValueError: The text has another form, or a number is impossible.
        """
        found = SPAN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no span of a video: write 12s-15s:full, 12s-15s:50% or 12s-15s:20 (tokens)")
        start, end, amount = float(found[1]), float(found[2]), found[3]
        if end < start:
            raise ValueError(f"{text!r} ends before it begins: write the earlier second first")
        share = 1.0 if amount == "full" else float(amount[:-1]) / 100 if amount.endswith("%") else None
        tokens = int(amount) if share is None else 0
        if (share is not None and not 0 < share <= 1) or (share is None and tokens < 1):
            raise ValueError(f"{text!r} keeps {amount} of a frame: write 1 to 100 %, or 1 token or more")
        return cls(start, end, share, tokens)

    def holds(self, second: float) -> bool:
        """Return whether a frame that is shown at this second is in the span."""
        return self.start <= second <= self.end

    def budget(self, m: int) -> int:
        """Return how many of its M tokens a frame keeps."""
        return self.tokens if self.share is None else max(1, round(self.share * m))

    def __str__(self) -> str:
        share = "full" if self.share == 1 else f"{plain(100 * (self.share or 0))}%"
        amount = str(self.tokens) if self.share is None else share
        return f"{plain(self.start)}s-{plain(self.end)}s:{amount}"


@dataclass(frozen=True)
class Keep:
    """Spans of a video of which a caller wants to keep more, or less, than a method would.

    For example `VidCom2(0.25, budgets=Keep.parse("12s-15s:full").at(video.shown_at))`.

    Attributes:
        spans: The spans. A frame in several of them keeps the most that one of them says.
    """

    spans: tuple[Span, ...]

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read what `str` writes.

        Args:
            text: Spans such as "12s-15s:full" (each of their frames keeps all its tokens), "12s-15s:50%" (half of
                them) or "12s-15s:20" (20 tokens), separated by commas.

        Raises:
            ValueError: The text has another form, or a number is impossible.
        """
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError(f"{text!r} has an empty span: write one or more, such as 12s-15s:full,20s-21s:50%")
        return cls(tuple(map(Span.parse, parts)))

    def at(self, times: Sequence[float], together: int = 1) -> KeptFrames:
        """Return the budgets of one video, as the setting `budgets` takes them.

        Args:
            times: The second at which each sampled frame is shown.
            together: How many neighbouring frames the model merges into one. A merged frame is in a span if one of
                these is.
        """
        steps = [tuple(times[i : i + together]) for i in range(0, len(times), together)]
        inside = (tuple(n for n, span in enumerate(self.spans) if any(map(span.holds, step))) for step in steps)
        return KeptFrames(self, tuple(inside))

    def __str__(self) -> str:
        return ",".join(map(str, self.spans))


@dataclass(frozen=True)
class KeptFrames:
    """The budgets of one video, for any number of tokens per frame: a function of T and M.

    Attributes:
        keep: What they come from.
        inside: For each frame, the indices of the spans that it is in.
    """

    keep: Keep
    inside: tuple[tuple[int, ...], ...]

    @property
    def matched(self) -> bool:
        """Whether any frame is in a span."""
        return any(self.inside)

    def __call__(self, frames: int, m: int) -> Budgets:
        """Return the budgets; None for a frame in no span.

        Raises:
            ImpossibleBudgets: The video has another number of frames than there are times.
        """
        if frames != len(self.inside):
            raise ImpossibleBudgets(
                f"the times of {len(self.inside)} frames were given for {self.keep}, and this video has {frames} "
                "frames: does the model merge neighbouring ones (together=)?"
            )
        return tuple(max((self.keep.spans[n].budget(m) for n in own), default=None) for own in self.inside)

    def __str__(self) -> str:
        return str(self.keep)
