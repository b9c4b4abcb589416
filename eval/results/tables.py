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


def print_table(console: Console, rows: Rows, title: str = "", left: int = 1, bold: Collection[str] = ()) -> None:
    """Print a table. One that is wider than the console is printed as several, each with some of the columns.

    Args:
        console: Where to print.
        rows: The table.
        title: Printed above.
        left: Number of columns of labels, which every part repeats.
        bold: First cells of the rows that are printed in bold.
    """
    for number, part in enumerate(parts(rows, left, console)):
        console.print(rich_table(part, left, title if number == 0 else "", bold))


def fits(console: Console, rows: Rows, left: int = 1) -> bool:
    """Is the table as narrow as the console?"""
    return console.measure(rich_table(rows, left)).minimum <= console.width


def parts(rows: Rows, left: int, console: Console) -> list[Rows]:
    """Break a table into tables that are as narrow as the console, and have at least one column beside the labels."""
    columns = len(rows[0])
    found, begin = [], left
    for end in range(left + 1, columns + 1):
        part = [row[:left] + row[begin:end] for row in rows]
        if end - begin > 1 and not fits(console, part, left):
            found.append([row[:left] + row[begin : end - 1] for row in rows])
            begin = end - 1
    return [*found, [row[:left] + row[begin:] for row in rows]]


def rich_table(rows: Rows, left: int = 1, title: str = "", bold: Collection[str] = ()) -> Table:
    """Lay a table out so that rich breaks labels and headings where there is no room, but never a value."""
    table = Table(title=title or None, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(rows[0]):
        if index < left:
            table.add_column(name, justify="left", overflow="fold")
        else:
            values = max((cell_len(row[index]) for row in rows[1:]), default=0)
            table.add_column(heading(name, values), justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row, style="bold" if row[0] in bold else None)
    return table


def heading(text: str, width: int) -> str:
    """Break a heading into lines of `width` characters where it may break: at spaces, and inside a compressor's spec.

    A part that is longer stays whole.
    """
    pieces = re.split(r"(?=[@:=])|(?<= )", text)
    width = max(width, *(len(piece.rstrip()) for piece in pieces))
    lines = [""]
    for piece in pieces:
        if len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
