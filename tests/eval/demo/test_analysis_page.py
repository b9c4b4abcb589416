"""The measured part of docs/analysing.md: a command writes it, and it is what the command's JSON file says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.demo.training import analysis as page_of
from eval.demo.training.analysis import BEGIN, END, METHODS, PARTS, main, replaced
from eval.reports.analysis import COLUMNS
from eval.reports.flags import RETENTIONS

DOCS = Path(__file__).resolve().parents[3] / "docs"


def tables(text: str) -> list[dict[str, list[str]]]:
    """The cells of each table, by method."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append({name: cells for name, *cells in lines[2:]})
    return found


def check(page: Path, file: Path, methods: list[str]) -> None:
    """Is every number of the page that of the JSON file?"""
    text = page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    content = json.loads(file.read_text(encoding="utf-8"))
    for part in PARTS:
        section = text.partition(f"### {part.heading}\n")[2].partition("\n### ")[0]
        shown = content[part.heading]
        assert f"{shown['videos']} videos" in section
        assert shown["date"][:10] in section
        assert shown["still"] is part.still
        assert (page.parent / re.search(r"\]\((figures/.*)\)", section)[1]).is_file()
        printed = tables(section)
        assert len(printed) == len(part.measures)
        for name, cells in zip(part.measures, printed, strict=True):
            assert list(cells) == methods
            for method, line in cells.items():
                settings = [one for one in shown["settings"] if one["method"] == method]
                assert [one["retention"] for one in settings] == [float(r) for r in RETENTIONS.split(",")]
                for cell, one in zip(line, settings, strict=True):
                    numbers = [float(number) for number in re.findall(r"-?[\d.]+", cell)]
                    values = [COLUMNS[name].factor * value for value in one["measures"][name]]
                    half = 0.51 * 10 ** -COLUMNS[name].digits
                    assert numbers == pytest.approx(values[: len(numbers)], abs=half, rel=1e-4), (name, method)


def test_the_page_is_what_was_measured():
    page, file = DOCS / "analysing.md", DOCS / "benchmarks/demo-analysis.json"
    settings = json.loads(file.read_text(encoding="utf-8"))[PARTS[0].heading]["settings"]
    check(page, file, list(dict.fromkeys(one["method"] for one in settings if one["method"] != "dense")))


@pytest.mark.slow
def test_one_command_writes_it(tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/analysing.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    flags = ["--docs", tmp_path / "docs", "--output", tmp_path / "videos", "--per-task", 1]
    assert main([*map(str, flags), "--compressors", "vidcom2,random"]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert "old" not in text
    assert "9 videos of MiniBench" in text
    check(page, tmp_path / "docs/benchmarks/demo-analysis.json", ["vidcom2", "random"])


def test_a_page_without_marks_stays(tmp_path, monkeypatch):
    """Nothing is measured for a page that has no place for it."""
    monkeypatch.setattr(page_of, "write_mvbench", lambda *_: pytest.fail("videos were made"))
    (tmp_path / "analysing.md").write_text(f"{END}{BEGIN}")
    with pytest.raises(ValueError, match="put both where the tables go"):
        main(["--docs", str(tmp_path)])
    assert (tmp_path / "analysing.md").read_text() == f"{END}{BEGIN}"
    assert replaced(f"a\n{BEGIN}b\n{END}c\n", "new") == f"a\n{BEGIN}\nnew\n{END}c\n"


def test_methods_are_those_that_the_page_names():
    assert "python -m eval.demo.training.analysis" in (DOCS / "analysing.md").read_text(encoding="utf-8")
    assert len(METHODS.split(",")) <= 12
