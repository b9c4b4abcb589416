"""What was measured of efficiency, as tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from ...models.cores import marks
from ...reports.figures import growth_curves, latency_breakdown
from ...results.tables import Rows, markdown_table, print_table
from .measure import DEFINITIONS, SPANS, STEPS, Measured

TIMES = (*STEPS, *SPANS, "total")
GROWING = ("compress", "prefill", "LLM generation", "model generation", "total")


def dense_of(line: Measured, every: Sequence[Measured]) -> Measured | None:
    """Return the dense line that `line` is compared with: at the same frames, with the first attention measured."""
    found = (other for other in every if other.setting.compressor == "none")
    return next((other for other in found if other.setting.frames == line.setting.frames), None)


def change(line: Measured, dense: Measured | None, name: str) -> float | None:
    """Return the change of a time against dense, -0.7 for 70 % less. None for dense itself."""
    return None if dense is None or dense is line else line.ratio(dense, name) - 1


def share(line: Measured) -> float | None:
    """Return the selection's time as a share of LLM generation. None for what selects nothing before the LLM."""
    return line.median("compress") / line.median("LLM generation") if line.compresses else None


def labels(every: Sequence[Measured]) -> list[str]:
    """Return a name for each line, with frames where they differ, and attention where it is not the usual one."""
    several = len({line.setting.frames for line in every}) > 1
    return [
        (f"{line.setting.frames} frames: " if several else "") + name(line, every[0].setting.attention)
        for line in every
    ]


def name(line: Measured, usual: str) -> str:
    """Return the compressor of a line, and its attention where that is not the usual one."""
    spec = "dense" if line.setting.compressor == "none" else line.setting.compressor
    told = line.setting.attention == usual or f"attention={line.setting.attention}" in spec
    return spec if told else f"{spec} ({line.setting.attention})"


def summary(line: Measured, every: Sequence[Measured]) -> dict[str, Any]:
    """Return what the tables show of a line, JSON-ready, in seconds and bytes."""
    dense = dense_of(line, every)
    return {
        "seconds": {time: {"median": line.median(time), "p90": line.p90(time)} for time in TIMES},
        "throughput": line.throughput,
        "visual_tokens": line.tokens_after,
        "peak_memory": line.peak,
        "against_dense": {time: change(line, dense, time) for time in (*SPANS, "total")},
        "compress_share_of_llm_generation": share(line),
    }


def growth(a: Measured, b: Measured) -> dict[str, float | None]:
    """Return the power of the number of frames with which each amount grows: log(ratio) / log(ratio of frames).

    Args:
        a: A setting.
        b: The same setting at more frames.

    Returns:
        By amount. None where the setting does not have the amount.
    """
    amounts = {time: (a.median(time), b.median(time)) for time in GROWING}
    if not a.compresses:
        amounts["compress"] = (0, 0)
    amounts["visual tokens"] = (a.tokens_after, b.tokens_after)
    amounts["memory beyond weights"] = (a.memory_extra, b.memory_extra)
    frames = b.setting.frames / a.setting.frames
    return {
        amount: math.log(more / less) / math.log(frames) if less > 0 and more > 0 else None
        for amount, (less, more) in amounts.items()
    }


def by_frames(every: Sequence[Measured]) -> Iterator[tuple[str, list[Measured]]]:
    """Yield each compressor that was measured at several numbers of frames, and its lines from few frames to many."""
    groups: dict[str, list[Measured]] = {}
    for line in every:
        groups.setdefault(name(line, every[0].setting.attention), []).append(line)
    for label, lines in groups.items():
        if len(lines) > 1:
            yield label, sorted(lines, key=lambda line: line.setting.frames)


# ---- text


def milliseconds(line: Measured, time: str) -> str:
    """Write the median of a time in milliseconds, with the 90th percentile in brackets."""
    return f"{1000 * line.median(time):.1f} ({1000 * line.p90(time):.1f})"


def percent(value: float | None, form: str = "+.1f") -> str:
    """Write a share in percent, and None as nothing."""
    return "" if value is None else f"{100 * value:{form}} %"


def gibibytes(amount: int) -> str:
    """Write bytes in GiB."""
    return f"{amount / 2**30:.2f}" if amount >= 2**30 else f"{amount / 2**30:.4f}"


def overview(every: Sequence[Measured]) -> Rows:
    """Return the table of spans, throughput and memory."""
    rows: Rows = [
        (
            "",
            "visual tokens",
            *(f"{span}, ms" for span in (*SPANS, "total")),
            *(f"{span} against dense" for span in list(SPANS)[1:]),
            "compress / LLM generation",
            "samples per s",
            "peak memory, GiB",
        )
    ]
    for label, line in zip(labels(every), every, strict=True):
        dense = dense_of(line, every)
        rows.append(
            (
                label,
                f"{line.tokens_after:.1f} of {line.samples[0].tokens_before}",
                *(milliseconds(line, span) for span in (*SPANS, "total")),
                *(percent(change(line, dense, span)) for span in list(SPANS)[1:]),
                percent(share(line), ".2f"),
                f"{line.throughput:.3g}",
                gibibytes(line.peak),
            )
        )
    return rows


def steps(every: Sequence[Measured]) -> Rows:
    """Return the table of steps."""
    rows: Rows = [("ms", *STEPS)]
    for label, line in zip(labels(every), every, strict=True):
        shown = {step: milliseconds(line, step) for step in STEPS}
        rows.append((label, *(shown | ({} if line.compresses else {"compress": ""})).values()))
    return rows


def growth_rows(every: Sequence[Measured]) -> Rows:
    """Return the table of growth with the number of frames. It is empty where there is one number of frames."""
    rows: Rows = []
    for label, lines in by_frames(every):
        for a, b in pairwise(lines):
            powers = growth(a, b)
            rows = rows or [("growth", "frames", *powers)]
            cells = ("" if power is None else f"{power:.2f}" for power in powers.values())
            rows.append((label, f"{a.setting.frames} to {b.setting.frames}", *cells))
    return rows


def how(raw: Mapping[str, Any]) -> list[str]:
    """Say how it was measured, and whether other programs disturbed it. raw: efficiency.json."""
    origin = raw["provenance"]
    weights = "random weights" if raw["random_weights"] else "a checkpoint"
    versions = ", ".join(f"{package} {origin['versions'][package]}" for package in ("torch", "transformers"))
    return [
        *([loaded] if (loaded := marks(raw)) else []),
        f"model: {raw['model']}, {weights}, {raw['parameters']:,} parameters, {raw['dtype']}, attention "
        f"{raw['measured'][0]['setting']['attention']} where no other is named",
        f"device: {raw['device']}, {raw['threads']} CPU threads, load average {raw['load_average'][0]:.1f} at the end",
        f"video: {raw['video']}; question: {raw['question']!r}; {raw['new_tokens']} new tokens",
        f"{raw['rounds']} rounds in which all lines took turns in random order, after {raw['warmup']} of warm-up; "
        "times are medians, with the 90th percentile in brackets",
        f"{origin['date']}, commit {origin['git_commit']}, {versions}",
    ]


def tables(raw: Mapping[str, Any]) -> list[Rows]:
    """Return the tables of what was measured. raw: efficiency.json."""
    every = [Measured.from_json(entry) for entry in raw["measured"]]
    growing = growth_rows(every)
    return [overview(every), steps(every), *([growing] if growing else [])]


def markdown(raw: Mapping[str, Any]) -> str:
    """Return the content of efficiency.md. raw: efficiency.json."""
    text = f"# Efficiency of {raw['model']}\n\n" + "".join(f"- {line}\n" for line in how(raw))
    text += "\n" + "\n".join(map(markdown_table, tables(raw))) + "\n"
    return text + "".join(f"- **{term}**: {meaning}\n" for term, meaning in DEFINITIONS.items())


def print_report(console: Console, raw: Mapping[str, Any]) -> None:
    """Print efficiency.md: as it is into files and pipes, and with tables of its width on a terminal."""
    if not console.is_terminal:
        console.print(markdown(raw), markup=False, highlight=False, soft_wrap=True)
        return
    console.print(f"Efficiency of {raw['model']}", style="bold", markup=False, highlight=False)
    for line in how(raw):
        console.print(line, markup=False, highlight=False)
    for table in tables(raw):
        console.print()
        print_table(console, table, left=2 if table[0][0] == "growth" else 1)
    console.print()
    for term, meaning in DEFINITIONS.items():
        console.print(f"{term}: {meaning}", markup=False, highlight=False)


def figures(raw: Mapping[str, Any], output: Path) -> list[Path]:
    """Draw where the time goes and, for several numbers of frames, how time and memory grow.

    Args:
        raw: efficiency.json.
        output: Directory of the files.

    Returns:
        The files.
    """
    every = [Measured.from_json(entry) for entry in raw["measured"]]
    bars = {
        label: {step: line.median(step) for step in STEPS} for label, line in zip(labels(every), every, strict=True)
    }
    title = f"{raw['model']}, {raw['device']}, {raw['dtype']}" + (", LOADED MACHINE" if marks(raw) else "")
    files = list(latency_breakdown(bars, output / "breakdown", title))
    if groups := dict(by_frames(every)):
        amounts: dict[str, Callable[[Measured], float]] = {
            "LLM generation, s": lambda line: line.median("LLM generation"),
            "compress, s": lambda line: line.median("compress") if line.compresses else 0.0,
            "memory beyond weights, GiB": lambda line: line.memory_extra / 2**30,
        }
        panels = {
            amount: {
                label: [(line.setting.frames, of(line)) for line in lines]
                for label, lines in groups.items()
                if of(lines[0]) > 0
            }
            for amount, of in amounts.items()
        }
        drawn = {amount: curves for amount, curves in panels.items() if curves}
        files += growth_curves(drawn, output / "growth", title, "frames")
    return files


def entry(line: Measured, every: Sequence[Measured]) -> dict[str, Any]:
    """Return a line of efficiency.json: what `Measured.from_json` reads, and the summary."""
    return {**asdict(line), "summary": summary(line, every)}
