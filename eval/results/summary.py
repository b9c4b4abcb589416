"""From answers to files: results.json, samples.jsonl and table.md."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from ..benchmarks import Benchmark, benchmark_named
from ..benchmarks.published import hold_against, published_score
from .files import write_json, write_whole
from .sample import LABELS, STAGES, Sample
from .schema import (
    ByHand,
    CategoryScore,
    Failure,
    Parsers,
    Provenance,
    Published,
    RunSettings,
    ScoredSample,
    Scores,
    Seconds,
    Summary,
    Videos,
    VisualTokens,
)
from .stats import IN_WORDS, Overall
from .tables import Rows, markdown_table, print_table

Parser = Literal["current", "legacy"]
"""A reading of raw answers: that of the installed lmms-eval, or that of lmms-eval 0.5.0, which the paper used."""
PARSERS = get_args(Parser)


def join_samples(
    benchmark: Benchmark,
    scored: Mapping[str, Sequence[dict[str, Any]]],
    answered: Sequence[Sample],
    parser: Parser = "current",
) -> list[ScoredSample]:
    """Join lmms-eval's scores with our samples.

    A question without a readable video is wrong, whatever a parser reads from its stand-in answer.

    Args:
        benchmark: What reads lmms-eval's logged samples.
        scored: lmms-eval's logged samples by task.
        answered: Our samples of the same questions, in any order.
        parser: The parser that counts. Where the benchmark does not have it, "current" counts.

    Returns:
        One record per question, by task and number.
    """
    ours = {sample.key: sample for sample in answered}
    return [
        _joined(benchmark, task, logged, ours[task, logged["doc_id"]], parser)
        for task in sorted(scored)
        for logged in sorted(scored[task], key=lambda logged: logged["doc_id"])
    ]


def _joined(benchmark: Benchmark, task: str, logged: dict[str, Any], sample: Sample, parser: Parser) -> ScoredSample:
    failed = sample.error is not None
    readings = {name: (None, 0.0) if failed else read for name, read in benchmark.readings(logged).items()}
    parsed, score = readings.get(parser, readings["current"])
    return ScoredSample(
        task=task,
        category=benchmark.category(task, logged),
        doc_id=sample.doc_id,
        video=sample.video,
        prompt=sample.prompt,
        answer=None if failed else sample.answer,
        parsed=parsed,
        target=benchmark.target(logged),
        score=score,
        scores={name: value for name, (_, value) in readings.items()},
        error=sample.error,
        frames=sample.frames,
        duration_s=round(sample.duration_s, 3),
        tokens_before=sample.tokens_before,
        tokens_after=sample.tokens_after,
        positions=sample.positions,
        reading=sample.reading,
        by_hand=sample.by_hand,
        seconds={stage: round(value, 6) for stage, value in sample.seconds.items()},
    )


def summarise(
    benchmark: Benchmark,
    samples: Sequence[ScoredSample],
    run: RunSettings,
    harness_scores: Mapping[str, float | None] | None = None,
    provenance: Provenance | None = None,
    harness_metrics: Mapping[str, dict[str, float]] | None = None,
) -> Summary:
    """Summarise a run: accuracies, visual tokens, seconds per stage, and every failure.

    Args:
        benchmark: The benchmark, which says what the overall accuracy is.
        samples: All questions of the run, at least one.
        run: What the run was told.
        harness_scores: lmms-eval's own score by task.
        provenance: Where the result comes from.
        harness_metrics: All of lmms-eval's numbers by task and metric.
    """
    answered = [sample for sample in samples if sample.error is None]
    scores = scores_of(benchmark, samples)
    return Summary(
        benchmark=benchmark.name,
        scores=scores,
        parsers=Parsers(
            overall={name: scores_of(benchmark, read_by(samples, name)).overall for name in samples[0].scores},
            differ=sum(len(set(sample.scores.values())) > 1 for sample in samples),
        ),
        samples=len(samples),
        visual_tokens=visual_tokens(answered),
        videos=videos(samples),
        by_hand=ByHand(
            questions=sum(bool(sample.by_hand) for sample in answered),
            frames=sum(len(sample.by_hand) for sample in answered),
            tokens=sum(sum(sample.by_hand.values()) for sample in answered),
        ),
        seconds={stage: _seconds([sample.seconds[stage] for sample in answered]) for stage in STAGES},
        failures=[Failure(s.task, s.doc_id, s.video, s.error) for s in samples if s.error],
        harness_scores=dict(harness_scores or {}),
        harness_metrics=dict(harness_metrics or {}),
        prompts=prompts_digest(samples),
        published=published(benchmark, run, scores.overall),
        run=run,
        provenance=provenance or Provenance(),
    )


def prompts_digest(samples: Iterable[ScoredSample]) -> str:
    """Return a digest of the prompts of answered questions, 16 hexadecimal digits.

    Two runs over the same questions have the same digest if the model got the same text in each.
    """
    prompts = sorted((s.task, s.doc_id, s.prompt) for s in samples if s.prompt is not None)
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16]


def published(benchmark: Benchmark, run: RunSettings, score: float) -> Published | None:
    """Return the published scores to hold a run's score against. None for other than dense runs of all questions."""
    known = published_score(run.model, run.settings.get("sampling", ""), benchmark.name)
    whole = run.limit is None and run.edition is None and set(run.generation) == set(benchmark.tasks)
    if known is None or run.compressor != "none" or not whole:
        return None
    return Published(known.low, known.high, known.source, known.off(score))


def beside_published(summary: Summary) -> tuple[str, bool] | None:
    """Say how a dense run's score compares with the published ones, and whether it is too far off.

    None where there is nothing to compare.
    """
    known = published_score(summary.run.model, summary.run.settings.get("sampling", ""), summary.benchmark)
    return None if summary.published is None or known is None else hold_against(known, summary.scores.overall)


def visual_tokens(answered: Sequence[ScoredSample]) -> VisualTokens:
    """Add up the visual tokens of answered questions."""
    before, after = (sum(getattr(sample, name) for sample in answered) for name in ("tokens_before", "tokens_after"))
    return VisualTokens(
        before=before,
        after=after,
        retention=after / before if before else None,
        before_per_sample=before / len(answered) if answered else None,
        after_per_sample=after / len(answered) if answered else None,
    )


def videos(samples: Sequence[ScoredSample]) -> Videos:
    """Count the distinct videos that were read, by reader, and those of which raw decord gives other frames."""
    readings = {sample.video: sample.reading for sample in samples if sample.reading is not None}.values()
    differ = [reading.decord_differs for reading in readings]
    return Videos(
        read=len(readings),
        readers=dict(Counter(reading.reader for reading in readings)),
        decord_differs=sum(bool(count) for count in differ),
        decord_unknown=differ.count(None),
    )


def scores_of(benchmark: Benchmark, samples: Sequence[ScoredSample]) -> Scores:
    """Compute accuracies in percent, per category and overall. The benchmark says which average is the overall one."""
    by_category: dict[str, list[ScoredSample]] = {}
    for sample in samples:
        by_category.setdefault(sample.category, []).append(sample)
    categories = {name: _category_score(own) for name, own in by_category.items()}
    macro = statistics.fmean(score.accuracy for score in categories.values())
    micro = 100 * statistics.fmean(sample.score for sample in samples)
    return Scores({"macro": macro, "micro": micro}[benchmark.overall], macro, micro, categories)


def read_by(samples: Sequence[ScoredSample], parser: str) -> list[ScoredSample]:
    """Return the samples with this parser's scores, or with the current one's where the benchmark does not have it."""
    return [
        replace(sample, score=sample.scores.get(parser, sample.scores.get("current", sample.score)))
        for sample in samples
    ]


def _category_score(samples: Sequence[ScoredSample]) -> CategoryScore:
    return CategoryScore(
        accuracy=100 * statistics.fmean(sample.score for sample in samples),
        samples=len(samples),
        failed=sum(sample.error is not None for sample in samples),
        unparsed=sum(sample.error is None and sample.parsed is None for sample in samples),
    )


def _seconds(values: Sequence[float]) -> Seconds:
    if not values:
        return Seconds(0, 0.0, 0.0)
    return Seconds(sum(values), statistics.fmean(values), statistics.median(values))


def write_results(output: Path, summary: Summary, samples: Iterable[ScoredSample]) -> None:
    """Write samples.jsonl, table.md and results.json.

    Each file appears whole or not at all. results.json is written last: where it is, the run is finished.
    """
    lines = (json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
    write_whole(output / "samples.jsonl", "".join(lines))
    write_whole(output / "table.md", markdown(summary))
    write_json(output / "results.json", summary.to_json())


# ---- the table of a run

HEADER = ("category", "accuracy", "samples", "failed", "unparsed")


def rows(summary: Summary) -> Rows:
    """Return the table of a run as text: the header, a row per category, and the overall row."""
    categories = summary.scores.categories
    lines: Rows = [
        (name, f"{score.accuracy:.1f}", *(str(count) for count in (score.samples, score.failed, score.unparsed)))
        for name, score in categories.items()
    ]
    every = categories.values()
    totals = (sum(s.samples for s in every), sum(s.failed for s in every), sum(s.unparsed for s in every))
    return [HEADER, *lines, ("overall", f"{summary.scores.overall:.1f}", *map(str, totals))]


def notes(summary: Summary) -> list[str]:
    """Return the lines below the table: what was run, what it cost, what failed."""
    run, tokens = summary.run, summary.visual_tokens
    lines = [f"{run.model}, {run.compressor}, {run.sampling}, {run.dtype}, {run.attention}"]
    if run.keep is not None:
        lines.append(about_keep(summary, run.keep))
    if tokens.retention is not None:
        lines.append(f"visual tokens per sample: {tokens_in_words(tokens)}")
        stages = ", ".join(f"{LABELS[stage]} {seconds.mean:.3f}" for stage, seconds in summary.seconds.items())
        lines.append(f"mean seconds per sample: {stages} (assemble: pooling, and splicing into the text)")
    lines.append(about_videos(summary.videos))
    benchmark = benchmark_named(summary.benchmark)
    kind: Overall = "micro" if benchmark is None else benchmark.overall
    other: Overall = "micro" if kind == "macro" else "macro"
    value = summary.scores.micro if other == "micro" else summary.scores.macro
    lines.append(f"overall: {kind} average, {IN_WORDS[kind]}; {other} average, {IN_WORDS[other]}: {value:.1f}")
    if (own := harness_in_words(summary)) is not None:
        lines.append(own)
    if (beside := beside_published(summary)) is not None:
        lines.append(beside[0])
    if summary.parsers.differ:
        overall = ", ".join(f"{name} {value:.1f}" for name, value in summary.parsers.overall.items())
        lines.append(f"parsers score {summary.parsers.differ} answers differently; overall: {overall}")
    return lines + [f"FAILED {f.task} question {f.doc_id}: {f.error}" for f in summary.failures]


def about_keep(summary: Summary, keep: str) -> str:
    """Say in a line in how many questions --keep named a frame. It is in capitals if it did not in all."""
    answered, kept = summary.samples - len(summary.failures), summary.by_hand
    lacking = answered - kept.questions
    said = f"--keep {keep}: {kept.frames} frames of {kept.questions} questions kept {kept.tokens} tokens by hand"
    return f"{said}; NO FRAME lies there in the videos of {lacking} other questions" if lacking else said


def harness_in_words(summary: Summary) -> str | None:
    """Say lmms-eval's own score of one task. None for several tasks, and where it is a score that is told already."""
    if len(summary.harness_scores) != 1:
        return None
    ((task, own),) = summary.harness_scores.items()
    told = (summary.scores.overall, summary.scores.macro, summary.scores.micro)
    if own is None or any(abs(scale * own - value) < 0.05 for value in told for scale in (1, 100)):
        return None
    return f"lmms-eval's own score of {task}: {own:g}"


def tokens_in_words(tokens: VisualTokens) -> str:
    """Say how many visual tokens a question had before and after compression. At least one must be answered."""
    return (
        f"{tokens.before_per_sample:.1f} -> {tokens.after_per_sample:.1f} "
        f"({100 * (tokens.retention or 0):.2f} % kept, separators included)"
    )


def about_videos(seen: Videos) -> str:
    """Say in a line how the videos were read."""
    readers = ", ".join(f"{count} by {name}" for name, count in seen.readers.items())
    unknown = f" (unknown for {seen.decord_unknown})" if seen.decord_unknown else ""
    others = f"raw decord would have given other frames for {seen.decord_differs}{unknown}"
    return f"videos read: {seen.read}" + (f", {readers}; {others}" if seen.read else "")


def markdown(summary: Summary) -> str:
    """Return the content of table.md."""
    notes_in_list = "".join(f"- {note}\n" for note in notes(summary))
    return f"# {summary.title}\n\n{markdown_table(rows(summary))}\n{notes_in_list}"


def print_summary(console: Console, summary: Summary) -> None:
    """Print the table of a run and the lines below it."""
    print_table(console, rows(summary), summary.title, bold=("overall",))
    for note in notes(summary):
        style = "red" if note.startswith("FAILED") else "bold red" if note.startswith("WARNING") else None
        console.print(note, style=style, markup=False, highlight=False, soft_wrap=True)  # paths stay whole
