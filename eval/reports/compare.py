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
from ..results.side_by_side import called
from ..results.stats import Overall, accuracy, mcnemar, paired_interval
from ..results.summary import prompts_digest, tokens_in_words
from ..results.tables import Rows, parts, print_table
from ..results.terminal import say, stdout

NOT_PROTOCOL = ("compressor", "compressor_settings", "processes", "limit")
"""Settings that two compared runs may differ in: the compressor, and what changes no answer."""

HEADING = 5
"""Characters of an accuracy, such as 100.0: a heading that is no longer needs no room of its own."""

FOR_DEMO = ("model", "tasks", "limit", "output")
"""Flags that say which demo is meant."""

Pair = tuple[ScoredSample, ScoredSample]
"""The same question in the first and in the second run."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        name: What it is called: its compressor, or its directory where both have the same compressor.
        directory: The directory of the run.
        compressor: Spec of the compressor.
        accuracy: Overall accuracy in percent.
        visual_tokens: What the videos cost the LLM.
        failed: Number of questions that failed.
    """

    name: str
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
        a: Accuracy of the first run in percent.
        b: Accuracy of the second run in percent.
        difference: b - a, in percentage points.
        low: Lower end of the difference's 95 % interval.
        high: Upper end of the difference's 95 % interval.
        lost: Number of questions that are right in the first run and wrong in the second.
        won: Number of questions that are wrong in the first run and right in the second.
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
        answer_a: Raw answer of the first run. None where the question failed.
        answer_b: Raw answer of the second run. None where the question failed.
        won: Is it the second run that has the question right?
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
    names = names_of(first, second)
    by_category = {name: [p for p in pairs if p[0].category == name] for name in dict.fromkeys(first.categories)}
    overall = row("overall", pairs, first.overall)
    return Comparison(
        benchmark=first.summary.title,
        overall=first.overall,
        a=side(names[0], first, overall.a),
        b=side(names[1], second, overall.b),
        warnings=[
            *differing_settings(first, second, names),
            *(warning for name, run in zip(names, (first, second), strict=True) for warning in failures(name, run)),
        ],
        rows=[*(row(name, own, "micro") for name, own in by_category.items()), overall],
        flips=[flip(left, right) for left, right in pairs if left.score != right.score],
    )


def names_of(a: Run, b: Run) -> tuple[str, str]:
    """Return what two runs are called: by their compressors, or by their directories where these are the same.

    A and B, or 1 and 2, would be taken for answers: the options of the questions are letters.
    """
    specs = a.summary.run.compressor, b.summary.run.compressor
    if specs[0] != specs[1]:
        return called(specs[0]), called(specs[1])
    paths = [run.directory.resolve() for run in (a, b)]
    if paths[0] == paths[1]:
        return str(a.directory), str(b.directory)
    left, right = (path.parts for path in paths)
    # The shortest ends of the paths that differ.
    ends = ((Path(*left[-n:]), Path(*right[-n:])) for n in range(1, max(len(left), len(right)) + 1))
    first, second = next((x, y) for x, y in ends if x != y)
    return str(first), str(second)


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
    """Describe a question that the first run (`left`) and the second (`right`) do not both have right."""
    return Flip(
        task=left.task,
        doc_id=left.doc_id,
        video=left.video,
        target=left.target,
        answer_a=left.answer,
        answer_b=right.answer,
        won=right.score > left.score,
    )


def side(name: str, run: Run, overall: float) -> Side:
    """Describe one of the runs. name: see `names_of`; overall: its overall accuracy in percent."""
    summary = run.summary
    return Side(
        name=name,
        directory=str(run.directory),
        compressor=summary.run.compressor,
        accuracy=overall,
        visual_tokens=summary.visual_tokens,
        failed=len(summary.failures),
    )


def differing_settings(a: Run, b: Run, titles: tuple[str, str]) -> list[str]:
    """Return a line for each setting that differs between the runs, NOT_PROTOCOL left out. titles: see `names_of`."""

    def protocol(run: Run) -> dict[str, object]:
        return dict(flat({name: v for name, v in run.summary.run.to_json().items() if name not in NOT_PROTOCOL}))

    left, right = protocol(a), protocol(b)
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    return [f"{name} differs: {left.get(name)!r} in {titles[0]}, {right.get(name)!r} in {titles[1]}" for name in names]


def failures(name: str, run: Run) -> list[str]:
    """Return a warning if questions of the run failed. name: see `names_of`."""
    failed = len(run.summary.failures)
    said = f"{failed} of the questions of {name} failed (listed in its results.json) and count as wrong"
    return [said] if failed else []


def print_comparison(console: Console, comparison: Comparison, flips: bool = False) -> None:
    """Print the comparison, and with `flips` every question that only one of the runs has right."""

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    short = headings(comparison, console.width)
    for heading, side in zip(short, (comparison.a, comparison.b), strict=True):
        name = side.name if heading == side.name else f"{heading} {side.name}"
        line(f"{name}: {_tokens(side.visual_tokens)}: {side.directory}")
    for warning in comparison.warnings:
        line(f"WARNING: {warning}", "bold red")
    print_table(console, table(comparison, short), comparison.benchmark, bold=("overall",))
    a, b = short
    say(
        console,
        f"{a}, {b}: accuracy, %, overall the {comparison.overall} average; change: {b} minus {a}; 95 %: its paired "
        f"bootstrap interval; lost: right in {a}, wrong in {b}; won: the other way; p: exact McNemar test, not "
        "corrected for the number of rows",
    )
    for flip in comparison.flips if flips else ():
        left, right = ("no answer" if answer is None else repr(answer) for answer in (flip.answer_a, flip.answer_b))
        direction = "won" if flip.won else "lost"
        answers = f"{comparison.a.name} {left}, {comparison.b.name} {right}"
        line(f"{direction} {flip.task} {flip.doc_id}: target {flip.target}, {answers}, {flip.video}")


def headings(comparison: Comparison, width: int) -> tuple[str, str]:
    """Return what the table's columns call the two runs.

    They are the runs' names, as long as the table fits into `width` columns of the terminal. Otherwise a name of more
    than HEADING characters becomes a number in brackets.
    """
    a, b = comparison.a.name, comparison.b.name
    if len(parts(table(comparison, (a, b)), width)) == 1:
        return a, b
    return a if len(a) <= HEADING else "[1]", b if len(b) <= HEADING else "[2]"


def _tokens(tokens: VisualTokens) -> str:
    if tokens.retention is None:
        return "no question was answered"
    return f"visual tokens per sample {tokens_in_words(tokens)}"


def table(comparison: Comparison, titles: tuple[str, str]) -> Rows:
    """Return the rows of the comparison as text, the header first. titles: of the two runs."""
    header = ("category", *titles, "change", "95 %", "lost", "won", "p")
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
