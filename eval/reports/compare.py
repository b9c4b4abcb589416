"""python -m eval compare A B: two runs over the same questions, and whether their difference is more than chance."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..results.files import prepare_json, write_json
from ..results.load import Run, load_run
from ..results.sample import Key
from ..results.settings import flat
from ..results.stats import Overall, accuracy, mcnemar, paired_interval
from ..results.summary import Line
from ..results.terminal import stdout

NOT_PROTOCOL = ("compressor", "compressor_settings", "processes", "limit")
"""Settings of a run that may differ: what is compared, and what changes no answer."""


@dataclass(frozen=True)
class Side:
    """One of the two runs. visual_tokens: as in results.json. failed: questions, for whatever reason."""

    directory: str
    compressor: str
    accuracy: float
    visual_tokens: dict[str, Any]
    failed: int


@dataclass(frozen=True)
class Row:
    """A category, or "overall". a, b: accuracy in percent. difference: b - a, with its 95 % interval low to high.

    lost: questions right in A and wrong in B; won: the other way. p: McNemar's test.
    """

    name: str
    samples: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    lost: int
    won: int
    p: float


@dataclass(frozen=True)
class Flip:
    """A question that only one run has right: B if `won`. Answers are raw; None where it failed."""

    task: str
    doc_id: int
    video: str
    target: str
    answer_a: str | None
    answer_b: str | None
    won: bool


@dataclass(frozen=True)
class Comparison:
    """warnings: what besides the compressor may explain the difference. rows: one per category, "overall" last."""

    benchmark: str
    overall: Overall
    a: Side
    b: Side
    warnings: list[str]
    rows: list[Row]
    flips: list[Flip]


def prepare_compare(arguments: argparse.Namespace) -> Callable[[], int]:
    """Read, check and compare; returns what prints and writes."""
    comparison = compare(arguments.a, arguments.b)
    file: Path | None = arguments.json
    prepare_json(file)

    def finish() -> int:
        print_comparison(stdout(), comparison, arguments.flips)
        if file is not None:
            write_json(file, asdict(comparison))
        return 0

    return finish


def compare(a: Path, b: Path) -> Comparison:
    """Compare two runs' directories, question by question.

    Raises ValueError where they do not answer the same questions, and what `load_run` raises.
    """
    first, second = load_run(a), load_run(b)
    pairs = pair(first, second)
    groups = {name: [p for p in pairs if p[0]["category"] == name] for name in dict.fromkeys(first.categories)}
    overall = row("overall", pairs, first.overall)
    return Comparison(
        benchmark=first.summary["benchmark"],
        overall=first.overall,
        a=side(first, overall.a),
        b=side(second, overall.b),
        warnings=differing_settings(first, second) + failures("A", first) + failures("B", second),
        rows=[*(row(name, group, "micro") for name, group in groups.items()), overall],
        flips=[
            Flip(
                task=left["task"],
                doc_id=left["doc_id"],
                video=left["video"],
                target=left["target"],
                answer_a=left["answer"],
                answer_b=right["answer"],
                won=right["score"] > left["score"],
            )
            for left, right in pairs
            if left["score"] != right["score"]
        ],
    )


def pair(a: Run, b: Run) -> list[tuple[Line, Line]]:
    """Both runs' lines of every question, in a's order; ValueError for the first that is not the same in both."""

    def differ(key: Key, what: str) -> ValueError:
        return ValueError(
            f"{a.directory} and {b.directory} do not answer the same questions: {key[0]} question {key[1]} {what}. "
            "Run both with the same --tasks, --limit, --data and --sampling, on models of the same protocol"
        )

    mine, theirs = ({(line["task"], line["doc_id"]): line for line in run.lines} for run in (a, b))
    for key in [*mine, *theirs]:
        if key not in mine or key not in theirs:
            raise differ(key, f"is only in {a.directory if key in mine else b.directory}")
    for key, line in mine.items():
        for part in ("category", "target", "prompt"):
            left, right = line[part], theirs[key][part]
            unread = part == "prompt" and None in (left, right)  # no prompt was made for a video that was not read
            if left != right and not unread:
                raise differ(key, f"has the {part} {_difference(left, right)}")
    return [(line, theirs[key]) for key, line in mine.items()]


def _difference(left: str, right: str) -> str:
    same = (x == y for x, y in zip(left, right, strict=False))
    at = next((i for i, equal in enumerate(same) if not equal), min(len(left), len(right)))
    near = slice(max(0, at - 20), at + 40)
    return f"{left[near]!r} in the one and {right[near]!r} in the other" + (f", from character {at} on" if at else "")


def row(name: str, pairs: list[tuple[Line, Line]], overall: Overall) -> Row:
    a, b = ([line["score"] for line in lines] for lines in zip(*pairs, strict=True))
    categories = [left["category"] for left, _ in pairs]
    difference, low, high = paired_interval(a, b, categories, overall)
    return Row(
        name=name,
        samples=len(pairs),
        a=accuracy(a, categories, overall),
        b=accuracy(b, categories, overall),
        difference=difference,
        low=low,
        high=high,
        lost=sum(x > y for x, y in zip(a, b, strict=True)),
        won=sum(x < y for x, y in zip(a, b, strict=True)),
        p=mcnemar(a, b),
    )


def side(run: Run, overall: float) -> Side:
    summary = run.summary
    return Side(
        directory=str(run.directory),
        compressor=summary["run"]["compressor"],
        accuracy=overall,
        visual_tokens=summary["visual_tokens"],
        failed=len(summary["failures"]),
    )


def differing_settings(a: Run, b: Run) -> list[str]:
    """A line for every setting of the runs, besides the compressor, that is not the same."""
    left, right = (dict(flat({k: v for k, v in r.summary["run"].items() if k not in NOT_PROTOCOL})) for r in (a, b))
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    return [f"{name} differs: {left.get(name)!r} in A, {right.get(name)!r} in B" for name in names]


def failures(name: str, run: Run) -> list[str]:
    failed = len(run.summary["failures"])
    return [f"{failed} of {name}'s questions failed (listed in its results.json) and count as wrong"] if failed else []


def print_comparison(console: Console, comparison: Comparison, flips: bool = False) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for name, side in (("A", comparison.a), ("B", comparison.b)):
        say(f"{name}: {side.compressor}, {_tokens(side.visual_tokens)}: {side.directory}")
    for warning in comparison.warnings:
        say(f"WARNING: {warning}", "bold red")
    console.print(table(comparison))
    say(f"A, B: accuracy, %, overall the {comparison.overall} average; 95 %: paired bootstrap interval of B - A")
    say("lost: right in A, wrong in B; won: the other way; p: exact McNemar test, not corrected for the number of rows")
    for flip in comparison.flips if flips else ():
        a, b = ("no answer" if answer is None else repr(answer) for answer in (flip.answer_a, flip.answer_b))
        direction = "won" if flip.won else "lost"
        say(f"{direction} {flip.task} {flip.doc_id}: target {flip.target}, A {a}, B {b}, {flip.video}")


def _tokens(tokens: dict[str, Any]) -> str:
    if tokens["retention"] is None:
        return "no question was answered"
    return (
        f"visual tokens per sample {tokens['before_per_sample']:.1f} -> {tokens['after_per_sample']:.1f} "
        f"({100 * tokens['retention']:.2f} % kept, separators included)"
    )


def table(comparison: Comparison) -> Table:
    # Without edges, MVBench's longest category fits 80 columns.
    result = Table(title=comparison.benchmark, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    result.add_column("category", no_wrap=True)
    for column in ("A", "B", "B - A", "95 %", "lost", "won", "p"):
        result.add_column(column, justify="right", no_wrap=True)
    for r in comparison.rows:
        result.add_row(
            r.name,
            *(f"{r.a:.1f}", f"{r.b:.1f}", f"{r.difference:+.1f}", f"{r.low:+.1f} {r.high:+.1f}"),
            *(str(r.lost), str(r.won), f"{r.p:.3f}" if r.p >= 0.001 else "<.001"),
            style="bold" if r is comparison.rows[-1] else None,
        )
    return result
