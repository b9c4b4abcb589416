"""A table of the paper, measured again: from numbers to files in Markdown, LaTeX and CSV, and a figure's drawing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.mm_utils import get_model_name_from_path

from ..benchmarks import BENCHMARKS
from ..reports.figures import Share, beside_published
from ..results.files import write_whole
from ..results.load import Run
from ..results.stats import IN_WORDS
from ..results.summary import Parser
from ..results.tables import LATEX_PACKAGES, Rows, csv_table, latex_notes, latex_table, markdown_table
from ..results.terminal import stdout
from .published import TITLES, PaperTable, Part, paper_table
from .tables import Cell, Measured, fingerprint, measure, scores

Parts = list[tuple[Part, list[Measured]]]
"""The parts of a table with their rows."""
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


def render(table: PaperTable, runs: Path, parser: Parser = "current") -> dict[str, str]:
    """Write the table in Markdown, LaTeX and CSV.

    Args:
        table: The table.
        runs: Directory of all runs.
        parser: The parser that counts.

    Returns:
        Contents by file name.
    """
    parts, stem = measure_parts(table, runs, parser), file_stem(table)
    return {
        f"{stem}.md": markdown(table, parts),
        f"{stem}.tex": latex(table, parts),
        f"{stem}.csv": comma_separated(table, parts),
    }


def write(table: PaperTable, runs: Path, output: Path, parser: Parser = "current") -> int:
    """Write the files of `render`, and draw a figure of the paper. Return the exit status."""
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
    """Return the name of the table's files, without their ending."""
    return table.name if table.name.startswith("figure") else f"table{table.name}"


def measure_parts(table: PaperTable, runs: Path, parser: Parser) -> Parts:
    """Measure all parts of a table."""
    return [(part, measure(table, part, runs, parser)) for part in table.parts]


def shares(table: PaperTable, measured: list[Measured]) -> dict[str, list[Share]]:
    """Return what a figure shows of each method: a share of dense in each column, dense left out.

    The interval is that of the difference to dense. It takes dense's own accuracy as certain.
    """
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


# ---- text


def number(value: float | None, form: str = ".1f") -> str:
    """Write a number, and None as nothing."""
    return "" if value is None else format(value, form)


def grid(table: PaperTable, measured: list[Measured]) -> list[Rows]:
    """Return the table as groups of rows: the header, and a group for each method. What has no number is empty."""
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
    """Return a table of what the LLM saw: visual tokens per question, and the share of them that was kept."""
    rows: Rows = [("visual tokens", *table.benchmarks)]
    for line in measured:
        rows.append((line.row.label, *(tokens(line.runs.get(benchmark)) for benchmark in table.benchmarks)))
    return rows


def tokens(run: Run | None) -> str:
    """Write the visual tokens of a run, and nothing where there is no run or no answer."""
    seen = run.summary.visual_tokens if run else None
    if seen is None or seen.retention is None:
        return ""
    return f"{seen.after_per_sample:.1f} of {seen.before_per_sample:.1f} ({100 * seen.retention:.2f} %)"


def fingerprints(table: PaperTable, measured: list[Measured]) -> Iterator[str]:
    """Say how each benchmark was measured. Where its runs differ, each way names its rows."""
    for benchmark in table.benchmarks:
        groups: dict[str, list[str]] = {}
        for line in measured:
            if benchmark in line.runs:
                text = "; ".join(f"{name}: {value}" for name, value in fingerprint(line.runs[benchmark]).items())
                groups.setdefault(text, []).append(line.row.label)
        for text, labels in groups.items():
            named = "" if len(groups) == 1 else f"{', '.join(labels)}: "
            yield f"{benchmark}: {named}{text}"


def notes(table: PaperTable, part: Part, measured: list[Measured]) -> list[str]:
    """Return what a reader must know about a part's numbers."""
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
    """Return what keeps this from being the paper's table."""
    every_limit = {run.summary.run.limit for line in measured for run in line.runs.values()}
    limits = {limit for limit in every_limit if limit is not None}
    found = [f"TRIAL, not the table: only {', '.join(map(str, sorted(limits)))} questions per task"] if limits else []
    every = (other for name in TITLES for other in paper_table(name).parts)
    published = {get_model_name_from_path(other.checkpoint) for other in every if other.model == part.model}
    if get_model_name_from_path(part.checkpoint) not in published:
        found.append(f"ANOTHER CHECKPOINT: published is {part.model}, measured is {part.checkpoint}")
    return found


# ---- files


def markdown(table: PaperTable, parts: Parts) -> str:
    """Write the table in Markdown, with its notes and how it was measured."""
    text = f"# {table.title}\n"
    for part, measured in parts:
        text += f"\n## {part.model}: {part.checkpoint}\n\n"
        text += "".join(f"- {note}\n" for note in notes(table, part, measured)) + "\n"
        text += markdown_table([row for group in grid(table, measured) for row in group])
        text += "\n" + markdown_table(token_rows(table, measured)) + "\n"
        text += "".join(f"- {how}\n" for how in fingerprints(table, measured))
    return text


def latex(table: PaperTable, parts: Parts) -> str:
    """Write the table in LaTeX: two table* for each part, and below them, as text, how it was measured.

    It needs the packages booktabs and graphicx.
    """
    text = LATEX_PACKAGES
    for part, measured in parts:
        header, *rest = token_rows(table, measured)
        title = f"{table.title}. {part.model}"
        text += latex_table(f"{title}. {'. '.join(notes(table, part, measured))}.", grid(table, measured), 2)
        text += latex_table(f"{title}: visual tokens that the LLM saw, per question.", [[header], rest], 1)
        text += latex_notes(list(fingerprints(table, measured)))
    return text


def comma_separated(table: PaperTable, parts: Parts) -> str:
    """Write the table as CSV: a line for each method and column, at full precision, with how it was measured."""
    records = []
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
                run = line.runs.get(column.benchmark)
                records.append(
                    {
                        **own,
                        "column": column.name,
                        **compared(line.cells[column.name]),
                        "against": line.below.label if line.below else None,
                        **({} if run is None else visual_tokens(run) | fingerprint(run)),
                    }
                )
            if table.averaged:
                records.append({**own, "column": "average %", **compared(line.average)})
    return csv_table(records)


def compared(cell: Cell) -> dict[str, Any]:
    """Return a cell's part of a record."""
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
    """Return the visual tokens' part of a record."""
    found = run.summary.visual_tokens
    return {
        "visual_tokens_before": found.before_per_sample,
        "visual_tokens_after": found.after_per_sample,
        "actual_retention": found.retention,
    }
