"""Tables as Markdown, LaTeX and CSV, and on terminals of 80 columns, where no number is cut."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from eval.benchmarks import BENCHMARKS
from eval.benchmarks.mvbench import MVBENCH
from eval.paper.figure1 import print_result
from eval.reports.compare import compare, print_comparison
from eval.results.load import load_run
from eval.results.side_by_side import COLUMNS, called, print_side_by_side, short_names
from eval.results.summary import print_summary
from eval.results.tables import Rows, broken, csv_table, latex_table, markdown_table, parts, print_table
from eval.results.terminal import UNBROKEN
from eval.speed.efficiency.report import overview, print_report, steps
from tests.eval.reports.test_compare import line, write
from tests.eval.speed.test_efficiency import line as measured
from tests.eval.speed.test_efficiency import made_up

ROWS: Rows = [
    ("method", "tokens per sample", "vidcom2@0.25:positions=original", "x"),
    ("dense", "12345.6", "1.0", "2"),
    ("fastv", "", "2.5", "-3"),
]


def test_markdown():
    assert markdown_table([("a", ""), ("b", "1")]) == "| a |  |\n| --- | --- |\n| b | 1 |\n"


def test_csv_has_every_column_and_digit():
    records = [{"a": 1 / 3, "b": None}, {"a": 2, "c": 'x,"y"'}]
    text = csv_table(records)
    assert text.startswith("a,b,c\n")
    read = list(csv.DictReader(io.StringIO(text)))
    assert read == [{"a": repr(1 / 3), "b": "", "c": ""}, {"a": "2", "b": "", "c": 'x,"y"'}]


def test_latex_groups_are_ruled_and_numbers_have_a_minus():
    text = latex_table("50 %.", [[ROWS[0]], ROWS[1:2], ROWS[2:]], left=1)
    assert "\\caption{50 \\%.}" in text
    assert "\\begin{tabular}{lrrr}" in text
    assert text.count("\\midrule") == 2
    assert "fastv &  & 2.5 & $-$3 \\\\" in text


def test_headings_break_at_spaces_and_in_specs():
    assert broken("tokens per sample", 10) == "tokens per\nsample"
    assert broken("vidcom2@0.25:positions=original", 5) == "vidcom2\n@0.25\n:positions\n=original"
    assert broken("vidcom2@0.25:positions=original", 40) == "vidcom2@0.25:positions=original"
    assert broken("", 3) == ""


@pytest.mark.parametrize(("width", "count"), [(80, 1), (32, 1), (31, 2), (20, 3), (1, 3)])
def test_a_wide_table_becomes_several(width, count):
    found = parts(ROWS, width)
    assert len(found) == count
    assert all([row[0] for row in part] == [row[0] for row in ROWS] for part in found)
    assert [sum((part[i][1:] for part in found), ()) for i in range(3)] == [row[1:] for row in ROWS]


def printed(console: Console) -> str:
    text = console.export_text()
    assert "…" not in text
    return text


def tables_of(text: str) -> list[list[str]]:
    """The lines of each table, from its rule on."""
    blocks, inside = [], False
    for one in text.splitlines():
        if "──" in one:
            blocks.append([one])
            inside = True
        elif not one.strip():
            inside = False
        elif inside:
            blocks[-1].append(one)
    return blocks


def narrow() -> Console:
    return Console(record=True, width=80, force_terminal=True, file=io.StringIO())


def runs_of(tmp_path: Path, specs: list[str]) -> list[Path]:
    longest = max(BENCHMARKS["mvbench"].tasks, key=len)
    assert MVBENCH.short_name(longest) == "counterfactual_inference"
    return [
        write(tmp_path / str(n), [line(longest, i, (i + n) % 3 > 0) for i in range(1000)], compressor=spec)
        for n, spec in enumerate(specs)
    ]


LONG = [
    "none",
    "vidcom2@0.25:positions=original:rounding=exact",
    "vidcom2@0.15:positions=original:rounding=exact",
    "pdrop@0.15:layers=(2, 7, 14)",
    "fastv+fca@0.25:attention=eager:fca.tau=0.02",
    "sparsevlm+fca@0.25:attention=eager:fca.tau=0.02",
]


def test_results_and_comparisons_fit_80_columns(tmp_path):
    a, b = runs_of(tmp_path, LONG[:2])
    console = narrow()
    print_summary(console, load_run(a).summary)
    found = compare(a, b)
    print_comparison(console, found)
    text = printed(console)
    first, second = tables_of(text)
    assert first[1].split() == ["counterfactual_inference", "66.6", "1000", "0", "0"]
    row = found.rows[0]
    assert second[1].split() == [
        *("counterfactual_inference", f"{row.a:.1f}", f"{row.b:.1f}", f"{row.difference:+.1f}"),
        *(f"{row.low:+.1f}", f"{row.high:+.1f}", str(row.lost), str(row.won), f"{row.p:.3f}"),
    ]
    assert all(len(one) <= 80 for one in first[:3] + second[:3])


@pytest.mark.parametrize("count", [2, 4, 6, 9])
def test_settings_side_by_side_fit_80_columns(tmp_path, count):
    specs = [*LONG, *(f"random@0.{i}:seed=12345" for i in (1, 2, 3))][:count]
    runs = {spec: load_run(run) for spec, run in zip(specs, runs_of(tmp_path, specs), strict=True)}
    console = narrow()
    print_side_by_side(console, "mvbench, m", runs)
    text = printed(console)
    assert all(len(one) <= 80 for one in text.splitlines())
    shown = [number for table in tables_of(text) for one in table for number in one.split()]
    for run in runs.values():
        assert f"{run.summary.scores.overall:.1f}" in shown
        assert f"{run.summary.visual_tokens.after_per_sample:.1f}" in shown
    names = short_names(specs)
    assert len(set(names.values())) == count
    assert all(name == called(spec) or f"{name} is {spec}" in text.splitlines() for spec, name in names.items())
    if count <= COLUMNS:
        categories = next(iter(runs.values())).summary.scores.categories
        assert all(text.count(f"\n{category} ") >= 1 for category in categories)


def test_settings_side_by_side_fit_80_columns_in_a_pipe_too(tmp_path):
    specs = ["none", "vidcom2@0.25", "vidcom2@0.15", "random@0.25", "vidcom2@0.1:positions=original"]
    console = Console(record=True, width=UNBROKEN, file=io.StringIO())
    runs = {spec: load_run(run) for spec, run in zip(specs, runs_of(tmp_path, specs), strict=True)}
    print_side_by_side(console, "mvbench, m", runs)
    lines = printed(console).splitlines()
    assert max(map(len, lines)) <= 80
    headings = [name for one in lines if one.startswith("accuracy, %") for name in re.split(r"\s{2,}", one.strip())[1:]]
    assert headings == ["dense", *specs[1:4], "vidcom2@0.1 [5]"]


def test_short_names():
    assert short_names(["none", "vidcom2@0.25:rounding=exact", "random@0.25", "vidcom2.released@0.25"]) == {
        "none": "dense",
        "vidcom2@0.25:rounding=exact": "vidcom2@0.25 [2]",
        "random@0.25": "random@0.25",
        "vidcom2.released@0.25": "[4]",
    }


def test_figure_1_fits_80_columns(tmp_path):
    dense, other = map(load_run, runs_of(tmp_path, LONG[:2]))
    console = narrow()
    runs = {(drop, ratio): other for drop in ("redundant", "unique", "even") for ratio in (0.25, 0.5)}
    print_result(console, "mvbench, m", dense, runs)
    text = printed(console)
    assert all(len(one) <= 80 for one in text.splitlines())
    assert text.count("66.7 [") == 6


def test_efficiency_fits_80_columns_with_every_number():
    specs = ("none", "vidcom2@0.25", "fastv@0.25:attention=eager")
    every = [measured(spec, [1234.5678] * 2, frames) for frames in (16, 256) for spec in specs]
    console = narrow()
    print_report(console, made_up(*every))
    text = printed(console)
    assert all(len(one) <= 80 for one in text.splitlines())
    shown = " ".join(text.split())
    for table in (overview(every), steps(every)):
        for row in table[1:]:
            assert all(cell in shown for cell in row[1:])


def test_a_file_gets_the_whole_table():
    console = Console(record=True, width=10_000, file=io.StringIO())
    print_table(console, ROWS, "title")
    assert len(tables_of(console.export_text())) == 1
