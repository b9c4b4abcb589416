"""--demo, as a newcomer meets it: what is printed, and every command that knows it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from eval.benchmarks.edition import FILE, edition
from eval.benchmarks.mvbench import MVBENCH
from eval.cli import main, parse
from eval.demo.about import in_lines
from eval.demo.commands import demo_of
from eval.demo.minibench import write_mlvu, write_mvbench
from eval.demo.run import Demo, outdated
from eval.demo.run import config as config_of
from eval.models.packaged import DEMO_MODELS, model_title
from eval.results.load import load_run
from eval.run.flags import DEFAULT_MODEL
from vidcom2 import Dense, compressor
from vidcom2.methods.uniform import Uniform


def run(*flags: object) -> int:
    return main([str(flag) for flag in flags])


def assert_narrow(lines: list[str]) -> None:
    """Does every line fit into 80 columns? The path of an interpreter elsewhere may be longer."""
    assert max(cell_len(line) for line in lines if sys.executable not in line) <= 80


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
    commands = printed.partition("\nnext:\n")[2].replace(" \\\n", "").splitlines()
    assert_narrow(lines)
    assert str(demo) not in printed, "no absolute paths"
    assert all(" -m eval " in command for command in commands)
    assert "MiniBench (MVBench's schema), demo model llava-onevision" in lines[0]
    settings = [line.split()[0] for line in lines if re.search(r"\[.*\] .* \(\d\.\d\dx\)", line)]
    assert settings == ["dense", "vidcom2@0.25", "vidcom2@0.15", "random@0.25"]
    assert any(line.split()[2:] == settings for line in lines[8:]), "the heading of the second table, in one line"
    text = " ".join(printed.split())
    assert "chance is 25 %" in text
    assert "The paper's figures, not measured here: with VidCom², LLaVA-OneVision-7B keeps 99.6 % at 25 % and" in text
    assert "(arXiv 2505.14454, table 2)" in text
    assert "mvbench " not in printed.replace("--tasks mvbench ", "")


def test_what_is_printed_into_a_pipe(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run("run", "--demo", "--limit", 1) == 0
    out, err = capsys.readouterr()
    assert err.count("is finished already") == 4
    assert_narrow(out.splitlines())
    assert str(demo) not in out


def test_commands_in_lines(tmp_path):
    assert in_lines("vidcom2 run --demo  # a 7 B model") == "  vidcom2 run --demo  # a 7 B model"
    place = tmp_path / ("long " * 20)
    folded = in_lines(f"printf '%s,' sweep --output {shlex.quote(str(place))} {'--limit ' * 20} '' 'a b'  # comment")
    assert max(len(line) for line in folded.splitlines() if str(tmp_path) not in line) <= 80
    done = subprocess.run(["bash", "-c", folded], capture_output=True, text=True, check=True)
    assert done.stdout.split(",")[:-1] == ["sweep", "--output", str(place), *["--limit"] * 20, "", "a b"]


def test_the_users_own_compressor_stands_beside_the_demos(demo):
    spec = "norm@0.1"
    assert load_run(demo / "outputs/demo/mvbench" / spec).summary.run.compressor == spec


def test_sweep(demo, monkeypatch, capsys):
    """Dense is there for comparison. What is compared is measured in one pass, and stays."""
    monkeypatch.chdir(demo)
    monkeypatch.setenv("COLUMNS", "80")
    long = "norm@0.1:positions=original"
    for finished in (0, 3):
        assert run("sweep", "--demo", "--limit", 1, "--compressors", f"{long},uniform@0.25") == 0
        out, err = capsys.readouterr()
        assert err.count("is finished already") == finished
        assert ("making MiniBench" in err) is False
    lines = out.splitlines()
    assert lines[0] == "MiniBench (MVBench's schema), demo model llava-onevision"
    assert [line.split()[0] for line in lines[3:6]] == ["dense", "norm@0.1", "uniform@0.25"]
    assert f"norm@0.1 [2] is {long}" in lines
    assert any(line.split()[2:] == ["dense", "norm@0.1", "[2]", "uniform@0.25"] for line in lines)
    assert_narrow(lines)


def test_frame_drop(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    assert run("frame-drop", "--tasks", "mvbench", "--demo", "--limit", 1, "--ratios", 0.5) == 0
    assert "Whole frames dropped: MiniBench (MVBench's schema), demo model llava-onevision" in capsys.readouterr().out
    assert (demo / "outputs/demo/mvbench/frame-drop.md").exists()


def test_compare(demo, monkeypatch, capsys):
    """Of the questions that are there. What is missing is run."""
    monkeypatch.chdir(demo)
    assert run("compare", "--demo", "none", "random@0.9") == 0
    out, err = capsys.readouterr()
    assert "MiniBench (MVBench's schema)" in out
    assert err.count("is finished already") == 1
    assert run("compare", "--demo", "none", "random@0.9", "--json", "numbers.json") == 0
    assert capsys.readouterr().err.count("is finished already") == 2
    assert json.loads(Path("numbers.json").read_text(encoding="utf-8"))["b"]["compressor"] == "random@0.9"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("compare", "--demo", "dense", "none"), "names one setting twice"),
        (("compare", "a", "b", "--limit", 1), "--limit is for --demo"),
        (("run",), "--tasks is missing: name a benchmark, such as --tasks mvbench"),
        (("run", "--demo", "--tasks", "mvbench_action_count"), "name a whole benchmark, one of mvbench, mlvu"),
        (("run", "--demo", "--parser", "legacy"), "leave out --parser"),
        (("sweep", "--demo", "--compressors", "none", "--batch-size", 2), "leave out --batch-size"),
        (("frame-drop", "--demo", "--dtype", "float16"), "leave out --dtype"),
        *(
            (("run", "--demo", "--model", model), f"--model {model} is no demo model: with --demo, write llava-onevis")
            for model in ("mine", DEFAULT_MODEL)
        ),
    ],
)
def test_flags_without_an_effect_are_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*flags) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def demo_flags(*flags: object) -> Demo:
    return demo_of(parse(["sweep", "--compressors", "none", "--demo", *map(str, flags)]), "compressors")


def test_models_are_found_where_their_directory_is(tmp_path, monkeypatch):
    monkeypatch.setitem(DEMO_MODELS, "llava-video", tmp_path / "llava_video")
    with pytest.raises(ValueError, match=r"--model llava-video is no demo model: with --demo, write llava-onevision$"):
        demo_flags("--model", "llava-video")
    (tmp_path / "llava_video").mkdir()
    made = demo_flags("--model", "llava-video", "--limit", 3, "--tasks", "mlvu")
    assert made.output == Path("outputs/demo/llava-video/mlvu")
    assert made.flags == "--demo --tasks mlvu --model llava-video --limit 3"
    with pytest.raises(ValueError, match=r"write llava-onevision or llava-video$"):
        demo_flags("--model", "llava")
    assert demo_flags().output == Path("outputs/demo/mvbench")
    assert demo_flags("--output", "here").flags == "--demo --output here"


def test_other_questions_replace_the_demos(demo, tmp_path, monkeypatch):
    """A run of other questions must not be compared with these."""
    there = demo_flags("--limit", 1)
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with there.sweep([Dense()]) as sweep:
        assert not sweep.missing
    monkeypatch.setattr("eval.demo.run.SOURCES", ("world.py",))
    with there.sweep([Dense()]) as sweep:
        assert [run.output.name for run in sweep.missing] == ["none"]
    kept = sorted(path.name for path in there.output.iterdir() if path.is_dir())
    assert kept == ["data", "none"]


def test_methods_of_other_packages_are_measured_again(tmp_path, monkeypatch):
    """Nothing tells whether their code has changed."""
    monkeypatch.setattr("eval.demo.run.require_same", lambda *_, finished: [])
    data = write_mvbench(tmp_path / "data", 1)
    config = replace(config_of(MVBENCH, data, tmp_path), compressor=compressor("uniform@0.25"))
    assert not outdated(config)
    monkeypatch.setattr(Uniform, "__module__", "theirs")
    assert outdated(config)


def test_report(demo, monkeypatch, tmp_path):
    monkeypatch.chdir(demo)
    page = tmp_path / "report.html"
    runs = [f"outputs/demo/mvbench/{spec}" for spec in ("none", "norm@0.1")]
    assert run("report", *runs, "--output", page) == 0
    assert "MiniBench (MVBench&#x27;s schema), demo model llava-onevision" in page.read_text()


@pytest.mark.skipif(not DEMO_MODELS["llava-video"].is_dir(), reason="there is one demo model")
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
