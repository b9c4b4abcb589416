"""python -m eval table N: run what a table of the paper needs, and set it beside the published numbers."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava.mm_utils import get_model_name_from_path

from ..benchmarks import BENCHMARKS
from ..models import protocol_for
from ..reports.compare import NOT_PROTOCOL, pair
from ..reports.figures import Share, beside_published
from ..results.files import markdown_table, prepare_directory, write_whole
from ..results.load import Run, load_run
from ..results.stats import IN_WORDS, paired_interval, resampled_accuracies
from ..results.summary import PARSERS, Parser
from ..results.terminal import stdout
from ..run.command import run_config
from ..run.distributed import Place
from ..run.flags import status
from ..run.sweep import Rows, Sweep, folder
from .published import TITLES, Column, PaperTable, Part, Row, average_pct, next_below, paper_table

Runs = dict[str, Run]
"""Finished runs of one setting, by benchmark."""
NOTES = (
    "measured: accuracy, %, or percent of dense where it says so; empty: not measured yet",
    "published: the paper's numbers, not measured here; difference: measured - published",
    "against NAME: accuracy - NAME's on the same questions, in points, and its 95 % paired bootstrap interval; NAME is "
    "dense, and the method that the paper ranks next below at the same retention",
)
AVERAGE = (
    "average %: the mean over the columns of 100 · score / dense score, as in the paper; its intervals take dense's "
    "scores as uncertain, too"
)
READ_OFF = "the paper gives these numbers as a bar chart, off which they were read"


@dataclass(frozen=True)
class Delta:
    """Accuracy less another's on the same questions, and its 95 % interval, in percentage points."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Cell:
    """published, measured: both in percent, or both in percent of dense. None where there is no such number yet."""

    published: float | None
    measured: float | None
    dense: Delta | None = None
    below: Delta | None = None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None or self.published is None else self.measured - self.published


@dataclass(frozen=True)
class Measured:
    """A row, filled as far as its runs are finished. cells: by column. below: what their `below` is against."""

    row: Row
    runs: Runs
    cells: dict[str, Cell]
    average: Cell
    below: Row | None


def prepare_table(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check all runs before the first begins; returns what runs them and writes the table."""
    table = paper_table(arguments.table)
    if arguments.model is not None:
        table = replace(table, parts=tuple(part_for(table, model) for model in arguments.model))
    parser = arguments.parser
    if parser not in PARSERS:
        raise ValueError(f"--parser {parser!r} is unknown; there are {', '.join(PARSERS)}")
    prepare_directory("--output", arguments.output)
    render(table, arguments.runs, parser)  # finds out now what is wrong with runs that are there already
    if arguments.render_only:
        return lambda: write(table, arguments.runs, arguments.output, parser)

    sweeps = []
    for part in table.parts:
        for benchmark in chosen_benchmarks(table, arguments.only):
            own = {
                "tasks": benchmark,
                "model": part.checkpoint,
                "output": directory(arguments.runs, benchmark, part.checkpoint),
                "data": arguments.data_root and arguments.data_root / benchmark,
                "overwrite": False,
                "parser": "current",  # of the runs; their results have the scores by all
            }
            config = run_config(argparse.Namespace(**{**vars(arguments), **own}), "none")
            sweeps.append(Sweep(config, [row.spec for row in part.rows]))
    for sweep in sweeps:
        sweep.check()
    place = Place.find(arguments.num_gpus, sweeps[0].config.device, sweeps[0].config.zero3 is not None)

    def finish() -> int:
        failed = 0
        for sweep in sweeps:
            failed += sweep.run(place)
            if place.rank == 0:
                write(table, arguments.runs, arguments.output, parser)  # a grid takes long: show what there is
        return status(failed)

    return finish


def part_for(table: PaperTable, model: str) -> Part:
    """The part about the model's family, with that model as its checkpoint; ValueError where there is none."""
    harness_name = protocol_for(model).harness_name
    part = next((part for part in table.parts if part.protocol == harness_name), None)
    if part is None:
        known = ", ".join(f"{part.model} ({part.protocol})" for part in table.parts)
        raise ValueError(f"--model {model} is evaluated as {harness_name}, but {table.title} is about {known}")
    return replace(part, checkpoint=model)


def chosen_benchmarks(table: PaperTable, only: str | None) -> tuple[str, ...]:
    if only is None:
        return table.benchmarks
    names = tuple(dict.fromkeys(name.strip() for name in only.split(",") if name.strip()))
    if not names or not set(names) <= set(table.benchmarks):
        raise ValueError(f"--only {only!r} must be some of {', '.join(table.benchmarks)}, the table's benchmarks")
    return names


def directory(runs: Path, benchmark: str, checkpoint: str) -> Path:
    """Of all of a model's runs on a benchmark, as `python -m eval run` and `sweep` have it."""
    return runs / benchmark / get_model_name_from_path(checkpoint)


# ---- from runs to numbers


def measure(table: PaperTable, part: Part, runs: Path, parser: Parser = "current") -> list[Measured]:
    """The part's rows with what is finished below `runs`. parser: whose reading of the answers counts.

    Raises ValueError where a run is not what its place says, or two do not answer the same questions.
    """
    finished = {
        row.spec: {name: run.read_by(parser) for name, run in finished_runs(table, part, row, runs).items()}
        for row in part.rows
    }
    dense_row = part.rows[0]
    dense_runs = finished[dense_row.spec]
    dense = scores(table, dense_runs)
    result = []
    for row in part.rows:
        own, below = finished[row.spec], next_below(row, part.rows)
        below_runs = finished[below.spec] if below else {}
        absolute = scores(table, own)
        share = {name: 100 * score / dense[name] for name, score in absolute.items() if dense.get(name)}
        measured = share if table.relative else absolute
        cells = {
            column.name: Cell(
                published=row.published[column.name],
                measured=measured.get(column.name),
                dense=None if row is dense_row else delta(column, dense_runs, own),
                below=delta(column, below_runs, own),
            )
            for column in table.columns
        }
        average = Cell(
            published=row.average,
            measured=average_of(table, dense_runs, own),
            dense=None if row is dense_row else average_delta(table, dense_runs, dense_runs, own),
            below=average_delta(table, dense_runs, below_runs, own),
        )
        result.append(Measured(row, own, cells, average, below))
    return result


def average_of(table: PaperTable, dense: Runs, own: Runs) -> float | None:
    """The paper's average, in percent of dense; None where it has none, or a column is not measured or 0 of dense."""
    absolute, base = scores(table, own), scores(table, dense)
    complete = table.averaged and len(absolute) == len(table.columns) and all(base.get(name) for name in absolute)
    return average_pct(absolute, base) if complete else None


def average_delta(table: PaperTable, dense: Runs, other: Runs, own: Runs) -> Delta | None:
    """own's average less other's. Every resample draws questions of each benchmark, and takes the same ones for all
    columns and settings, dense included; one in which dense has a column all wrong does not count."""
    averages = [average_of(table, dense, runs) for runs in (own, other)]
    if averages[0] is None or averages[1] is None:
        return None
    total = np.zeros(())
    for i, benchmark in enumerate(table.benchmarks):
        run = own[benchmark]
        by_setting = [[line["score"] for _, line in pair(run, runs[benchmark])] for runs in (own, other, dense)]
        drawn = resampled_accuracies(by_setting, run.categories, run.overall, seed=i)
        for column in table.columns:
            if column.benchmark == benchmark:
                mine, theirs, base = drawn[column.category].T
                with np.errstate(divide="ignore", invalid="ignore"):
                    total = total + 100 * (mine - theirs) / base
    low, high = np.percentile(total[np.isfinite(total)] / len(table.columns), (2.5, 97.5))
    return Delta(averages[0] - averages[1], float(low), float(high))


def finished_runs(table: PaperTable, part: Part, row: Row, runs: Path) -> Runs:
    """A row's, so far; ValueError for one that is of something else, or of some of the benchmark's tasks only."""
    found = {}
    for benchmark in table.benchmarks:
        path = directory(runs, benchmark, part.checkpoint) / folder(row.spec)
        if not (path / "results.json").exists():  # which is written last
            continue
        run = load_run(path)
        said = run.summary["benchmark"], run.summary["run"]["compressor"]
        if said != (benchmark, row.spec):
            raise ValueError(f"{path} holds a run of {said[1]} on {said[0]}, not of {row.spec} on {benchmark}")
        if lacking := set(BENCHMARKS[benchmark].tasks) - {line["task"] for line in run.lines}:
            raise ValueError(
                f"{path} lacks {', '.join(sorted(lacking))}, tasks of {benchmark}: run it again with --overwrite"
            )
        found[benchmark] = run
    return found


def scores(table: PaperTable, runs: Runs) -> dict[str, float]:
    """Accuracy in percent by column, of the columns that are measured."""
    found = {}
    for column in table.columns:
        if column.benchmark not in runs:
            continue
        every = runs[column.benchmark].summary["scores"]
        if column.category is None:
            found[column.name] = every["overall"]
        elif column.category in every["categories"]:
            found[column.name] = every["categories"][column.category]["accuracy"]
    return found


def delta(column: Column, other: Runs, own: Runs) -> Delta | None:
    """own's accuracy less other's, over the column's questions; None where one of them is not measured."""
    if column.benchmark not in own or column.benchmark not in other:
        return None
    run = own[column.benchmark]
    pairs = [
        (left, right)
        for left, right in pair(other[column.benchmark], run)
        if column.category in (None, left["category"])
    ]
    if not pairs:
        return None
    a, b = ([line["score"] for line in lines] for lines in zip(*pairs, strict=True))
    return Delta(*paired_interval(a, b, [left["category"] for left, _ in pairs], run.overall))


def fingerprint(run: Run) -> dict[str, str]:
    """How the run was made, besides its compressor: what must be equal for two runs to be comparable.

    frames: fewest to most that a question got. prompts_sha256: of [task, doc_id, prompt] of every question, each as a
    line of JSON.
    """
    summary = run.summary
    asked = "".join(json.dumps([line["task"], line["doc_id"], line["prompt"]]) + "\n" for line in run.lines)
    frames = sorted({line["frames"] for line in run.lines if line["error"] is None})
    settings = {k: v for k, v in summary["run"].items() if k not in (*NOT_PROTOCOL, "generation")}
    return {
        **{name: plain(value) for name, value in settings.items()},
        "generation": " or ".join(dict.fromkeys(map(plain, summary["run"].get("generation", {}).values()))),
        "frames": " to ".join(map(str, dict.fromkeys((frames[0], frames[-1])))) if frames else "none",
        "questions": f"{len(run.lines)}, {summary['run']['limit'] or 'all'} per task",
        "failed": str(len(summary["failures"])),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "commit": str(summary["provenance"]["git_commit"]),
        "machine": str(summary["provenance"]["device"]),
    }


def plain(value: Any) -> str:
    """{"torch": "2.6", "av": None} as "torch 2.6"."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items() if part is not None)
    return str(value)


# ---- from numbers to files


def render(table: PaperTable, runs: Path, parser: Parser = "current") -> dict[str, str]:
    """File names and contents: the table in Markdown, LaTeX and CSV."""
    parts, stem = measure_parts(table, runs, parser), file_stem(table)
    return {
        f"{stem}.md": markdown(table, parts),
        f"{stem}.tex": latex(table, parts),
        f"{stem}.csv": comma_separated(table, parts),
    }


def write(table: PaperTable, runs: Path, output: Path, parser: Parser = "current") -> int:
    """The files of `render`, and for a figure, which is about one model, its drawing."""
    written = []
    for name, text in render(table, runs, parser).items():
        write_whole(output / name, text)
        written.append(output / name)
    if table.relative:
        ((part, measured),) = measure_parts(table, runs, parser)
        ours = part.checkpoint if any(line.runs for line in measured) else "nothing yet"
        title = [table.title, f"published: {part.model}; measured: {ours}", *warnings(table, part, measured)]
        columns = [column.name for column in table.columns]
        written += beside_published(columns, shares(table, measured), output / file_stem(table), "\n".join(title))
    for file in written:
        stdout().print(f"written: {file}", markup=False, highlight=False, soft_wrap=True)
    return 0


def file_stem(table: PaperTable) -> str:
    return table.name if table.name.startswith("figure") else f"table{table.name}"


def measure_parts(table: PaperTable, runs: Path, parser: Parser) -> Parts:
    return [(part, measure(table, part, runs, parser)) for part in table.parts]


def shares(table: PaperTable, measured: list[Measured]) -> dict[str, list[Share]]:
    """What a figure has to show of each method, dense left out, in each column. The interval is that of the difference
    to dense, whose own accuracy counts as certain in it."""
    dense = scores(table, measured[0].runs)

    def interval(column: str, cell: Cell) -> tuple[float, float, float] | None:
        if cell.measured is None or cell.dense is None:
            return None
        low, high = (100 + 100 * points / dense[column] for points in (cell.dense.low, cell.dense.high))
        return cell.measured, low, high

    return {
        line.row.label: [Share(line.row.published[name], interval(name, cell)) for name, cell in line.cells.items()]
        for line in measured[1:]
    }


Parts = list[tuple[Part, list[Measured]]]


def number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else format(value, form)


def grid(table: PaperTable, measured: list[Measured]) -> list[Rows]:
    """The header, and for each method its lines of text; what has no number is empty."""
    unit = "measured, % of dense" if table.relative else "measured"
    average = ("average %",) if table.averaged else ()
    groups: list[Rows] = [[("method", "", *(column.name for column in table.columns), *average)]]
    for line in measured:
        cells = [*line.cells.values(), *((line.average,) if table.averaged else ())]
        group: Rows = [
            (line.row.label, unit, *(number(cell.measured) for cell in cells)),
            ("", "published", *(number(cell.published, "") for cell in cells)),
            ("", "difference", *(number(cell.difference, "+.1f") for cell in cells)),
        ]
        if line.row is not measured[0].row:
            group.append(("", f"against {measured[0].row.label}", *(str(cell.dense or "") for cell in cells)))
        if line.below is not None:
            group.append(("", f"against {line.below.label}", *(str(cell.below or "") for cell in cells)))
        groups.append(group)
    return groups


def token_rows(table: PaperTable, measured: list[Measured]) -> Rows:
    """What the LLM really saw: visual tokens per question, and the share of them that was kept."""
    rows: Rows = [("visual tokens", *table.benchmarks)]
    for line in measured:
        rows.append((line.row.label, *(tokens(line.runs.get(benchmark)) for benchmark in table.benchmarks)))
    return rows


def tokens(run: Run | None) -> str:
    seen = run.summary["visual_tokens"] if run else {"retention": None}
    if seen["retention"] is None:
        return ""
    return f"{seen['after_per_sample']:.1f} of {seen['before_per_sample']:.1f} ({100 * seen['retention']:.2f} %)"


def fingerprints(table: PaperTable, measured: list[Measured]) -> Iterator[tuple[str, str]]:
    """(benchmark, how it was measured); several of a benchmark where its runs differ, each with their names."""
    for benchmark in table.benchmarks:
        groups: dict[str, list[str]] = {}
        for line in measured:
            if benchmark in line.runs:
                text = "; ".join(f"{name}: {value}" for name, value in fingerprint(line.runs[benchmark]).items())
                groups.setdefault(text, []).append(line.row.label)
        for text, labels in groups.items():
            yield benchmark, text if len(groups) == 1 else f"{', '.join(labels)}: {text}"


def notes(table: PaperTable, part: Part, measured: list[Measured]) -> list[str]:
    whole = [column for column in table.columns if column.category is None]
    averages = ", ".join(f"{column.name} {IN_WORDS[BENCHMARKS[column.benchmark].overall]}" for column in whole)
    return [
        *warnings(table, part, measured),
        *NOTES,
        *([READ_OFF] if table.relative else []),
        *([f"accuracy: {averages}"] if averages else []),
        *([AVERAGE] if table.averaged else []),
        f"settings: {'; '.join(f'{line.row.label} is {line.row.spec}' for line in measured)}",
    ]


def warnings(table: PaperTable, part: Part, measured: list[Measured]) -> list[str]:
    """What keeps this from being the paper's table."""
    limits = {run.summary["run"]["limit"] for line in measured for run in line.runs.values()} - {None}
    found = [f"TRIAL, not the table: only {', '.join(map(str, sorted(limits)))} questions per task"] if limits else []
    every = (other for name in TITLES for other in paper_table(name).parts)
    published = {get_model_name_from_path(other.checkpoint) for other in every if other.model == part.model}
    if get_model_name_from_path(part.checkpoint) not in published:
        found.append(f"ANOTHER CHECKPOINT: published is {part.model}, measured is {part.checkpoint}")
    return found


def markdown(table: PaperTable, parts: Parts) -> str:
    text = f"# {table.title}\n"
    for part, measured in parts:
        text += f"\n## {part.model}: {part.checkpoint}\n\n"
        text += "".join(f"- {note}\n" for note in notes(table, part, measured)) + "\n"
        text += markdown_table([line for group in grid(table, measured) for line in group])
        text += "\n" + markdown_table(token_rows(table, measured)) + "\n"
        text += "".join(f"- {benchmark}: {how}\n" for benchmark, how in fingerprints(table, measured))
    return text


SHRUNK = "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%\n"
"""LaTeX for what is not to be wider than the page."""


def latex(table: PaperTable, parts: Parts) -> str:
    """A table* for each part and below it, as text, how it was measured; needs the packages booktabs and graphicx. What
    is wider than the page shrinks."""

    def line(cells: tuple[str, ...]) -> str:
        return " & ".join(re.sub(r"-(?=\d)", "$-$", escaped(cell)) for cell in cells) + r" \\" + "\n"

    def framed(caption: str, groups: list[Rows], left: int) -> str:
        columns = "l" * left + "r" * (len(groups[0][0]) - left)
        body = "\\midrule\n".join("".join(line(cells) for cells in group) for group in groups)
        return (
            f"\\begin{{table*}}\n\\centering\\scriptsize\n\\caption{{{escaped(caption)}.}}\\smallskip\n"
            f"{SHRUNK}\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}%\n}}\n\\end{{table*}}\n"
        )

    text = "% \\usepackage{booktabs,graphicx}\n"
    for part, measured in parts:
        header, *rest = token_rows(table, measured)
        title = f"{table.title}. {part.model}"
        text += framed(f"{title}. {'. '.join(notes(table, part, measured))}", grid(table, measured), 2)
        text += framed(f"{title}: visual tokens that the LLM saw, per question", [[header], rest], 1)
        text += "{\\scriptsize\\raggedright\n"
        for benchmark, how in fingerprints(table, measured):
            breakable = re.sub("[0-9a-f]{8}(?=[0-9a-f])", r"\g<0>\\allowbreak{}", escaped(f"{benchmark}: {how}"))
            text += f"{breakable}\\par\n"  # a hash is longer than a line
        text += "}\n"
    return text


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "²": r"\textsuperscript{2}",
    "·": r"$\cdot$",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def escaped(text: str) -> str:
    return "".join(SPECIAL.get(char, char) for char in text)


def comma_separated(table: PaperTable, parts: Parts) -> str:
    """One line for each method and column, at full precision, with how it was measured."""
    lines = []
    for part, measured in parts:
        for line in measured:
            own = {
                "table": table.title,
                "published for": part.model,
                "method": line.row.label,
                "spec": line.row.spec,
                "retention": line.row.retention,
            }
            for column in table.columns:
                cell, run = line.cells[column.name], line.runs.get(column.benchmark)
                lines.append(
                    {
                        **own,
                        "column": column.name,
                        **compared(cell),
                        "against": line.below.label if line.below else None,
                        **({} if run is None else visual_tokens(run) | fingerprint(run)),
                    }
                )
            if table.averaged:
                lines.append({**own, "column": "average %", **compared(line.average)})
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def compared(cell: Cell) -> dict[str, Any]:
    result: dict[str, Any] = {
        "published": cell.published,
        "measured": cell.measured,
        "difference": cell.difference,
    }
    for name, found in (("dense", cell.dense), ("next", cell.below)):
        result |= {
            f"against_{name}": found and found.difference,
            f"against_{name}_low": found and found.low,
            f"against_{name}_high": found and found.high,
        }
    return result


def visual_tokens(run: Run) -> dict[str, Any]:
    found = run.summary["visual_tokens"]
    return {
        "visual_tokens_before": found["before_per_sample"],
        "visual_tokens_after": found["after_per_sample"],
        "actual_retention": found["retention"],
    }
