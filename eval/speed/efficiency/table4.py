"""The paper's table 4: what is measured beside what is published.

The paper gives sums over MVBench's 4000 questions on four GPUs: total time times throughput is about 1000 in all rows,
which are the samples of one GPU. So a published second is a millisecond per sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidcom2 import compressor

from ...models.cores import marks
from ...paper.published import METHODS, ONEVISION, PUBLISHED
from ...results.tables import LATEX_PACKAGES, Rows, csv_table, latex_notes, latex_table, markdown_table
from .measure import Measured, Setting
from .report import change, dense_of, how

TITLE = "Table 4: efficiency"
FRAMES = 32
"""Frames per video."""
SAMPLES = 1000
"""Samples per GPU in the published seconds."""
BILLIONS = 8.03
"""Parameters of the paper's model, in billions."""
NEW_TOKENS = 2
"""Tokens of an answer: MVBench's answers are a letter and the end token."""
USUAL, EAGER = "usual", "eager"
"""A row's attention: the first of --attn, and eager, which the authors of methods inside the LLM use."""
INSIDE = ("fastv", "pdrop", "sparsevlm")
"""The methods inside the LLM."""
NOTES = (
    "measured: medians per sample; empty: not measured",
    f"published: the paper's numbers, not measured here; its seconds / {SAMPLES}, being of {SAMPLES} questions "
    "on each of four A100 (total x throughput)",
    "difference: measured - published; seconds are of different machines, what compares is against dense",
    "eager: the LLM with eager attention, fastv and sparsevlm ranking by its attention maps, as their authors' code "
    "does; measured: this project's way, which computes only the rows that rank",
    "peak memory: taken as GiB; in GB (10^9 bytes), some of the published would be less than the weights",
    "accuracy is measured by scripts/reproduce_table2.sh, not here",
)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: Name and unit.
        form: Format of its numbers.
        measured: Computes the value from a measured line and the dense line.
        published: Computes the value from a published row and the dense row.
    """

    name: str
    form: str
    measured: Callable[[Measured, Measured | None], float | None]
    published: Callable[[Mapping[str, Any], Mapping[str, Any]], float]


@dataclass(frozen=True)
class Row:
    """A published row.

    Attributes:
        label: Method and retention as published.
        specs: The compressors that reproduce it, by attention, USUAL or EAGER.
        published: The published numbers.
    """

    label: str
    specs: dict[str, str]
    published: Mapping[str, Any]


def against(name: str) -> Callable[[Measured, Measured | None], float | None]:
    """Return a function that computes a span's change against dense in percent, 0 for dense itself."""

    def value(line: Measured, dense: Measured | None) -> float | None:
        found = 0.0 if line is dense else change(line, dense, name)
        return None if found is None else 100 * found

    return value


def minutes(text: str) -> int:
    """Return "26:03" in seconds."""
    whole, rest = text.split(":")
    return 60 * int(whole) + int(rest)


def timed(span: str, key: str) -> tuple[Column, Column]:
    """Return the columns of a span: its seconds, and its change against dense. key: of the published sum."""
    return (
        Column(f"{span}, s", ".3f", lambda m, _: m.median(span), lambda p, _: p[key] / SAMPLES),
        Column(f"{span} against dense, %", "+.1f", against(span), lambda p, dense: 100 * (p[key] / dense[key] - 1)),
    )


COLUMNS = (
    *timed("LLM generation", "llm_generation_s"),
    *timed("model generation", "model_generation_s"),
    Column("total, s", ".3f", lambda m, _: m.median("total"), lambda p, _: minutes(p["total_min_sec"]) / SAMPLES),
    Column("peak memory, GiB", ".1f", lambda m, _: m.peak / 2**30, lambda p, _: p["peak_memory_gb"]),
    Column("samples per s", ".2f", lambda m, _: m.throughput, lambda p, _: p["throughput_samples_per_s"]),
    Column(
        "throughput x dense",
        ".2f",
        lambda m, dense: None if dense is None else m.throughput / dense.throughput,
        lambda p, dense: p["throughput_samples_per_s"] / dense["throughput_samples_per_s"],
    ),
    Column("MVBench, %", ".1f", lambda *_: None, lambda p, _: p["mvbench"]),
)


def rows() -> list[Row]:
    """Return the published rows, dense first."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["table4"]["rows"]
    result = []
    for entry in published:
        method, retention = entry["method"], float(entry["retention"])
        label = method if retention == 1 else f"{method} {100 * retention:.0f} %"
        chosen = compressor(METHODS[method, retention])
        specs = {USUAL: chosen.spec}
        if method in INSIDE:
            specs[EAGER] = chosen.spec + ":attention=eager" * hasattr(chosen, "attention")
        result.append(Row(label, specs, entry))
    return result


def grid(attention: str) -> list[Setting]:
    """Return the settings that the table needs. attention: the usual one."""
    return list(
        dict.fromkeys(
            Setting(FRAMES, spec, attention if kind == USUAL else EAGER)
            for row in rows()
            for kind, spec in row.specs.items()
        )
    )


# ---- from numbers to files


@dataclass(frozen=True)
class Cell:
    """A number of the table. None stands for what is not measured."""

    published: float
    measured: float | None

    @property
    def difference(self) -> float | None:
        """measured - published."""
        return None if self.measured is None else self.measured - self.published


@dataclass(frozen=True)
class Line:
    """A published row with what was measured for it.

    Attributes:
        row: The published row.
        kind: The attention, USUAL or EAGER.
        measured: The samples. None where it was not measured.
        cells: By column.
    """

    row: Row
    kind: str
    measured: Measured | None
    cells: dict[str, Cell]


def lines(raw: Mapping[str, Any]) -> list[Line]:
    """Find what was measured for each row. raw: efficiency.json."""
    every = [Measured.from_json(entry) for entry in raw["measured"]]
    usual = every[0].setting.attention
    table = rows()
    result = []
    for row in table:
        for kind, spec in row.specs.items():
            wanted = Setting(FRAMES, spec, usual if kind == USUAL else EAGER)
            found = next((line for line in every if line.setting == wanted), None)
            dense = dense_of(found, every) if found else None
            cells = {
                column.name: Cell(
                    column.published(row.published, table[0].published),
                    column.measured(found, dense) if found else None,
                )
                for column in COLUMNS
            }
            result.append(Line(row, kind, found, cells))
    return result


def render(raw: Mapping[str, Any]) -> dict[str, str]:
    """Write the table in Markdown, LaTeX and CSV; return contents by file name. raw: efficiency.json."""
    found = lines(raw)
    return {
        "table4.md": markdown(found, raw),
        "table4.tex": latex(found, raw),
        "table4.csv": comma_separated(found, raw),
    }


def notes(raw: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know about the numbers."""
    papers = raw["protocol"]["protocol"] == ONEVISION[2] and round(raw["parameters"] / 1e9, 2) == BILLIONS
    trial = [] if papers else [f"TRIAL, not the table: published is {ONEVISION[0]}, measured is {raw['model']}"]
    return [*trial, *NOTES]


def text_rows(found: Sequence[Line]) -> list[Rows]:
    """Return the table as groups of rows: the header, and a group per published row. What has no number is empty."""
    groups: list[Rows] = [[("method", "", *(column.name for column in COLUMNS), "visual tokens")]]
    for line in found:
        eager = "" if line.kind == USUAL else ", eager"
        tokens = "" if line.measured is None else f"{line.measured.tokens_after:.1f}"
        measured = (f"measured{eager}", *(number(line, column, "measured") for column in COLUMNS), tokens)
        difference = (f"difference{eager}", *(number(line, column, "difference") for column in COLUMNS), "")
        if line.kind == USUAL:
            published = ("published", *(number(line, column, "published") for column in COLUMNS), "")
            groups.append([(line.row.label, *published), ("", *measured), ("", *difference)])
        else:
            groups[-1] += [("", *measured), ("", *difference)]
    return groups


def number(line: Line, column: Column, which: str) -> str:
    """Write a cell's number. which: "published", "measured" or "difference"."""
    value = getattr(line.cells[column.name], which)
    form = column.form if which != "difference" else "+" + column.form.removeprefix("+")
    return "" if value is None else format(value, form)


def markdown(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    """Write the table in Markdown, with its notes and how it was measured."""
    text = f"# {TITLE}\n\n" + "".join(f"- {line}\n" for line in (*notes(raw), *how(raw)))
    return text + "\n" + markdown_table([row for group in text_rows(found) for row in group])


def latex(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    """Write a table* and below it, as text, how it was measured. It needs the packages booktabs and graphicx."""
    caption = f"{TITLE}. {'. '.join(notes(raw))}."
    return LATEX_PACKAGES + latex_table(caption, text_rows(found), 2) + latex_notes(how(raw))


def comma_separated(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    """Write the table as CSV: a line for each method and column, at full precision, with how it was measured."""
    return csv_table([record(line, name, raw) for line in found for name in line.cells])


def record(line: Line, name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the CSV. name: of the column."""
    done, cell, origin = line.measured, line.cells[name], raw["provenance"]
    made = {
        "model": raw["model"],
        "random weights": raw["random_weights"],
        "device": raw["device"] + (", LOADED MACHINE" if marks(raw) else ""),
        "dtype": raw["dtype"],
        "new tokens": raw["new_tokens"],
        "rounds": raw["rounds"],
        "date": origin["date"],
        "commit": origin["git_commit"],
    }
    return {
        "table": TITLE,
        "method": line.row.label,
        "spec": line.row.specs[line.kind],
        "attention": EAGER if line.kind == EAGER else done and done.setting.attention,
        "column": name,
        "published": cell.published,
        "measured": cell.measured,
        "difference": cell.difference,
        "visual tokens": done and done.tokens_after,
        **(made if done else dict.fromkeys(made)),
    }
