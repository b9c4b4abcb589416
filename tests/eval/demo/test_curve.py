from __future__ import annotations

import json

import pytest
from matplotlib.figure import Figure

from eval.demo.training.curve import training_curve
from eval.demo.world import TASKS


def test_training_curve(monkeypatch, tmp_path):
    drawn: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), savefig(figure, *a, **k)))
    words = dict.fromkeys(TASKS, 0.5) | {"resting_shape": 0.9, "overall": 0.5}
    reports = [
        {"lesson": "vision", "step": 50, "loss": 1.0},
        {"lesson": "names", "step": 200, "word": words, "choice": {"overall": 0.25}},
        {"lesson": "words", "step": 400, "word": words | {"action_count": 0.75}, "choice": {"overall": 0.375}},
    ]
    file = tmp_path / "curve.jsonl"
    file.write_text("".join(json.dumps(report) + "\n" for report in reports))
    assert all(path.stat().st_size > 1000 for path in training_curve(file, tmp_path / "curve"))
    (axes,) = drawn[-1].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert {*TASKS} < set(lines)
    assert "resting_shape" not in lines, "stepping stones are no tasks"
    assert list(lines["action_count"].get_ydata()) == [50, 75]
    assert list(lines["all tasks, in letters"].get_xdata()) == [200, 400]
    assert list(lines["all tasks, in letters"].get_ydata()) == [25, 37.5]
    file.write_text(json.dumps(reports[0]) + "\n")
    with pytest.raises(ValueError, match="no accuracies yet"):
        training_curve(file, tmp_path / "curve")
