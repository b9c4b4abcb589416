"""The paper's tables: published numbers, the settings that reproduce them, and what is written from runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
import shutil
import statistics
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eval.benchmarks import BENCHMARKS
from eval.cli import parse
from eval.demo import minibench
from eval.paper.command import prepare_table
from eval.paper.published import TITLES, Part, Row, average_pct, next_below, paper_table
from eval.paper.render import render, write
from eval.paper.tables import measure
from eval.results.sample import STAGES
from eval.results.schema import Provenance, RunSettings, ScoredSample
from eval.results.stats import paired_interval
from eval.results.summary import summarise, write_results
from eval.results.tables import escaped
from eval.run.sweep import folder
from tests.golden import SHARED
from vidcom2 import compressor
from vidcom2.inside import InsideLLM

LAYERS, FRAMES = 28, 32
"""Of the LLM in each of the paper's models, and per video."""
PAPER = SHARED / "paper" / "results.json"
NOT_THE_MEAN = {
    ("5", "+s_frame"): 92.7,
    ("5", "+s_video"): 91.7,
    ("5", "-s_video"): 99.1,
    ("5", "u_frame+u_video"): 99.6,
    ("6", "max u_video"): 99.2,
    ("6", "mean u_video"): 99.4,
    ("8", "u_frame"): 99.1,
    ("8", "u_video"): 99.6,
    ("8", "u_frame+u_video"): 100.1,
    ("8", "2u_frame+u_video"): 100.1,
}
"""Where the paper's average is not that of its own scores, and what that would be."""
ROWS = [(table, part, row) for table in map(paper_table, TITLES) for part in table.parts for row in part.rows]


# ---- what is published


@pytest.mark.parametrize("name", TITLES)
def test_published_averages(name):
    table = paper_table(name)
    for part in table.parts:
        for row in part.rows:
            average = average_pct(row.published, part.rows[0].published)
            assert average == pytest.approx(
                statistics.mean(100 * row.published[c.name] / part.rows[0].published[c.name] for c in table.columns)
            )
            if (expected := NOT_THE_MEAN.get((name, row.label))) is not None:
                assert row.average is not None
                assert abs(average - row.average) > 0.1
                assert average == pytest.approx(expected, abs=0.05)
            elif row.average is not None:
                assert average == pytest.approx(row.average, abs=0.1)
    assert table.averaged == (name in ("2", "5", "6", "7", "8"))


def test_every_published_number_is_in_a_table():
    """Counted in the file itself: what is no table's, and table 4, is left out."""

    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [n for key, part in value.items() if key not in ("retention", "average_pct") for n in numbers(part)]
        if isinstance(value, list):
            return [number for part in value for number in numbers(part)]
        return [value] if isinstance(value, (int, float)) else []

    published = json.loads((Path(__file__).parents[3] / "eval" / "paper" / "published.json").read_text())
    assert "None of them was measured here" in published["note"]
    keys = {"figure4": "figure4_qwen2vl", "figure5": "figure5_fca"}
    for name in TITLES:
        table = paper_table(name)
        rows = [row for part in table.parts for row in (part.rows[1:] if table.relative else part.rows)]
        found = Counter(score for row in rows for score in row.published.values())
        assert found == Counter(numbers(published[keys.get(name, f"table{name}")]))
        assert all(tuple(row.published) == tuple(column.name for column in table.columns) for row in rows)
    if PAPER.exists():
        assert {k: v for k, v in published.items() if k != "note"} == json.loads(PAPER.read_text())


def test_some_published_numbers():
    onevision, video = paper_table("2").parts
    (vidcom2,) = (row for row in onevision.rows if row.label == "vidcom2 25 %")
    assert (vidcom2.published["MVBench"], vidcom2.published["VideoMME-Long"], vidcom2.average) == (57.2, 49.4, 99.6)
    assert video.rows[0].published["MLVU"] == 70.3
    (long,) = (column for column in paper_table("figure4").columns if column.name == "VideoMME-Long")
    assert (long.benchmark, long.category) == ("videomme", "long")
    assert paper_table("figure4").parts[0].rows[-1].published[long.name] == 101.2
    assert paper_table("3").benchmarks == ("egoschema", "perceptiontest")
    with pytest.raises(ValueError, match="'4' is none of the tables 2, 3, 5"):
        paper_table("4")


def test_average_of_other_columns():
    with pytest.raises(ValueError, match="columns MLVU are not dense's, MLVU, MVBench"):
        average_pct({"MLVU": 1.0}, {"MLVU": 1.0, "MVBench": 1.0})
    with pytest.raises(ValueError, match="dense scores 0 in MLVU"):
        average_pct({"MLVU": 1.0}, {"MLVU": 0.0})


# ---- what reproduces it


@pytest.mark.parametrize("spec", sorted({row.spec for _, _, row in ROWS} - {"none"}))
def test_every_setting_reaches_its_retention(spec):
    chosen = compressor(spec)
    assert chosen is not None
    assert chosen.spec == spec
    assert {row.retention for _, _, row in ROWS if row.spec == spec} == {chosen.retention}
    m = 49
    if isinstance(chosen, InsideLLM):
        chosen.check(LAYERS)
        tokens = FRAMES * 196
        counts = chosen.processed(chosen.schedule(LAYERS, tokens), LAYERS, tokens)
        assert sum(counts) / LAYERS / tokens == pytest.approx(chosen.retention, abs=1 / 196)
    else:
        kept = chosen.select(torch.randn(FRAMES, m, 16, generator=torch.Generator().manual_seed(0)))
        assert 0 <= len(kept.index) / FRAMES / m - chosen.retention + 1 / (2 * FRAMES * m) <= 1 / m


def test_equal_scores_mean_equal_settings():
    """Rows of two tables that share the scores of two or more columns are the same setting."""
    shared = 0
    onevision = [(t, r) for t, p, r in ROWS if p.model == "LLaVA-OneVision-7B" and not t.relative]
    for table, row in onevision:
        for other_table, other in onevision:
            columns = row.published.keys() & other.published.keys()
            same = all(row.published[column] == other.published[column] for column in columns)
            if table.name < other_table.name and len(columns) > 1:
                shared += same
                assert (row.spec == other.spec) == same, (table.name, row, other_table.name, other)
    assert shared > 15


def test_ablations():
    specs = {(table.name, row.label): row.spec for table, _, row in ROWS}
    x = torch.randn(8, 12, 6, generator=torch.Generator().manual_seed(1))

    def kept(name: str, label: str) -> set[int]:
        chosen = compressor(specs[name, label])
        assert chosen is not None
        return set(chosen.select(x).index.tolist())

    frames = x / x.norm(dim=-1, keepdim=True)
    to_frame, to_video = (
        (frames * (g / g.norm(dim=-1, keepdim=True))).sum(-1)
        for g in (x.mean(1, keepdim=True), x.mean((0, 1), keepdim=True))
    )
    rankings = {
        "+s_frame": to_frame,
        "-s_frame": -to_frame,
        "+s_video": to_video,
        "-s_video": -to_video,
        "u_frame+u_video": -to_frame - to_video,
    }
    for label, score in rankings.items():  # equal budgets: 3 of every frame's 12
        best = {(t * 12 + m) for t in range(8) for m in score[t].argsort(descending=True)[:3].tolist()}
        assert kept("5", label) == best
    assert specs["7", "window 32"] == specs["8", "u_frame+u_video"] == "vidcom2@0.25"
    assert specs["8", "2u_frame+u_video"] == "vidcom2@0.25:frame_weight=2"
    assert specs["6", "max u_video"] == "vidcom2@0.25:frame_score=max:video_weight=0"


def test_no_setting_twice_in_a_table():
    for table in map(paper_table, TITLES):
        for part in table.parts:
            assert len({row.spec for row in part.rows}) == len({row.label for row in part.rows}) == len(part.rows)
            assert part.rows[0].spec == "none"


def test_the_method_next_below():
    rows = paper_table("2").parts[0].rows
    below = {row.label: next_below(row, rows) for row in rows}
    order = ["vidcom2 25 %", "sparsevlm 25 %", "fastv 25 %", "random 25 %", "pdrop 25 %", "dycoke 25 %"]
    for better, worse in zip(order, [*order[1:], None], strict=True):
        found = below[better]
        assert (found.label if found else None) == worse
    assert below["dense"] is None
    assert below["dycoke 30 %"] is None
    assert below["vidcom2 15 %"] is not None
    assert below["vidcom2 15 %"].label == "sparsevlm 15 %"


# ---- what is written, from runs whose numbers are known


MODEL = "tiny"
PUBLISHED = {
    "dense": {"MLVU": 60.0, "VideoMME": 50.0, "VideoMME-Short": 60.0, "VideoMME-Long": 40.0},
    "a_1": {"MLVU": 57.0, "VideoMME": 50.0, "VideoMME-Short": 60.0, "VideoMME-Long": 40.0},
    "b": {"MLVU": 54.0, "VideoMME": 45.0, "VideoMME-Short": 60.0, "VideoMME-Long": 40.0},
}
SMALL = replace(
    paper_table("5"),
    columns=tuple(column for column in paper_table("5").columns if column.name != "VideoMME-Medium"),
    parts=(
        Part(
            "LLaVA-OneVision-7B",
            MODEL,
            "llava_onevision",
            (
                Row("dense", "none", 1.0, PUBLISHED["dense"], 100.0),
                Row("a_1", "vidcom2@0.25", 0.25, PUBLISHED["a_1"], 98.75),
                Row("b", "random@0.25", 0.25, PUBLISHED["b"], 95.0),
            ),
        ),
    ),
)
CATEGORIES = {"mlvu": ("count", "order", "ego"), "videomme": ("short", "medium", "long")}
TASK = {"mlvu": "mlvu_dev", "videomme": "videomme"}


def line(benchmark: str, doc_id: int, score: float, tokens: float) -> ScoredSample:
    return ScoredSample(
        task=TASK[benchmark],
        category=CATEGORIES[benchmark][doc_id % 3],
        doc_id=doc_id,
        video=f"{doc_id}.mp4",
        prompt=f"Frage {doc_id}: ä?",
        answer="B." if score else "C.",
        parsed="B" if score else "C",
        target="B",
        score=float(score),
        scores={"current": float(score)},
        frames=4 + doc_id % 3,
        tokens_before=100,
        tokens_after=tokens,
        seconds=dict.fromkeys(STAGES, 0.5),
    )


def write_run(
    runs: Path, benchmark: str, spec: str, scores: list[int], place: str | None = None, **settings: Any
) -> Path:
    """A run's directory, by what writes them."""
    directory = runs / benchmark / MODEL / folder(place or spec)
    directory.mkdir(parents=True)
    lines = [line(benchmark, i, score, 100 if spec == "none" else 27) for i, score in enumerate(scores)]
    told = {
        "model": MODEL,
        "compressor": spec,
        "compressor_settings": {},
        "protocol": "llava_onevision",
        "decoder": "decord",
        "sampling": "uniform:32",
        "dtype": "float32",
        "attention": "sdpa",
        "versions": {"lmms-eval": "0.7.3", "av": None},
        "generation": {},
        "processes": 1,
        "limit": None,
        **settings,
    }
    made = Provenance(git_commit="abc123", device="cpu")
    summary = summarise(BENCHMARKS[benchmark], lines, RunSettings.from_json(told), provenance=made)
    write_results(directory, summary, lines)
    return directory


def random_scores(seed: int, chance: float, count: int) -> list[int]:
    return (np.random.default_rng(seed).random(count) < chance).astype(int).tolist()


SCORES = {
    ("mlvu", "none"): random_scores(0, 0.7, 41),
    ("mlvu", "vidcom2@0.25"): random_scores(1, 0.6, 41),
    ("mlvu", "random@0.25"): random_scores(2, 0.5, 41),
    ("videomme", "none"): random_scores(3, 0.6, 50),
    ("videomme", "vidcom2@0.25"): random_scores(4, 0.6, 50),
}
"""The last of the six runs is missing."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for (benchmark, spec), scores in SCORES.items():
        write_run(root, benchmark, spec, scores)
    return root


def expected_score(column: str, spec: str) -> float:
    if column == "MLVU":  # the mean over the question types
        scores = SCORES["mlvu", spec]
        return 100 * sum(sum(scores[k::3]) / len(scores[k::3]) for k in range(3)) / 3
    scores = SCORES["videomme", spec][{"VideoMME": 0, "VideoMME-Short": 0, "VideoMME-Long": 2}[column] :]
    scores = scores if column == "VideoMME" else scores[::3]
    return 100 * sum(scores) / len(scores)


def read_csv(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(entry["method"], entry["column"]): entry for entry in csv.DictReader(io.StringIO(text))}


def test_csv(runs):
    found = read_csv(render(SMALL, runs)["table5.csv"])
    assert len(found) == 3 * 5
    specs = {"dense": "none", "a_1": "vidcom2@0.25", "b": "random@0.25"}
    for row in SMALL.parts[0].rows:
        for column in SMALL.columns:
            entry = found[row.label, column.name]
            assert float(entry["published"]) == row.published[column.name]
            if (column.benchmark, row.spec) not in SCORES:
                assert {k for k, v in entry.items() if v} == {
                    *("table", "published for", "method", "spec", "retention", "column", "published")
                }
                continue
            measured = expected_score(column.name, specs[row.label])
            assert float(entry["measured"]) == pytest.approx(measured)
            assert float(entry["difference"]) == pytest.approx(measured - row.published[column.name])
            assert float(entry["actual_retention"]) == (1 if row.label == "dense" else 0.27)
            asked = b"".join(
                json.dumps([TASK[column.benchmark], i, f"Frage {i}: ä?"]).encode() + b"\n"
                for i in range(len(SCORES[column.benchmark, row.spec]))
            )
            assert entry["prompts_sha256"] == hashlib.sha256(asked).hexdigest()
            assert (entry["decoder"], entry["versions"], entry["frames"]) == ("decord", "lmms-eval 0.7.3", "4 to 6")

    # Against dense, with the interval, from the raw scores.
    dense, ours = SCORES["mlvu", "none"], SCORES["mlvu", "vidcom2@0.25"]
    types = [CATEGORIES["mlvu"][i % 3] for i in range(41)]
    difference, low, high = paired_interval(dense, ours, types, "macro")
    entry = found["a_1", "MLVU"]
    assert [float(entry[f"against_dense{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
        [difference, low, high]
    )
    assert difference == pytest.approx(expected_score("MLVU", "vidcom2@0.25") - expected_score("MLVU", "none"))
    theirs = SCORES["mlvu", "random@0.25"]
    below = paired_interval(theirs, ours, types, "macro")
    assert entry["against"] == "b"
    assert [float(entry[f"against_next{end}"]) for end in ("", "_low", "_high")] == pytest.approx(below)
    # A category's interval is over its questions only.
    dense, ours = (SCORES["videomme", spec][2::3] for spec in ("none", "vidcom2@0.25"))
    entry = found["a_1", "VideoMME-Long"]
    assert float(entry["against_dense_low"]) == pytest.approx(paired_interval(dense, ours, ["x"] * 16, "micro")[1])
    assert entry["against_next"] == ""  # b is not measured there

    # The average needs all columns.
    ratios = [expected_score(c.name, "vidcom2@0.25") / expected_score(c.name, "none") for c in SMALL.columns]
    assert float(found["a_1", "average %"]["measured"]) == pytest.approx(100 * sum(ratios) / 4)
    assert float(found["a_1", "average %"]["published"]) == 98.75
    assert float(found["dense", "average %"]["measured"]) == 100
    assert found["b", "average %"]["measured"] == found["b", "average %"]["difference"] == ""


def test_the_average_has_an_interval(runs):
    """Against one that draws question by question, for dense and the other at once."""
    dice = random.Random(0)
    pairs = {b: (SCORES[b, "none"], SCORES[b, "vidcom2@0.25"]) for b in ("mlvu", "videomme")}
    slow = []
    for _ in range(2000):
        drawn = {}
        size = len(pairs["mlvu"][0])
        drawn["MLVU"] = [dice.choices(range(k, size, 3), k=len(range(k, size, 3))) for k in range(3)]
        numbers = dice.choices(range(len(pairs["videomme"][0])), k=len(pairs["videomme"][0]))
        drawn["VideoMME"] = [numbers]
        drawn["VideoMME-Short"], drawn["VideoMME-Long"] = ([[i for i in numbers if i % 3 == k]] for k in (0, 2))
        ratios = []
        for column, groups in drawn.items():
            dense, own = pairs["mlvu" if column == "MLVU" else "videomme"]
            means = [fmean(fmean(scores[i] for i in group) for group in groups) for scores in (dense, own)]
            ratios.append(100 * (means[1] / means[0] - 1))
        slow.append(fmean(ratios))
    slow.sort()
    found = read_csv(render(SMALL, runs)["table5.csv"])["a_1", "average %"]
    difference, low, high = (float(found[f"against_dense{end}"]) for end in ("", "_low", "_high"))
    assert difference == pytest.approx(float(found["measured"]) - 100)
    assert (low, high) == pytest.approx((slow[50], slow[1949]), abs=0.06 * (slow[1949] - slow[50]))
    assert found["against_next"] == ""  # which is not measured in all columns


def test_markdown(runs):
    lines = render(SMALL, runs)["table5.md"].splitlines()
    header = lines.index("| method |  | MLVU | VideoMME | VideoMME-Short | VideoMME-Long | average % |")
    rows = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines[header + 2 : header + 2 + 12]]
    assert [row[:2] for row in rows] == [
        *(["dense", "measured"], ["", "published"], ["", "difference"]),
        *(["a_1", "measured"], ["", "published"], ["", "difference"], ["", "against dense"], ["", "against b"]),
        *(["b", "measured"], ["", "published"], ["", "difference"], ["", "against dense"]),
    ]
    mlvu = expected_score("MLVU", "vidcom2@0.25")
    assert rows[3][2] == f"{mlvu:.1f}"
    assert rows[4][2:] == ["57.0", "50.0", "60.0", "40.0", "98.75"]
    assert rows[5][2] == f"{mlvu - 57:+.1f}"
    assert rows[8][2] != ""
    assert rows[8][3:] == rows[10][3:] == rows[11][3:] == [""] * 4  # not measured: empty
    assert rows[6][2].startswith(f"{mlvu - expected_score('MLVU', 'none'):+.1f} [")
    assert "| a_1 | 27.0 of 100.0 (27.00 %) | 27.0 of 100.0 (27.00 %) |" in lines
    assert "| b | 27.0 of 100.0 (27.00 %) |  |" in lines
    (how,) = (text for text in lines if text.startswith("- mlvu: "))
    assert "lmms-eval 0.7.3" in how
    assert "sampling: uniform:32" in how
    assert not any("TRIAL" in text for text in lines)


def test_latex(runs):
    text = render(SMALL, runs)["table5.tex"]
    for environment in ("table*", "tabular"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 2
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    grid, _ = (part.split("\\end{tabular}")[0] for part in text.split("\\begin{tabular}")[1:])
    lines = [row for row in grid.splitlines() if row.endswith("\\\\")]
    assert len(lines) == 13
    assert {row.count(" & ") for row in lines} == {6}
    assert grid.count("\\midrule") == 3
    mlvu = expected_score("MLVU", "vidcom2@0.25") - expected_score("MLVU", "none")
    assert mlvu < 0
    assert f"$-${-mlvu:.1f} [$-$" in grid
    assert "a\\_1 & measured" in grid
    assert "average \\%" in grid
    bare = text.removeprefix("% \\usepackage{booktabs,graphicx}\n").replace("%\n", "").replace("$-$", "")
    for char in "%_#":
        assert bare.count(char) == bare.count(f"\\{char}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(runs, tmp_path):
    """Also a table that is wider than the page: nothing sticks out."""
    packages = "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}"
    tables = render(SMALL, runs)["table5.tex"] + render(paper_table("2"), tmp_path)["table2.tex"]
    (tmp_path / "t.tex").write_text(f"{packages}\\begin{{document}}\n{tables}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout
    assert "Output written on t.pdf" in done.stdout
    assert not [line for line in done.stdout.splitlines() if "Overfull" in line or "too large" in line]


def test_latex_characters():
    assert escaped(r"50 % of a_b & c^2 \ ~ {#}²") == (
        r"50 \% of a\_b \& c\textasciicircum{}2 \textbackslash{} \textasciitilde{} \{\#\}\textsuperscript{2}"
    )


def test_percent_of_dense(runs):
    """A figure's numbers are shares of dense, so they need a measured dense; differences stay in points."""
    relative = replace(SMALL, name="figure9", relative=True)
    files = render(relative, runs)
    assert set(files) == {"figure9.md", "figure9.tex", "figure9.csv"}
    found = read_csv(files["figure9.csv"])
    share = 100 * expected_score("VideoMME-Short", "vidcom2@0.25") / expected_score("VideoMME-Short", "none")
    assert float(found["a_1", "VideoMME-Short"]["measured"]) == pytest.approx(share)
    assert float(found["a_1", "VideoMME-Short"]["difference"]) == pytest.approx(share - 60)
    points = expected_score("VideoMME", "vidcom2@0.25") - expected_score("VideoMME", "none")
    assert float(found["a_1", "VideoMME"]["against_dense"]) == pytest.approx(points)
    assert "| a_1 | measured, % of dense |" in files["figure9.md"]


def test_a_figure_of_the_paper_is_drawn_from_runs(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    figure = replace(SMALL, name="figure9", relative=True)
    for (benchmark, spec), scores in SCORES.items():
        write_run(tmp_path / "runs", benchmark, spec, scores, limit=50)
    write(figure, tmp_path / "runs", tmp_path)
    assert {file.name for file in tmp_path.glob("figure9.*")} == {
        f"figure9.{end}" for end in ("md", "tex", "csv", "png", "pdf", "svg")
    }
    (axes,) = drawn[0].axes
    assert "measured: tiny\nTRIAL" in axes.get_title()
    (first, second) = axes.containers
    assert (first.get_label(), second.get_label()) == ("a_1, measured", "b, measured")
    columns = ["MLVU", "VideoMME", "VideoMME-Short", "VideoMME-Long"]
    shares = [100 * expected_score(c, "vidcom2@0.25") / expected_score(c, "none") for c in columns]
    assert list(first.lines[0].get_ydata()) == pytest.approx(shares)
    assert len(second.lines[0].get_ydata()) == 1  # b has no run on Video-MME
    for (low, high), middle in zip((part[:, 1] for part in first.lines[2][0].get_segments()), shares, strict=True):
        assert low < middle < high
    drawn.clear()
    write(figure, tmp_path / "none", tmp_path)
    (axes,) = drawn[0].axes
    assert not axes.containers
    assert "measured: nothing yet" in axes.get_title()
    write(SMALL, tmp_path / "none", tmp_path)
    assert not list(tmp_path.glob("table5.p*"))


def test_percent_of_a_dense_that_is_not_measured(tmp_path):
    write_run(tmp_path, "mlvu", "vidcom2@0.25", [1, 0, 1])
    write_run(tmp_path, "videomme", "none", [0, 0, 0])
    write_run(tmp_path, "videomme", "vidcom2@0.25", [1, 0, 1])
    found = read_csv(render(replace(SMALL, relative=True), tmp_path)["table5.csv"])
    assert found["a_1", "MLVU"]["measured"] == ""
    assert found["a_1", "VideoMME"]["measured"] == ""  # a share of nothing
    assert found["dense", "average %"]["measured"] == ""


def test_nothing_is_measured(tmp_path):
    for name in TITLES:
        table = paper_table(name)
        for file, text in render(table, tmp_path).items():
            if file.endswith(".csv"):
                entries = list(csv.DictReader(io.StringIO(text)))
                assert len(entries) == sum(len(part.rows) for part in table.parts) * (
                    len(table.columns) + table.averaged
                )
                assert not any(entry["measured"] or entry["difference"] for entry in entries)
                assert any(entry["published"] for entry in entries)


def test_unfinished_runs_are_empty_and_others_are_kept_apart(runs, tmp_path):
    unfinished = tmp_path / "mlvu" / MODEL / "none"
    unfinished.mkdir(parents=True)
    (unfinished / "answers.rank0.jsonl").write_text("")
    (row, *_) = measure(SMALL, SMALL.parts[0], tmp_path)
    assert row.runs == {}
    assert all(cell.measured is None for cell in row.cells.values())

    # Runs that were made in different ways are told apart, by name.
    for spec, sampling in (("none", "uniform:32"), ("vidcom2@0.25", "uniform:8")):
        write_run(tmp_path, "videomme", spec, SCORES["videomme", spec], sampling=sampling, limit=50)
    text = render(SMALL, tmp_path)["table5.md"]
    assert text.count("- videomme: dense: model: tiny") == text.count("- videomme: a_1: model: tiny") == 1
    assert "TRIAL, not the table: only 50 questions per task" in text


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("place", "holds a run of random@0.25 on mlvu, not of vidcom2@0.25 on mlvu"),
        ("task", "lacks mlvu_dev, tasks of mlvu: run it again with --overwrite"),
        ("questions", "do not answer the same questions"),
        ("samples", "no samples.jsonl"),
    ],
)
def test_runs_that_are_not_what_they_should_be(kind, message, tmp_path, monkeypatch):
    write_run(tmp_path, "mlvu", "none", [1, 0, 1])
    if kind == "place":
        write_run(tmp_path, "mlvu", "random@0.25", [1, 0, 1], place="vidcom2@0.25")
    elif kind == "task":
        monkeypatch.setitem(TASK, "mlvu", "mlvu_test")
        write_run(tmp_path, "mlvu", "vidcom2@0.25", [1, 0, 1])
    elif kind == "questions":
        write_run(tmp_path, "mlvu", "vidcom2@0.25", [1, 0])
    else:
        (write_run(tmp_path, "mlvu", "vidcom2@0.25", [1, 0, 1]) / "samples.jsonl").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        render(SMALL, tmp_path)


# ---- from the command line


def call(*arguments: object) -> int:
    """What the command line does."""
    return prepare_table(parse(["table", *map(str, arguments)]))()


def test_render_only(tmp_path, capsys):
    for name, stem, drawn in (
        ("2", "table2", set()),
        ("figure5", "figure5", {"figure5.png", "figure5.pdf", "figure5.svg"}),
    ):
        assert call(name, "--render-only", "--runs", tmp_path, "--output", tmp_path / "new" / "tables") == 0
        assert {path.name for path in (tmp_path / "new" / "tables").glob(f"{stem}.*")} == {
            f"{stem}.md",
            f"{stem}.tex",
            f"{stem}.csv",
            *drawn,
        }
    assert capsys.readouterr().out.count("written: ") == 9
    text = (tmp_path / "new" / "tables" / "table2.md").read_text()
    assert "## LLaVA-Video-7B: lmms-lab/LLaVA-Video-7B-Qwen2" in text


def test_every_table_has_its_script():
    scripts = {path.name: path.read_text() for path in Path(__file__).parents[3].glob("scripts/reproduce_*.sh")}
    for other, command in (("figure1", "eval frame-drop --tasks mvbench"), ("table4", "efficiency.sh")):
        assert command in scripts.pop(f"reproduce_{other}.sh")
    stems = {name: name if name.startswith("figure") else f"table{name}" for name in TITLES}
    assert set(scripts) == {f"reproduce_{stem}.sh" for stem in stems.values()}
    for name, stem in stems.items():
        assert scripts[f"reproduce_{stem}.sh"].endswith(f'\nreproduce {name} "$@"\n')


def test_bad_flags(onevision, llava_video, tmp_path):
    flags = ("--runs", tmp_path, "--output", tmp_path, "--device", "cpu")
    with pytest.raises(ValueError, match="--only 'egoschema' must be some of mlvu, videomme"):
        call("5", "--model", onevision, "--only", "egoschema", *flags)
    with pytest.raises(ValueError, match=r"is evaluated as llava_vid, but Table 5: .* is about LLaVA-OneVision-7B"):
        call("5", "--model", llava_video, *flags)
    with pytest.raises(FileNotFoundError, match=r"--data .*/mlvu is not a directory"):
        call("5", "--model", onevision, "--only", "mlvu", "--data-root", tmp_path, *flags)


def test_checkpoints_of_both_families(onevision, llava_video, tmp_path):
    flags = ("--render-only", "--runs", tmp_path, "--output", tmp_path, "--device", "cpu")
    assert call("2", "--model", llava_video, "--model", onevision, *flags) == 0
    text = (tmp_path / "table2.md").read_text()
    assert f"## LLaVA-OneVision-7B: {onevision}" in text
    assert f"## LLaVA-Video-7B: {llava_video}" in text


def test_table_6_from_videos_to_files(onevision, tmp_path, monkeypatch):
    """Real runs, first of one benchmark, then of the other."""
    monkeypatch.setattr(minibench, "TASKS", {"action_count": minibench.TASKS["action_count"]})
    for benchmark in ("mlvu", "videomme"):
        minibench.WRITERS[benchmark](tmp_path / "data" / benchmark, 3)
    flags = ["--model", onevision, "--data-root", tmp_path / "data", "--runs", tmp_path / "runs", "--device", "cpu"]
    flags += ["--output", tmp_path / "tables"]
    assert call("6", *flags, "--only", "mlvu") == 0
    found = read_csv((tmp_path / "tables" / "table6.csv").read_text())
    assert {entry["column"] for entry in found.values() if entry["measured"]} == {"MLVU"}

    at = tmp_path / "runs" / "mlvu" / onevision.name / "vidcom2@0.25_frame_score=max_video_weight=0" / "results.json"
    stamp = at.stat().st_mtime_ns
    assert call("6", *flags, "--sampling", "uniform:32") == 0
    assert at.stat().st_mtime_ns == stamp  # what is finished stays
    written = {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()}
    assert call("6", *flags, "--render-only") == 0
    assert {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()} == written

    found = read_csv(written["table6.csv"])
    assert len(found) == 4 * 6
    for row in paper_table("6").parts[0].rows:
        for column in paper_table("6").columns:
            entry = found[row.label, column.name]
            directory = tmp_path / "runs" / column.benchmark / onevision.name / row.spec.replace(":", "_")
            answers = [json.loads(text) for text in (directory / "samples.jsonl").read_text().splitlines()]
            assert len(answers) == 3
            scores = [one["score"] for one in answers if column.category in (None, one["category"])]
            assert scores
            assert float(entry["measured"]) == pytest.approx(100 * sum(scores) / len(scores))
            kept = sum(one["tokens_after"] for one in answers) / sum(one["tokens_before"] for one in answers)
            assert float(entry["actual_retention"]) == pytest.approx(kept)
            assert (kept == 1) == (row.label == "dense")
            assert (entry["decoder"], entry["frames"]) == ("exact", "32")
            assert "lmms-eval 0.7.3" in entry["versions"]
            assert math.isfinite(float(entry["difference"]))

    # The same answers as another parser reads them; where it reads none, as the current one does.
    spec = paper_table("6").parts[0].rows[0].spec
    samples = tmp_path / "runs" / "mlvu" / onevision.name / spec / "samples.jsonl"
    lines = [json.loads(text) for text in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(one | {"scores": one["scores"] | {"legacy": 1.0}}) + "\n" for one in lines))
    assert call("6", *flags, "--render-only", "--parser", "legacy") == 0
    legacy = read_csv((tmp_path / "tables" / "table6.csv").read_text())
    dense = paper_table("6").parts[0].rows[0].label
    assert float(legacy[dense, "MLVU"]["measured"]) == 100
    assert legacy[dense, "MLVU"]["parser"] == "legacy"
    assert legacy[dense, "VideoMME"]["measured"] == found[dense, "VideoMME"]["measured"]
    assert call("6", *flags, "--parser", "current") == 0
    assert (tmp_path / "tables" / "table6.csv").read_text() == written["table6.csv"]

    text = written["table6.md"]
    assert f"ANOTHER CHECKPOINT: published is LLaVA-OneVision-7B, measured is {onevision}" in text
    assert "MLVU mean over categories, VideoMME over all questions" in text
    assert f"{dense} is {spec}" in text
    with pytest.raises(ValueError, match="--parser 'old' is unknown"):
        call("6", *flags, "--render-only", "--parser", "old")
    with pytest.raises(ValueError, match="sampling was 'uniform:32', is 'uniform:8'"):
        call("6", *flags, "--sampling", "uniform:8")
    with pytest.raises(ValueError, match="was made with no --limit, and now there is --limit 1: remove it"):
        call("6", *flags, "--limit", 1)
