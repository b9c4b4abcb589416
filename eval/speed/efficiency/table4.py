"""The paper's table 4, measured beside published.

Published are sums over MVBench's 4000 questions on four GPUs: total time times throughput is about 1000 in all rows,
the samples of one GPU. So a published second is a millisecond per sample.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidcom2 import compressor

from ...models.cores import marks
from ...paper.published import METHODS, ONEVISION, PUBLISHED
from ...paper.tables import SHRUNK, escaped
from ...results.files import markdown_table
from .measure import Measured, Setting
from .report import change, dense_of, how

TITLE = "Table 4: efficiency"
FRAMES = 32
SAMPLES = 1000
"""Per GPU, behind the published seconds."""
BILLIONS = 8.03
"""Parameters of the model that it is about."""
NEW_TOKENS = 2
"""MVBench's answers are a letter, and the end."""
USUAL, EAGER = "usual", "eager"
"""The attention a row is measured with: --attn's first, and eager, as the authors of methods inside the LLM have it."""
INSIDE = ("fastv", "pdrop", "sparsevlm")
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
    """measured: its value for (a line, dense); published: for (a row, dense's row)."""

    name: str
    form: str
    measured: Callable[[Measured, Measured | None], float | None]
    published: Callable[[Mapping[str, Any], Mapping[str, Any]], float]


@dataclass(frozen=True)
class Row:
    """label: method and retention as published. specs: by attention, USUAL or EAGER, what reproduces it."""

    label: str
    specs: dict[str, str]
    published: Mapping[str, Any]


def against(name: str) -> Callable[[Measured, Measured | None], float | None]:
    """In percent; 0 of dense."""

    def value(line: Measured, dense: Measured | None) -> float | None:
        found = 0.0 if line is dense else change(line, dense, name)
        return None if found is None else 100 * found

    return value


def minutes(text: str) -> int:
    """ "26:03" in seconds."""
    whole, rest = text.split(":")
    return 60 * int(whole) + int(rest)


def timed(span: str, key: str) -> tuple[Column, Column]:
    """A span's seconds, and against dense. key: of the published sum."""
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
    """The published ones, dense first."""
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
    """What the table needs. attention: the usual one."""
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
    """None: not measured."""

    published: float
    measured: float | None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.published


@dataclass(frozen=True)
class Line:
    """A row of the table with what was measured for it; kind: USUAL or EAGER attention."""

    row: Row
    kind: str
    measured: Measured | None
    cells: dict[str, Cell]


def lines(raw: Mapping[str, Any]) -> list[Line]:
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
    """File names and contents: the table in Markdown, LaTeX and CSV."""
    found = lines(raw)
    return {
        "table4.md": markdown(found, raw),
        "table4.tex": latex(found, raw),
        "table4.csv": comma_separated(found, raw),
    }


def notes(raw: Mapping[str, Any]) -> list[str]:
    papers = raw["protocol"]["protocol"] == ONEVISION[2] and round(raw["parameters"] / 1e9, 2) == BILLIONS
    trial = [] if papers else [f"TRIAL, not the table: published is {ONEVISION[0]}, measured is {raw['model']}"]
    return [*trial, *NOTES]


def text_rows(found: Sequence[Line]) -> list[list[tuple[str, ...]]]:
    """The header, and for each published row its lines of text; what has no number is empty."""
    groups = [[("method", "", *(column.name for column in COLUMNS), "visual tokens")]]
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
    value = getattr(line.cells[column.name], which)
    form = column.form if which != "difference" else "+" + column.form.removeprefix("+")
    return "" if value is None else format(value, form)


def markdown(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    text = f"# {TITLE}\n\n" + "".join(f"- {line}\n" for line in (*notes(raw), *how(raw)))
    return text + "\n" + markdown_table([row for group in text_rows(found) for row in group])


def latex(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    """A table*, and below it, as text, how it was measured; needs the packages booktabs and graphicx."""

    def row(cells: Sequence[str]) -> str:
        return " & ".join(re.sub(r"-(?=\d)", "$-$", escaped(cell)) for cell in cells) + r" \\" + "\n"

    body = "\\midrule\n".join("".join(map(row, group)) for group in text_rows(found))
    return (
        "% \\usepackage{booktabs,graphicx}\n\\begin{table*}\n\\centering\\scriptsize\n"
        f"\\caption{{{escaped(f'{TITLE}. ' + '. '.join(notes(raw)))}.}}\n"
        f"{SHRUNK}\\begin{{tabular}}{{ll{'r' * (len(COLUMNS) + 1)}}}\n\\toprule\n{body}\\bottomrule\n"
        "\\end{tabular}%\n}\n"
        "\\end{table*}\n{\\scriptsize\\raggedright\n" + "".join(f"{escaped(line)}\\par\n" for line in how(raw)) + "}\n"
    )


def comma_separated(found: Sequence[Line], raw: Mapping[str, Any]) -> str:
    """One line for each method and column, at full precision, with how it was measured."""
    origin = raw["provenance"]
    device = raw["device"] + (", LOADED MACHINE" if marks(raw) else "")
    text = io.StringIO()
    names = [
        *("table", "method", "spec", "attention", "column", "published", "measured", "difference", "visual tokens"),
        *("model", "random weights", "device", "dtype", "new tokens", "rounds", "date", "commit"),
    ]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in found:
        done = line.measured
        made = [
            *(
                raw["model"],
                raw["random_weights"],
                device,
                raw["dtype"],
                raw["new_tokens"],
                raw["rounds"],
            ),
            *(origin["date"], origin["git_commit"]),
        ]
        for name, cell in line.cells.items():
            writer.writerow(
                [
                    *(
                        TITLE,
                        line.row.label,
                        line.row.specs[line.kind],
                        EAGER if line.kind == EAGER else done and done.setting.attention,
                        name,
                    ),
                    *(cell.published, cell.measured, cell.difference, done and done.tokens_after),
                    *(made if done else [None] * len(made)),
                ]
            )
    return text.getvalue()
