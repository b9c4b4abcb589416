"""Tables: rows of text, written as Markdown, LaTeX and CSV, and printed on a terminal.

pandas is no substitute here: its Markdown pads every cell, and its LaTeX knows neither rules between groups of rows nor
this project's special characters.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

Rows = list[tuple[str, ...]]
"""A table as text. The first row is the header."""


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def csv_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Write records as CSV, a line each, at full precision.

    Args:
        records: Values by column. None, and a column that a record lacks, are written as nothing. The columns are in
            the order in which they first occur.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in records for name in one)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


# ---- LaTeX

LATEX_PACKAGES = "% \\usepackage{booktabs,graphicx}\n"
"""A comment that names what `latex_table` needs."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "²": r"\textsuperscript{2}",
    "·": r"$\cdot$",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
"""LaTeX for characters that mean something else there, or nothing."""


def escaped(text: str) -> str:
    """Write text so that LaTeX prints it as it is."""
    return "".join(SPECIAL.get(char, char) for char in text)


def latex_table(caption: str, groups: Sequence[Sequence[Sequence[str]]], left: int) -> str:
    """Write a table* with rules between the groups of rows. What is wider than the page shrinks.

    Args:
        caption: Text, to be escaped.
        groups: Rows in groups. The first group is the header.
        left: Number of columns that are aligned to the left. The others are aligned to the right.
    """
    columns = "l" * left + "r" * (len(groups[0][0]) - left)
    body = "\\midrule\n".join("".join(map(_latex_row, group)) for group in groups)
    return (
        f"\\begin{{table*}}\n\\centering\\scriptsize\n\\caption{{{escaped(caption)}}}\\smallskip\n"
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}%\n}}\n\\end{{table*}}\n"
    )


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(re.sub(r"-(?=\d)", "$-$", escaped(cell)) for cell in cells) + r" \\" + "\n"


def latex_notes(lines: Sequence[str]) -> str:
    """Write text below a table, a paragraph for each line. Hashes may break, because they are longer than a line."""
    breakable = (re.sub("[0-9a-f]{8}(?=[0-9a-f])", r"\g<0>\\allowbreak{}", escaped(line)) for line in lines)
    return "{\\scriptsize\\raggedright\n" + "".join(f"{line}\\par\n" for line in breakable) + "}\n"


# ---- terminals

LABELS = 28
"""Columns of a terminal that labels get at least, if they are that long. Longer ones break."""
NARROW = 80
"""Columns of a narrow terminal. A table that fits into them keeps its headings whole."""
GAP = 2
"""Spaces from one column to the next: one of padding, one of the box."""


def print_table(
    console: Console,
    rows: Rows,
    title: str = "",
    left: int = 1,
    bold: Collection[str] = (),
    whole: bool = False,
    width: int | None = None,
) -> None:
    """Print a table. One that is too wide is printed as several, each with some of the columns.

    Labels and headings break where NARROW columns are too few. A value never does.

    Args:
        console: Where to print.
        rows: The table.
        title: Printed above.
        left: Number of columns of labels, which every part repeats.
        bold: First cells of the rows that are printed in bold.
        whole: Headings do not break either.
        width: The most columns of the terminal that a table has. None for those of the console.
    """
    width = width or console.width
    if title:
        console.print(title, style="italic", markup=False, highlight=False, soft_wrap=True)
    for number, part in enumerate(parts(rows, width, left, whole)):
        if number:
            console.print()
        console.print(rich_table(part, width, left, bold, whole))


def parts(rows: Rows, width: int, left: int = 1, whole: bool = False) -> list[Rows]:
    """Break a table into tables of at most `width` columns of the terminal, each with at least one column of values.

    Args:
        rows: The table.
        width: Columns of the terminal.
        left: Number of columns of labels, which every part repeats.
        whole: Headings do not break.
    """
    room = width + GAP // 2 - sum(min(_width(rows, label, whole), LABELS) + GAP for label in range(left))
    groups: list[list[int]] = [[]]
    for column in range(left, len(rows[0])):
        if groups[-1] and sum(_width(rows, other, whole) + GAP for other in (*groups[-1], column)) > room:
            groups.append([])
        groups[-1].append(column)
    return [[row[:left] + tuple(row[column] for column in group) for row in rows] for group in groups]


def rich_table(rows: Rows, width: int, left: int = 1, bold: Collection[str] = (), whole: bool = False) -> Table:
    """Lay a table out. The first label gets what the other columns leave of `width`, and breaks if it is longer."""
    whole = whole or (
        sum(max(cell_len(row[i]) for row in rows) + GAP for i in range(len(rows[0]))) <= min(width, NARROW) + GAP // 2
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    others = sum(_width(rows, column, whole) + GAP for column in range(1, len(rows[0])))
    label = max(min(_width(rows, 0, whole), LABELS), width - others - GAP // 2)
    for column, name in enumerate(rows[0]):
        if column < left:
            table.add_column(broken(name, label), justify="left", overflow="fold")
        else:
            heading = name if whole else broken(name, _values(rows, column))
            table.add_column(heading, justify="right", no_wrap=True)
    for first, *cells in rows[1:]:
        table.add_row(broken(first, label), *cells, style="bold" if first in bold else None)
    return table


def _values(rows: Rows, column: int) -> int:
    """Return the width of the widest cell below the header."""
    return max((cell_len(row[column]) for row in rows[1:]), default=0)


def _width(rows: Rows, column: int, whole: bool) -> int:
    """Return the width of a column. Its heading breaks where it may, or stays whole."""
    if whole:
        return max(cell_len(row[column]) for row in rows)
    values = _values(rows, column)
    return max(values, *(cell_len(line) for line in broken(rows[0][column], values).split("\n")))


def broken(text: str, width: int) -> str:
    """Break text into lines of `width` characters where it may break: at spaces, and inside a compressor's spec.

    A piece that is longer stays whole.
    """
    pieces = re.split(r"(?=[@:=])|(?<= )", text)
    width = max(width, *(len(piece.rstrip()) for piece in pieces), 0)
    lines = [""]
    for piece in pieces:
        if len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
