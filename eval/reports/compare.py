"""vidcom2 compare A B: is the difference between two runs over the same questions more than chance?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from ..results.files import prepare_json, write_json
from ..results.load import Run, load_run
from ..results.sample import Key
from ..results.schema import ScoredSample, VisualTokens
from ..results.settings import flat
from ..results.stats import Overall, accuracy, mcnemar, paired_interval
from ..results.summary import prompts_digest, tokens_in_words
from ..results.tables import Rows, print_table
from ..results.terminal import say, stdout

NOT_PROTOCOL = ("compressor", "compressor_settings", "processes", "limit")
"""Settings that two compared runs may differ in: the compressor, and what changes no answer."""

FOR_DEMO = ("model", "tasks", "limit", "output")
"""Flags that say which demo is meant."""

Pair = tuple[ScoredSample, ScoredSample]
"""The same question in A and in B."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        directory: The directory of the run.
        compressor: Spec of the compressor.
        accuracy: Overall accuracy in percent.
        visual_tokens: What the videos cost the LLM.
        failed: Number of questions that failed.
    """

    directory: str
    compressor: str
    accuracy: float
    visual_tokens: VisualTokens
    failed: int


@dataclass(frozen=True)
class Row:
    """A category, or all questions.

    Attributes:
        name: The category, or "overall".
        samples: Number of questions.
        a: Accuracy of A in percent.
        b: Accuracy of B in percent.
        difference: b - a, in percentage points.
        low: Lower end of the difference's 95 % interval.
        high: Upper end of the difference's 95 % interval.
        lost: Number of questions that are right in A and wrong in B.
        won: Number of questions that are wrong in A and right in B.
        p: p-value of McNemar's test.
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
    """A question that only one of the runs has right.

    Attributes:
        task: lmms-eval's task.
        doc_id: The question's number in its task.
        video: Path of the video.
        target: The right option.
        answer_a: Raw answer of A. None where the question failed.
        answer_b: Raw answer of B. None where the question failed.
        won: Is it B that has the question right?
    """

    task: str
    doc_id: int
    video: str
    target: str
    answer_a: str | None
    answer_b: str | None
    won: bool


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same questions.

    Attributes:
        benchmark: Our name of the benchmark.
        overall: What the benchmark's overall accuracy is.
        a: The first run.
        b: The second run.
        warnings: What may explain the difference, besides the compressor.
        rows: One per category, and the overall row last.
        flips: The questions that only one of the runs has right.
    """

    benchmark: str
    overall: Overall
    a: Side
    b: Side
    warnings: list[str]
    rows: list[Row]
    flips: list[Flip]


def prepare_compare(arguments: argparse.Namespace) -> Callable[[], int]:
    """Read, check and compare the runs. Return a function that prints and writes the comparison."""
    given = [name for name in FOR_DEMO if vars(arguments)[name] is not None]
    if given:
        raise ValueError(f"--{given[0]} is for --demo, which compares two specs: add --demo, or leave it out")
    comparison = compare(Path(arguments.a), Path(arguments.b))
    prepare_json(arguments.json)
    return lambda: tell(comparison, arguments)


def tell(comparison: Comparison, arguments: argparse.Namespace) -> int:
    """Print the comparison, and write it to the file that --json names. Return 0."""
    print_comparison(stdout(), comparison, arguments.flips)
    if arguments.json is not None:
        write_json(arguments.json, asdict(comparison))
    return 0


def compare(a: Path, b: Path) -> Comparison:
    """Compare the runs in two directories, question by question.

    Raises:
        FileNotFoundError: A directory holds no finished run, see `load_run`.
        ValueError: They do not answer the same questions, or a file is damaged.
    """
    first, second = load_run(a), load_run(b)
    pairs = pair(first, second)
    by_category = {name: [p for p in pairs if p[0].category == name] for name in dict.fromkeys(first.categories)}
    overall = row("overall", pairs, first.overall)
    return Comparison(
        benchmark=first.summary.title,
        overall=first.overall,
        a=side(first, overall.a),
        b=side(second, overall.b),
        warnings=differing_settings(first, second) + failures("A", first) + failures("B", second),
        rows=[*(row(name, own, "micro") for name, own in by_category.items()), overall],
        flips=[flip(left, right) for left, right in pairs if left.score != right.score],
    )


def pair(a: Run, b: Run) -> list[Pair]:
    """Return the samples of every question in both runs, in a's order.

    Raises:
        ValueError: A question is not the same in both, or is in one run only.
    """

    def differ(key: Key, what: str) -> ValueError:
        return ValueError(
            f"{a.directory} and {b.directory} do not answer the same questions: {key[0]} question {key[1]} {what}. "
            "Run both with the same --tasks, --limit, --data and --sampling, on models of the same protocol"
        )

    mine, theirs = ({sample.key: sample for sample in run.samples} for run in (a, b))
    for key in [*mine, *theirs]:
        if key not in mine or key not in theirs:
            raise differ(key, f"is only in {a.directory if key in mine else b.directory}")
    for key, sample in mine.items():
        for part in ("category", "target", "prompt"):
            left, right = getattr(sample, part), getattr(theirs[key], part)
            unread = part == "prompt" and None in (left, right)  # a video that was not read leaves no prompt
            if left != right and not unread:
                digests = " and ".join(prompts_digest(run.samples) for run in (a, b))
                of_prompts = f" (the first of those that differ; digests of all prompts: {digests})"
                raise differ(key, f"has the {part} {_difference(left, right)}{of_prompts if part == 'prompt' else ''}")
    return [(sample, theirs[key]) for key, sample in mine.items()]


def _difference(left: str, right: str) -> str:
    """Quote two texts from a little before they differ."""
    same = (x == y for x, y in zip(left, right, strict=False))
    at = next((i for i, equal in enumerate(same) if not equal), min(len(left), len(right)))
    near = slice(max(0, at - 20), at + 40)
    return f"{left[near]!r} in the one and {right[near]!r} in the other" + (f", from character {at} on" if at else "")


def row(name: str, pairs: Sequence[Pair], overall: Overall) -> Row:
    """Compare both runs over some of the questions."""
    a, b = [left.score for left, _ in pairs], [right.score for _, right in pairs]
    categories = [left.category for left, _ in pairs]
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


def flip(left: ScoredSample, right: ScoredSample) -> Flip:
    """Describe a question that A (`left`) and B (`right`) do not both have right."""
    return Flip(
        task=left.task,
        doc_id=left.doc_id,
        video=left.video,
        target=left.target,
        answer_a=left.answer,
        answer_b=right.answer,
        won=right.score > left.score,
    )


def side(run: Run, overall: float) -> Side:
    """Describe one of the runs. overall: its overall accuracy in percent."""
    summary = run.summary
    return Side(
        directory=str(run.directory),
        compressor=summary.run.compressor,
        accuracy=overall,
        visual_tokens=summary.visual_tokens,
        failed=len(summary.failures),
    )


def differing_settings(a: Run, b: Run) -> list[str]:
    """Return a line for each setting that differs between the runs, NOT_PROTOCOL left out."""

    def protocol(run: Run) -> dict[str, object]:
        return dict(flat({name: v for name, v in run.summary.run.to_json().items() if name not in NOT_PROTOCOL}))

    left, right = protocol(a), protocol(b)
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    return [f"{name} differs: {left.get(name)!r} in A, {right.get(name)!r} in B" for name in names]


def failures(name: str, run: Run) -> list[str]:
    """Return a warning if questions of the run failed. name: "A" or "B"."""
    failed = len(run.summary.failures)
    return [f"{failed} of {name}'s questions failed (listed in its results.json) and count as wrong"] if failed else []


def print_comparison(console: Console, comparison: Comparison, flips: bool = False) -> None:
    """Print the comparison, and with `flips` every question that only one of the runs has right."""

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for name, side in (("A", comparison.a), ("B", comparison.b)):
        line(f"{name}: {side.compressor}, {_tokens(side.visual_tokens)}: {side.directory}")
    for warning in comparison.warnings:
        line(f"WARNING: {warning}", "bold red")
    print_table(console, table(comparison), comparison.benchmark, bold=("overall",))
    say(console, f"A, B: accuracy, %, overall the {comparison.overall} average; 95 %: paired bootstrap interval of B-A")
    say(
        console,
        "lost: right in A, wrong in B; won: the other way; p: exact McNemar test, not corrected for the number of rows",
    )
    for flip in comparison.flips if flips else ():
        a, b = ("no answer" if answer is None else repr(answer) for answer in (flip.answer_a, flip.answer_b))
        direction = "won" if flip.won else "lost"
        line(f"{direction} {flip.task} {flip.doc_id}: target {flip.target}, A {a}, B {b}, {flip.video}")


def _tokens(tokens: VisualTokens) -> str:
    if tokens.retention is None:
        return "no question was answered"
    return f"visual tokens per sample {tokens_in_words(tokens)}"


def table(comparison: Comparison) -> Rows:
    """Return the rows of the comparison as text, the header first."""
    header = ("category", "A", "B", "B-A", "95 %", "lost", "won", "p")
    return [
        header,
        *(
            (
                *(r.name, f"{r.a:.1f}", f"{r.b:.1f}", f"{r.difference:+.1f}", f"{r.low:+.1f} {r.high:+.1f}"),
                *(str(r.lost), str(r.won), f"{r.p:.3f}" if r.p >= 0.001 else "<.001"),
            )
            for r in comparison.rows
        ),
    ]
