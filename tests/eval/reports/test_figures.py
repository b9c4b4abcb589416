from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from eval.benchmarks.mvbench import MVBENCH
from eval.reports.figures import (
    COLOURS,
    MARKERS,
    Point,
    Share,
    accuracy_retention,
    beside_published,
    dropped_frames,
    measure_panels,
    point,
)
from eval.results.load import Run
from eval.results.sample import STAGES
from eval.results.schema import RunSettings, ScoredSample
from eval.results.summary import summarise

DENSE = Point(1.0, 58.0, 56.5, 59.5)
CURVES = {
    "vidcom2": [Point(0.5, 57.5, 56, 59), Point(0.152, 55, 53.5, 56.5), Point(0.27, 57, 55.5, 58)],
    "random": [Point(0.15, 50, 48, 52)],
}


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved from here on."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments, **named) -> None:
        figures.append(figure)
        save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_files(tmp_path):
    files = accuracy_retention(CURVES, DENSE, tmp_path / "new" / "vidcom2@0.25", "MVBench")
    assert files == tuple(tmp_path / f"new/vidcom2@0.25.{ending}" for ending in ("png", "pdf", "svg"))
    assert sorted((tmp_path / "new").iterdir()) == sorted(files)
    pdf, svg = files[1].read_bytes(), files[2].read_text(encoding="utf-8")
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf, "TrueType, not Type 3, which journals refuse"
    assert b"/Type3" not in pdf
    assert ">MVBench</text>" in svg
    pixels = np.asarray(Image.open(files[0]).convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)):
        assert (pixels == colour).all(1).sum() > 100


def test_what_is_drawn_is_what_was_given(drawn, tmp_path):
    accuracy_retention(CURVES, DENSE, tmp_path / "f", "MVBench, 7B", "overall accuracy, %")
    (axes,) = drawn[0].axes
    assert (axes.get_title(), axes.get_ylabel()) == ("MVBench, 7B", "overall accuracy, %")
    lines, bars = [container.lines[0] for container in axes.containers], [c.lines[2][0] for c in axes.containers]
    assert lines[0].get_xydata().tolist() == pytest.approx(np.array([[15.2, 55], [27, 57], [50, 57.5]]))
    assert lines[1].get_xydata().tolist() == [[15, 50]]
    segments = np.array(bars[0].get_segments())
    assert segments == pytest.approx(
        np.array([[[15.2, 53.5], [15.2, 56.5]], [[27, 55.5], [27, 58]], [[50, 56], [50, 59]]])
    )
    (dense,) = [line for line in axes.lines if line.get_label() == "dense"]
    assert (dense.get_linestyle(), set(dense.get_ydata())) == ("--", {58.0})
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((56.5, 59.5))
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "vidcom2", "random"]
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_twelve_methods_are_told_apart(drawn, tmp_path):
    curves = {f"method {i}": [Point(r, 50 + i, 49 + i, 51 + i) for r in (0.15, 0.25)] for i in range(12)}
    accuracy_retention(curves, DENSE, tmp_path / "f", "all")
    lines = [container.lines[0] for container in drawn[0].axes[0].containers]
    assert len({line.get_marker() for line in lines}) == len(MARKERS) == 12
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    assert "--" not in {line.get_linestyle() for line in lines}
    legend, axes = drawn[0].legends[0].get_window_extent(), drawn[0].axes[0].get_window_extent()
    assert not legend.overlaps(axes)
    assert legend.y0 > 0  # all of it is on the page


def test_colours_differ_for_dichromats():
    """Viénot, Brettel and Mollon (1999): how the colours look without the long- or middle-wave cones."""
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    protan = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]])
    deutan = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])
    for sight in (np.eye(3), protan, deutan):
        seen = np.clip(linear @ sight.T, 0, 1) ** (1 / 2.2)
        assert min(np.linalg.norm(x - y) for x, y in combinations(seen, 2)) > 0.1


def test_same_input_same_bytes(tmp_path):
    """Also in another process, with another hash seed and date, which never loads pyplot's global state."""
    files = accuracy_retention(CURVES, DENSE, tmp_path / "here", "MVBench")
    code = (
        "import sys; from tests.eval.reports.test_figures import *\n"
        f"accuracy_retention(CURVES, DENSE, Path({str(tmp_path / 'there')!r}), 'MVBench')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], env=environment)
    for file in files:
        assert file.read_bytes() == (tmp_path / f"there{file.suffix}").read_bytes()
    assert b"CreationDate" not in files[1].read_bytes()


def run(scores: list[float], categories: list[str], after: int, error: str | None = None) -> Run:
    lines = [
        ScoredSample(
            task=f"mvbench_{category}",
            category=category,
            doc_id=i,
            video="v.mp4",
            prompt="?",
            answer="A",
            parsed="A",
            target="A",
            score=score,
            scores={"current": score},
            error=error,
            tokens_before=100,
            tokens_after=after,
            seconds=dict.fromkeys(STAGES, 0.1),
        )
        for i, (score, category) in enumerate(zip(scores, categories, strict=True))
    ]
    return Run(Path("out"), summarise(MVBENCH, lines, RunSettings({"model": "m", "compressor": "c"})), lines)


def test_point_of_a_run():
    found = point(run([1, 0, 1, 1, 0, 0, 0, 1], ["a"] * 4 + ["b"] * 4, 27))
    assert (found.retention, found.accuracy) == (0.27, 50)
    assert found.low < 50 < found.high
    flat = point(run([1, 0, 1], ["a", "b", "c"], 27))
    assert flat.low == flat.accuracy == flat.high == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="no question was answered"):
        point(run([0], ["a"], 0, error="gone"))


def test_no_spread_can_be_drawn(tmp_path):
    """Where accuracy and interval are the same but for rounding."""
    accuracy_retention(
        {"m": [Point(0.25, 66.66666666666667, 66.66666666666666, 66.66666666666666)]}, DENSE, tmp_path / "f", ""
    )


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((25, 50, 49, 51), "retention=25 must be a share"),
        ((0, 50, 49, 51), "retention=0 must be a share"),
        ((0.25, 50, 51, 49), "accuracy=50 is not between low=51 and high=49"),
        ((0.25, float("nan"), 49, 51), "accuracy=nan is not between"),
    ],
)
def test_bad_points(numbers, message):
    with pytest.raises(ValueError, match=message):
        Point(*numbers)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "0 methods"),
        ({str(i): [DENSE] for i in range(13)}, "13 methods in a figure that can tell 1 to 12 apart"),
        ({"a": [DENSE], "b": []}, "b: no points"),
    ],
)
def test_bad_curves(tmp_path, curves, message):
    with pytest.raises(ValueError, match=message):
        accuracy_retention(curves, DENSE, tmp_path / "f", "")
    assert not list(tmp_path.iterdir())


def test_dropped_frames(drawn, tmp_path):
    files = dropped_frames(CURVES, DENSE, tmp_path / "f", "MVBench")
    assert [file.name for file in files] == ["f.png", "f.pdf", "f.svg"]
    (axes,) = drawn[0].axes
    lines = [container.lines[0] for container in axes.containers]
    assert lines[0].get_xydata() == pytest.approx(np.array([[0, 58], [50, 57.5], [73, 57], [84.8, 55]]))
    assert lines[1].get_xydata() == pytest.approx(np.array([[0, 58], [85, 50]]))
    with pytest.raises(ValueError, match="a: no points"):
        dropped_frames({"a": []}, DENSE, tmp_path / "g", "")


PANELS = {
    "coverage, %": {"a": [(40.0, 90.0, 88.0, 91.0), (5.0, 30.0, 30.0, 30.0)], "b": [(25.0, 95.0, 94.0, 96.0)]},
    "L2-NQE": {"b": [(25.0, 0.1, 0.1, 0.2)]},
}


def test_measures_have_a_panel_each(drawn, tmp_path):
    files = measure_panels(PANELS, {"coverage, %": 100.0}, tmp_path / "f", "kept")
    assert [file.name for file in files] == ["f.png", "f.pdf", "f.svg"]
    left, right = drawn[0].axes
    assert [axes.get_title() for axes in (left, right)] == list(PANELS)
    a, b = left.containers
    assert a.lines[0].get_xydata() == pytest.approx(np.array([[5, 30], [40, 90]]))
    assert b.lines[0].get_xydata() == pytest.approx(np.array([[25, 95]]))
    assert [line.get_ydata()[0] for line in left.get_lines() if line.get_label() == "dense"] == [100]
    assert not [line for line in right.get_lines() if line.get_label() == "dense"]
    (alone,) = right.containers
    assert alone.lines[0].get_color() == b.lines[0].get_color() != a.lines[0].get_color()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["dense", "a", "b"]


@pytest.mark.parametrize("methods", [0, 13])
def test_panels_of_more_methods_than_colours(tmp_path, methods):
    lines = {str(i): [(25.0, 1.0, 1.0, 1.0)] for i in range(methods)}
    with pytest.raises(ValueError, match=f"{methods} methods in a figure that can tell 1 to 12 apart"):
        measure_panels({"a": lines, "b": lines}, {}, tmp_path / "f", "")


SHARES = {"a": [Share(90.0, (95.0, 94.0, 96.5)), Share(80.0)], "b": [Share(100.5), Share(70.0)]}


def test_published_numbers_are_told_from_measured_ones(drawn, tmp_path):
    beside_published(["MLVU", "VideoMME-Long"], SHARES, tmp_path / "f", "figure")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["a, published"].get_ydata()) == [90, 80]
    assert list(lines["b, published"].get_ydata()) == [100.5, 70]
    assert {lines[f"{name}, published"].get_markerfacecolor() for name in "ab"} == {"none"}
    (measured,) = axes.containers  # b is not measured, nor is a's second column
    assert measured.get_label() == "a, measured"
    ((x, y),) = measured.lines[0].get_xydata()
    assert (x - lines["a, published"].get_xdata()[0], y) == pytest.approx((0.2, 95))
    assert measured.lines[2][0].get_segments()[0][:, 1] == pytest.approx([94, 96.5])
    assert measured.lines[0].get_markerfacecolor() == COLOURS[0]
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["dense", "a, published", "b, published", "a, measured"]
    ticks = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert not ticks[0].overlaps(ticks[1])
    for methods, message in (({}, "0 methods"), ({"a": [Share(1)]}, "a: not one share for each of MLVU, VideoMME")):
        with pytest.raises(ValueError, match=message):
            beside_published(["MLVU", "VideoMME"], methods, tmp_path / "g", "")
