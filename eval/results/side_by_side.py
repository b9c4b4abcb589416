"""Runs of several settings over the same questions, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console

from .load import Run
from .sample import LABELS
from .schema import Summary
from .stats import bootstrap_interval
from .tables import Rows, markdown_table, print_table
from .terminal import say, table_width

COLUMNS = 6
"""The most settings that stand side by side on a terminal."""
NAME, HEAD = 18, 14
"""Characters of the longest spec that is a name in tables, and of the longest beginning of one."""
LLM = ("prefill", "generate")
"""The stages of the LLM."""
CAPTION = (
    "accuracy: with its 95 % bootstrap interval; tokens: visual tokens that the LLM sees, per question; LLM: prefill "
    "and generation, mean of a question{ratio}; the other stages are in table.md"
)


def called(spec: str) -> str:
    """Return what tables call a setting: its spec, or "dense"."""
    return "dense" if spec == "none" else spec


def side_by_side(results: Mapping[str, Summary]) -> Rows:
    """Return rows of text: accuracy per category and overall in percent, the overall accuracy in percent of the first
    setting's, visual tokens per question, and mean milliseconds per stage.

    Args:
        results: By setting. "none" is called dense.
    """
    every, names = list(results.values()), [called(spec) for spec in results]
    rows: Rows = [("", *names), *by_category(every)]
    rows.append((f"% of {names[0]}", *(_share(r, every[0]) for r in every)))
    rows.append(("tokens before", *(_mean(r.visual_tokens.before_per_sample) for r in every)))
    rows.append(("tokens after", *(_mean(r.visual_tokens.after_per_sample) for r in every)))
    for stage in every[0].seconds:
        rows.append((f"{LABELS[stage]}, ms", *(f"{1000 * r.seconds[stage].mean:.1f}" for r in every)))
    return rows


def by_category(results: Iterable[Summary]) -> Rows:
    """Return a row of accuracies in percent for each category, and the overall row. They have no header."""
    every = list(results)
    rows: Rows = [
        (category, *(f"{r.scores.categories[category].accuracy:.1f}" for r in every))
        for category in every[0].scores.categories
    ]
    return [*rows, ("overall", *(f"{r.scores.overall:.1f}" for r in every))]


def overview(runs: Mapping[str, Run]) -> Rows:
    """Return the header and a row of text per setting: accuracy with its 95 % bootstrap interval, percent of the first
    setting's, visual tokens per question, and the LLM's milliseconds per question, also as a multiple of the first's.

    Args:
        runs: By the name of the setting.
    """
    first = next(iter(runs))
    rows: Rows = [("setting", "accuracy, %", f"% of {first}", "tokens", "LLM, ms")]
    dense = runs[first].summary
    for name, run in runs.items():
        found = run.summary
        low, high = bootstrap_interval(run.scores, run.categories, run.overall)
        ms, of = _llm_ms(found), _llm_ms(dense)
        rows.append(
            (
                name,
                f"{found.scores.overall:.1f} [{low:.1f}, {high:.1f}]",
                _share(found, dense),
                _mean(found.visual_tokens.after_per_sample),
                f"{ms:.1f} ({ms / of:.2f}x)" if of else f"{ms:.1f}",
            )
        )
    return rows


def _share(summary: Summary, first: Summary) -> str:
    return f"{100 * summary.scores.overall / first.scores.overall:.1f}" if first.scores.overall else "-"


def _mean(tokens: float | None) -> str:
    return "-" if tokens is None else f"{tokens:.1f}"


def _llm_ms(summary: Summary) -> float:
    """Return the mean milliseconds of a question in the LLM."""
    return 1000 * sum(summary.seconds[stage].mean for stage in LLM if stage in summary.seconds)


def short_names(specs: Iterable[str]) -> dict[str, str]:
    """Return a name of at most NAME characters for each spec.

    A longer spec gets its number in brackets, after the method and the retention if they are short. Example:
    "vidcom2@0.25:rounding=exact" as the second spec is "vidcom2@0.25 [2]".
    """
    names = {}
    for number, spec in enumerate(specs, start=1):
        head = spec.partition(":")[0]
        names[spec] = called(spec)
        if len(spec) > NAME:
            names[spec] = f"{head} [{number}]" if len(head) <= HEAD else f"[{number}]"
    return names


def markdown(title: str, *tables: Rows) -> str:
    """Return the content of a sweep's table.md."""
    return "\n".join([f"# {title}\n", *(markdown_table(rows) for rows in tables)])


def print_side_by_side(console: Console, title: str, runs: Mapping[str, Run]) -> None:
    """Print a table with a row per setting, and, of few settings, one with a row per category.

    No name of a setting breaks. What a short name stands for is printed below the first table. In a file or a pipe,
    tables are no wider than a narrow terminal.

    Args:
        console: Where to print.
        title: Printed above.
        runs: By spec, the first one is what the others are compared with.
    """
    names = short_names(runs)
    named = {names[spec]: run for spec, run in runs.items()}
    first, width = next(iter(named)), table_width(console)
    print_table(console, overview(named), title, bold=(first,), whole=True, width=width)
    for spec, name in names.items():
        if name != called(spec):
            console.print(f"{name} is {spec}", markup=False, highlight=False, soft_wrap=True)
    ratio = f", and as a multiple of {first}'s" if len(named) > 1 else ""
    say(console, CAPTION.format(ratio=ratio))
    if len(named) <= COLUMNS:
        console.print()
        rows: Rows = [("accuracy, %", *named), *by_category(run.summary for run in runs.values())]
        print_table(console, rows, bold=("overall",), whole=True, width=width)
