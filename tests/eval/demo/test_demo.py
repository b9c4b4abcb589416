"""--demo, as a newcomer meets it: what is printed, and every command that knows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from eval.benchmarks.edition import FILE, edition
from eval.cli import main
from eval.demo.minibench import write_mlvu
from eval.models.packaged import DEMO_MODELS, model_title
from eval.results.load import load_run


def run(*flags: object) -> int:
    return main([str(flag) for flag in flags])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the demo has run with a compressor of the user's beside its own."""
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run("run", "--tasks", "mvbench", "--demo", "--limit", 1, "--compressor", "norm@0.1") == 0
    return root


@pytest.fixture
def printed(demo, monkeypatch, capsys) -> str:
    """What the demo prints on a terminal of 80 columns."""
    monkeypatch.chdir(demo)
    monkeypatch.setenv("COLUMNS", "80")
    assert run("run", "--tasks", "mvbench", "--demo", "--limit", 1) == 0
    return capsys.readouterr().out


def test_what_is_printed(printed, demo):
    lines = printed.splitlines()
    commands = [line for line in lines if line.startswith(("  python -m eval", "  bash "))]
    assert max(cell_len(line) for line in lines if line not in commands) <= 80
    assert str(demo) not in printed, "no absolute paths"
    assert "MiniBench (MVBench's schema), demo model llava-onevision" in lines[0]
    settings = [line.split()[0] for line in lines if re.search(r"\[.*\] .* ms \(", line)]
    assert settings == ["dense", "vidcom2@0.25", "vidcom2@0.15", "random@0.25"]
    assert any(line.split() == settings for line in lines[8:]), "the heading of the second table, in one line"
    assert "Chance is 25 %" in printed
    assert "arXiv 2505.14454" in printed
    assert lines[-len(commands) :] == commands, "the last lines say what to run next"


def test_the_users_own_compressor_stands_beside_the_demos(demo):
    spec = "norm@0.1"
    assert load_run(demo / "outputs/demo/mvbench" / spec).summary.run.compressor == spec


def test_sweep(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    assert run("sweep", "--tasks", "mvbench", "--demo", "--limit", 1, "--compressors", "norm@0.1,uniform@0.25") == 0
    out, err = capsys.readouterr()
    assert "norm@0.1 is finished already" in err
    assert "MiniBench (MVBench's schema), demo model llava-onevision" in out


def test_frame_drop(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    assert run("frame-drop", "--tasks", "mvbench", "--demo", "--limit", 1, "--ratios", 0.5) == 0
    assert "Whole frames dropped: MiniBench (MVBench's schema), demo model llava-onevision" in capsys.readouterr().out
    assert (demo / "outputs/demo/mvbench/frame-drop.md").exists()


def test_compare(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    assert run("compare", "--demo", "none", "norm@0.1") == 0
    assert "MiniBench (MVBench's schema)" in capsys.readouterr().out
    assert run("compare", "--demo", "none", "random@0.9") == 1
    assert (
        "no finished run: make it with sweep --tasks mvbench --demo --compressors random@0.9" in capsys.readouterr().err
    )


def test_report(demo, monkeypatch, tmp_path):
    monkeypatch.chdir(demo)
    page = tmp_path / "report.html"
    runs = [f"outputs/demo/mvbench/{spec}" for spec in ("none", "norm@0.1")]
    assert run("report", *runs, "--output", page) == 0
    assert "MiniBench (MVBench&#x27;s schema), demo model llava-onevision" in page.read_text()


def test_models_do_not_share_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--tasks", "mvbench", "--demo", "--limit", 1, "--compressors", "random@0.25")
    for family in DEMO_MODELS:
        assert run("sweep", *flags, "--model", family) == 0
    one, other = (tmp_path / "outputs/demo" / place / "random@0.25" for place in ("mvbench", "llava-video/mvbench"))
    tokens = [load_run(place).summary.visual_tokens.after_per_sample for place in (one, other)]
    assert tokens == [32 * 9 + 1, 32 * (9 + 6)], "one newline, and one for each row of each frame"


def test_editions(tmp_path):
    data = write_mlvu(tmp_path, 1)
    assert edition(data) == "MiniBench (MLVU's schema)"
    (data / FILE).write_text(json.dumps(["MLVU"]))
    with pytest.raises(ValueError, match=f'{FILE} must be a JSON object with a "title"'):
        edition(data)
    (data / FILE).write_text(json.dumps({"title": 3}))
    with pytest.raises(ValueError, match="the title 3 is no text"):
        edition(data)
    (data / FILE).unlink()
    assert edition(data) is edition(None) is None


def test_titles_of_models(tmp_path):
    (tmp_path / "llava-ov-7b").mkdir()
    assert model_title(str(tmp_path / "llava-ov-7b")) == "llava-ov-7b"
    assert model_title("lmms-lab/llava-onevision-qwen2-7b-ov") == "lmms-lab/llava-onevision-qwen2-7b-ov"
    assert [model_title(str(path)) for path in DEMO_MODELS.values()] == [f"demo model {name}" for name in DEMO_MODELS]
