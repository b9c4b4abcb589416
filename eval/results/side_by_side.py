"""Runs of several settings over the same questions, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from .sample import LABELS
from .schema import Summary
from .tables import Rows, markdown_table, parts, print_table

COLUMNS = 6
"""The most settings that stand side by side on a terminal."""
SHORT = ("overall", "% of", "tokens after", "prefill")
"""How the rows begin that a terminal shows of more settings."""


def side_by_side(results: Mapping[str, Summary]) -> Rows:
    """Return rows of text: accuracy per category and overall in percent, the overall accuracy in percent of the first
    setting's, visual tokens per question, and mean milliseconds per stage.

    Args:
        results: By setting. "none" is called dense.
    """
    every, names = list(results.values()), ["dense" if spec == "none" else spec for spec in results]
    first = every[0].scores.overall
    rows: Rows = [("", *names)]
    for category in every[0].scores.categories:
        rows.append((category, *(f"{r.scores.categories[category].accuracy:.1f}" for r in every)))
    rows.append(("overall", *(f"{r.scores.overall:.1f}" for r in every)))
    rows.append((f"% of {names[0]}", *(f"{100 * r.scores.overall / first:.1f}" if first else "-" for r in every)))
    rows.append(("tokens before", *(_mean(r.visual_tokens.before_per_sample) for r in every)))
    rows.append(("tokens after", *(_mean(r.visual_tokens.after_per_sample) for r in every)))
    for stage in every[0].seconds:
        rows.append((f"{LABELS[stage]}, ms", *(f"{1000 * r.seconds[stage].mean:.1f}" for r in every)))
    return rows


def _mean(tokens: float | None) -> str:
    return "-" if tokens is None else f"{tokens:.1f}"


def markdown(title: str, rows: Rows) -> str:
    """Return the content of a sweep's table.md."""
    return f"# {title}\n\n{markdown_table(rows)}"


def print_side_by_side(console: Console, title: str, rows: Rows) -> None:
    """Print the table. Of more settings than fit beside each other, print a row each with the most important values."""
    if len(rows[0]) - 1 > COLUMNS or len(parts(rows, console.width)) > 1:
        rows = list(zip(rows[0], *(row for row in rows if row[0].startswith(SHORT)), strict=True))
    print_table(console, rows, title, bold=[row[0] for row in rows if row[0].startswith(("overall", "% of"))])
