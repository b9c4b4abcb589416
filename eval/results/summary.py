"""From answers to files: results.json, samples.jsonl and table.md."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table

from ..benchmarks import BENCHMARKS, Benchmark
from .files import markdown_table, write_json, write_whole
from .sample import LABELS, STAGES, Sample
from .stats import IN_WORDS, Overall

Parser = Literal["current", "legacy"]
PARSERS = get_args(Parser)
Line = dict[str, Any]
"""One question of samples.jsonl."""


def join_samples(
    benchmark: Benchmark, scored: dict[str, list[Line]], answered: list[Sample], parser: Parser = "current"
) -> list[Line]:
    """One line per question, lmms-eval's scoring and our answer side by side, by task and question.

    parser: whose reading of the raw answers counts, that of this lmms-eval or of 0.5.0, the paper's; a line's "scores"
    are by every one that there is for the benchmark. A question without a readable video is wrong, whatever a parser
    makes of its stand-in answer.
    """
    ours = {(sample.task, sample.doc_id): sample for sample in answered}
    lines = []
    for task in sorted(scored):
        for logged in sorted(scored[task], key=lambda logged: logged["doc_id"]):
            sample = ours[task, logged["doc_id"]]
            failed = sample.error is not None
            readings = {name: (None, 0.0) if failed else read for name, read in benchmark.readings(logged).items()}
            parsed, score = readings.get(parser, readings["current"])
            lines.append(
                {
                    "task": task,
                    "category": benchmark.category(task, logged),
                    "doc_id": sample.doc_id,
                    "video": sample.video,
                    "prompt": sample.prompt,
                    "answer": None if failed else sample.answer,
                    "parsed": parsed,
                    "target": benchmark.target(logged),
                    "score": score,
                    "scores": {name: value for name, (_, value) in readings.items()},
                    "error": sample.error,
                    "frames": sample.frames,
                    "duration_s": round(sample.duration_s, 3),
                    "tokens_before": sample.tokens_before,
                    "tokens_after": sample.tokens_after,
                    "positions": sample.positions,
                    "reading": sample.reading,
                    "seconds": {stage: round(value, 6) for stage, value in sample.seconds.items()},
                }
            )
    return lines


def summarise(benchmark: Benchmark, lines: list[Line]) -> dict[str, Any]:
    """Scores in percent per category and overall, tokens, seconds per stage, and every failure."""
    parsers = {name: scores(benchmark, read_by(lines, name))["overall"] for name in lines[0]["scores"]}
    seen = [line for line in lines if line["error"] is None]
    before, after = (sum(line[f"tokens_{when}"] for line in seen) for when in ("before", "after"))
    return {
        "benchmark": benchmark.name,
        "scores": scores(benchmark, lines),
        "parsers": {
            "overall": parsers,
            "differ": sum(len(set(line["scores"].values())) > 1 for line in lines),
        },
        "samples": len(lines),
        "visual_tokens": {
            "before": before,
            "after": after,
            "retention": after / before if before else None,
            "before_per_sample": before / len(seen) if seen else None,
            "after_per_sample": after / len(seen) if seen else None,
        },
        "videos": videos(lines),
        "seconds": {stage: _times([line["seconds"][stage] for line in seen]) for stage in STAGES},
        "failures": [{k: line[k] for k in ("task", "doc_id", "video", "error")} for line in lines if line["error"]],
    }


def videos(lines: list[Line]) -> dict[str, Any]:
    """How many distinct videos were read, by what, and of how many raw decord would have given other frames."""
    read = {line["video"]: line["reading"] for line in lines if line.get("reading")}  # older runs do not say
    differ = [reading["decord_differs"] for reading in read.values()]
    return {
        "read": len(read),
        "readers": dict(Counter(reading["reader"] for reading in read.values())),
        "decord_differs": sum(bool(count) for count in differ),
        "decord_unknown": differ.count(None),
    }


def scores(benchmark: Benchmark, lines: list[Line]) -> dict[str, Any]:
    """In percent, per category and overall, which is one of the two averages."""
    names = _categories(lines)
    categories = {name: _score([line for line in lines if line["category"] == name]) for name in names}
    averages = {
        "macro": statistics.fmean(score["accuracy"] for score in categories.values()),
        "micro": 100 * statistics.fmean(line["score"] for line in lines),
    }
    return {"overall": averages[benchmark.overall], **averages, "categories": categories}


def read_by(lines: list[Line], parser: str) -> list[Line]:
    """The lines with this parser's scores; with the current one's where a benchmark has no such."""
    return [{**line, "score": line["scores"].get(parser, line["scores"]["current"])} for line in lines]


def _categories(lines: list[Line]) -> list[str]:
    return list(dict.fromkeys(line["category"] for line in lines))


def _score(lines: list[Line]) -> dict[str, Any]:
    return {
        "accuracy": 100 * statistics.fmean(line["score"] for line in lines),
        "samples": len(lines),
        "failed": sum(line["error"] is not None for line in lines),
        "unparsed": sum(line["error"] is None and line["parsed"] is None for line in lines),
    }


def _times(values: list[float]) -> dict[str, float]:
    return {
        "total": sum(values),
        "mean": statistics.fmean(values) if values else 0.0,
        "median": statistics.median(values) if values else 0.0,
    }


def write_results(output: Path, summary: dict[str, Any], lines: Iterable[Line]) -> None:
    """Each file appears whole or not at all; results.json last, so that its presence means a finished run."""
    write_whole(output / "samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_whole(output / "table.md", markdown(summary))
    write_json(output / "results.json", summary)


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """One row per category in HEADER's columns, as text; the overall line last."""
    tasks = summary["scores"]["categories"]
    lines = [(name, *(f"{t['accuracy']:.1f}", *(str(t[k]) for k in HEADER[2:]))) for name, t in tasks.items()]
    totals = (str(sum(t[k] for t in tasks.values())) for k in HEADER[2:])
    return [*lines, ("overall", f"{summary['scores']['overall']:.1f}", *totals)]


HEADER = ("category", "accuracy", "samples", "failed", "unparsed")


def notes(summary: dict[str, Any]) -> list[str]:
    """The lines below the table: what was run, what it cost, what failed."""
    tokens, run = summary["visual_tokens"], summary["run"]
    lines = [f"{run['model']}, {run['compressor']}, {run['sampling']}, {run['dtype']}, {run['attention']}"]
    if tokens["retention"] is not None:
        lines.append(
            f"visual tokens per sample: {tokens['before_per_sample']:.1f} -> {tokens['after_per_sample']:.1f} "
            f"({100 * tokens['retention']:.2f} % kept, separators included)"
        )
        stages = ", ".join(f"{LABELS[stage]} {times['mean']:.3f}" for stage, times in summary["seconds"].items())
        lines.append(f"mean seconds per sample: {stages} (assemble: pooling, and splicing into the text)")
    lines.append(about_videos(summary["videos"]))
    kind = BENCHMARKS[summary["benchmark"]].overall
    other: Overall = "micro" if kind == "macro" else "macro"
    value = summary["scores"][other]
    lines.append(f"overall: {kind} average, {IN_WORDS[kind]}; {other} average, {IN_WORDS[other]}: {value:.1f}")
    if summary["parsers"]["differ"]:
        overall = ", ".join(f"{name} {value:.1f}" for name, value in summary["parsers"]["overall"].items())
        lines.append(f"parsers score {summary['parsers']['differ']} answers differently; overall: {overall}")
    lines += [f"FAILED {f['task']} question {f['doc_id']}: {f['error']}" for f in summary["failures"]]
    return lines


def about_videos(seen: dict[str, Any]) -> str:
    readers = ", ".join(f"{count} by {name}" for name, count in seen["readers"].items())
    unknown = f" (unknown for {seen['decord_unknown']})" if seen["decord_unknown"] else ""
    others = f"raw decord would have given other frames for {seen['decord_differs']}{unknown}"
    return f"videos read: {seen['read']}" + (f", {readers}; {others}" if seen["read"] else "")


def markdown(summary: dict[str, Any]) -> str:
    table = markdown_table([HEADER, *rows(summary)])
    return f"# {summary['benchmark']}\n\n{table}\n" + "".join(f"- {note}\n" for note in notes(summary))


def print_table(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title=summary["benchmark"])
    for column in HEADER:
        table.add_column(column, justify="left" if column == "category" else "right")
    for row in rows(summary):
        table.add_row(*row, style="bold" if row[0] == "overall" else None)
    console.print(table)
    for note in notes(summary):
        red = "red" if note.startswith("FAILED") else None
        console.print(note, style=red, markup=False, highlight=False, soft_wrap=True)  # so that paths stay whole
