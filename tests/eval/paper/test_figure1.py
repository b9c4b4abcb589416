"""The frame-drop experiment: its settings, its numbers, and the whole command on a tiny model."""

from __future__ import annotations

import json
import re

import pytest
from matplotlib.figure import Figure

from eval.benchmarks.mvbench import MVBENCH
from eval.cli import main
from eval.paper.figure1 import curves, markdown, rows, specs, split_ratios
from eval.results.load import Run, load_run
from eval.results.schema import RunSettings
from eval.results.stats import paired_interval
from eval.results.summary import summarise
from tests.eval.reports.test_compare import COUNT, STATE, line


def test_ratios():
    assert split_ratios("0.75, .25,0.25") == [0.25, 0.75]
    for text, message in (
        ("x", "must be numbers"),
        ("", "must be numbers"),
        ("0.5,1", "1.0 is no share"),
        ("0", "0.0"),
    ):
        with pytest.raises(ValueError, match=rf"--ratios '{text}'.*{message}"):
            split_ratios(text)


def test_specs():
    by_setting = specs([0.3, 0.7], "original")
    assert len(set(by_setting.values())) == 6
    for (drop, ratio), made in by_setting.items():
        assert (made.name, made.settings["drop"], made.positions) == ("frames", drop, "original")
        assert made.retention == round(1 - ratio, 9)
    assert specs([0.7], None)["redundant", 0.7].spec == "frames@0.3"


def run(tmp_path, scores: dict[str, list[int]], tokens: int) -> Run:
    lines = [line(task, i, s, tokens_after=tokens) for task, mine in scores.items() for i, s in enumerate(mine)]
    return Run(tmp_path, summarise(MVBENCH, lines, RunSettings({"model": "m", "compressor": "c"})), lines)


def test_numbers(tmp_path):
    dense = run(tmp_path, {COUNT: [1, 1, 1, 1], STATE: [1, 1]}, 100)
    found = {
        ("redundant", 0.5): {COUNT: [1, 1, 0, 1], STATE: [1, 1]},
        ("unique", 0.5): {COUNT: [1, 0, 0, 0], STATE: [0, 1]},
        ("even", 0.5): {COUNT: [1, 0, 0, 1], STATE: [1, 1]},
        ("redundant", 0.25): {COUNT: [1, 1, 1, 1], STATE: [1, 1]},
        ("unique", 0.25): {COUNT: [1, 0, 1, 0], STATE: [0, 1]},
        ("even", 0.25): {COUNT: [1, 0, 1, 1], STATE: [1, 1]},
    }
    runs = {key: run(tmp_path, scores, {0.5: 52, 0.25: 77}[key[1]]) for key, scores in found.items()}
    header, quarter, half = rows(runs)
    assert header[:4] == ("asked for", "dropped", "most redundant dropped", "most unique dropped")
    assert quarter[:2] == ("25 %", "23.0 %")
    assert half[:2] == ("50 %", "48.0 %")
    # The mean of the two tasks: (3/4 + 2/2) / 2, (1/4 + 1/2) / 2, (2/4 + 2/2) / 2.
    assert [cell.split()[0] for cell in half[2:]] == ["87.5", "37.5", "75.0", "-50.0"]
    tasks = ["count"] * 4 + ["state"] * 2
    _, low, high = paired_interval([1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1], tasks, "macro")
    assert half[5] == f"-50.0 [{low:+.1f}, {high:+.1f}]"
    drawn = curves(runs)
    assert list(drawn) == list(header[2:5])
    assert {(p.retention, p.accuracy) for p in drawn["most unique dropped"]} == {(0.52, 37.5), (0.77, 50)}
    assert "Dense: 100.0 [100.0, 100.0]." in markdown(dense, runs)


def test_command(onevision, mvbench, tmp_path, monkeypatch, capsys):
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    more = ("--limit", 2, "--sampling", "uniform:4", "--ratios", "0.5,0.75", "--device", "cpu")
    assert main(["frame-drop", *map(str, (*flags, *more))]) == 0
    dense = load_run(tmp_path / "none").summary.visual_tokens
    separator = 1
    for chosen in specs([0.5, 0.75], None).values():
        spec = chosen.spec
        result = load_run(tmp_path / spec.replace(":", "_")).summary
        per_frame = (dense.after_per_sample - separator) / 4
        frames = 2 if "@0.5" in spec else 1
        assert result.visual_tokens.after_per_sample == frames * per_frame + separator
    text = (tmp_path / "frame-drop.md").read_text()
    assert "TRIAL: only 2 questions per task" in text
    accuracy = json.loads((tmp_path / "frames@0.5_drop=unique" / "results.json").read_text())["scores"]["overall"]
    (half,) = re.findall(r"\| 50 % \|.*\|", text)
    assert half.split(" | ")[3].startswith(f"{accuracy:.1f} [")
    (axes,) = figures[0].axes
    assert len(axes.containers) == 3
    assert {len(container.lines[0].get_xdata()) for container in axes.containers} == {3}
    assert "frame-drop.png" in capsys.readouterr().out
    whole = (*more[2:], "--ratios", "0.5")
    assert main(["frame-drop", *map(str, (*flags, *whole))]) == 1
    assert "none was made with --limit 2, and now there is no --limit" in capsys.readouterr().err
    assert main(["frame-drop", *map(str, flags), "--ratios", "1"]) == 1
    assert "--ratios '1'" in capsys.readouterr().err
