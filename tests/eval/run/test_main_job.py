"""The main job: the script as users call it, and the command line behind it, on real video files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.benchmarks.mvbench import MVBENCH, MVBENCH_FOLDERS
from eval.cli import main
from eval.demo.minibench import WRITERS
from eval.demo.run import SETTINGS, State
from eval.demo.world import TASKS, UNITS
from eval.results.sample import STAGES
from eval.run.command import chosen_compressor
from eval.run.flags import FAILED_QUESTIONS
from eval.run.store import reserved
from eval.run.sweep import folder
from tests.fixtures.mvbench import make_mvbench

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "eval_mvbench.sh"


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def script(cwd: Path, *flags: str, name: str = SCRIPT.name, **env: str) -> subprocess.CompletedProcess:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("COMPRESSOR", "R_RATIO", "MODEL", "DATA", "OUTPUT", "LIMIT")
    }
    environment = {**clean, "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(
        ["bash", str(SCRIPT.with_name(name)), *flags], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def other_project(tmp_path_factory) -> Path:
    """A directory with packages of our names, which cannot be imported."""
    root = tmp_path_factory.mktemp("script")
    for package in ("llava", "eval", "vidcom2"):
        (root / package).mkdir()
        (root / package / "__init__.py").write_text("raise SystemExit('another project')")
    return root


@pytest.fixture(scope="module")
def both(onevision, other_project, tmp_path_factory) -> dict[str, Path]:
    """All 20 tasks, by the script in the directory of another project, in one process and in two that read ahead."""
    data = make_mvbench(tmp_path_factory.mktemp("data"), per_task=2)
    outputs = {}
    for processes, flags in (("1", ()), ("2", ("--workers", "1"))):
        outputs[processes] = other_project / f"out{processes}"
        done = script(
            other_project,
            *flags,
            MODEL=str(onevision),
            DATA=str(data),
            OUTPUT=outputs[processes].name,
            R_RATIO="0.15",
            NUM_GPUS=processes,
        )
        assert done.returncode == 0, done.stderr
        assert "overall" in done.stdout
    return outputs


def test_script_writes_complete_results(both, onevision):
    results, lines = results_of(both["1"]), lines_of(both["1"])
    assert list(results["scores"]["categories"]) == sorted(MVBENCH_FOLDERS)
    assert len(lines) == results["samples"] == 40
    for task, scores in results["scores"]["categories"].items():
        mine = [line for line in lines if line["task"] == f"mvbench_{task}"]
        assert scores["accuracy"] == pytest.approx(100 * sum(line["score"] for line in mine) / 2)
        assert scores["accuracy"] == pytest.approx(results["harness_scores"][f"mvbench_{task}"])
        assert (scores["samples"], scores["failed"]) == (2, 0)
    overall = [scores["accuracy"] for scores in results["scores"]["categories"].values()]
    assert results["scores"]["overall"] == pytest.approx(sum(overall) / 20)
    assert 0 < results["scores"]["overall"] < 100, "chance answers should be right sometimes"

    assert {line["frames"] for line in lines} == {32}
    assert {line["tokens_before"] for line in lines} == {32 * 4 * 4 + 1}
    assert all(0.15 * 512 <= line["tokens_after"] <= 0.25 * 512 + 1 for line in lines)  # ceil of 2.4 tokens per frame
    assert results["visual_tokens"]["after"] == sum(line["tokens_after"] for line in lines)
    assert {line["positions"] for line in lines} == {"repack"}
    assert all(line["seconds"][stage] > 0 for line in lines for stage in STAGES)
    assert all("<image>\nQuestion:" in line["prompt"] for line in lines)
    assert all(line["parsed"] in (None, *"ABCDE") and line["target"] in "ABCDE" for line in lines)
    assert all(line["score"] == (line["parsed"] == line["target"]) for line in lines)

    assert results["run"]["compressor"] == "vidcom2@0.15"
    assert results["run"]["compressor_settings"]["rounding"] == "ceil"
    assert results["run"]["model"] == str(onevision)
    assert results["run"]["sampling"] == "uniform:32"
    assert results["provenance"]["versions"]["lmms-eval"] == "0.7.3"
    assert results["failures"] == []
    assert "| overall |" in (both["1"] / "table.md").read_text()
    assert not list(both["1"].glob("answers.*")), "raw answers are merged into samples.jsonl"


def test_two_processes_give_the_same(both):
    one, two = (results_of(both[n]) for n in "12")
    assert two["run"]["processes"] == 2
    assert two["scores"] == one["scores"]
    assert two["visual_tokens"] == one["visual_tokens"]
    for a, b in zip(lines_of(both["1"]), lines_of(both["2"]), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_the_current_directory_is_not_imported_from(both, other_project):
    """Not by the command, the processes that answer, those that read ahead, nor by other scripts."""
    for output in both.values():
        assert output.parent == other_project
        assert results_of(output)["samples"] == 40
    assert results_of(both["2"])["run"]["processes"] == 2
    for other in ("efficiency.sh", "reproduce_table2.sh"):
        done = script(other_project, "--help", name=other)
        assert done.returncode == 0, done.stderr


def test_help_needs_no_environment(tmp_path):
    done = script(tmp_path, "--help", PYTHON="/nonexistent")
    assert done.returncode == 0
    for name in ("MODEL", "COMPRESSOR", "R_RATIO", "NUM_GPUS", "OUTPUT", "LIMIT", "ATTN", "DATA", "--demo"):
        assert name in done.stdout


def run(*flags: object) -> int:
    here = () if "--demo" in flags else ("--workers", "0")  # what is patched here is patched there
    return main(["run", "--device", "cpu", *here, *map(str, flags)])


def test_compressors_are_compared_on_equal_terms(llava_video, mvbench, tasks, tmp_path):
    for compressor in ("none", "vidcom2", "vidcom2.released@0.5:newlines=rows"):
        output = tmp_path / compressor
        flags = ("--tasks", tasks, "--model", llava_video, "--data", mvbench, "--compressor", compressor)
        assert run(*flags, "--output", output) == 0
        results = results_of(output)
        before = {(line["task"], line["doc_id"]): line["tokens_before"] for line in lines_of(output)}
        if compressor == "none":
            dense = before
            assert results["visual_tokens"]["retention"] == 1
            assert results["run"]["compressor"] == "none"
        else:
            assert before == dense
            assert results["visual_tokens"]["retention"] < 0.75
    # LLaVA-Video: one frame a second from the first on, rows of 3 patches and a newline, 3 rows.
    for line in lines_of(tmp_path / "none"):
        assert line["frames"] == len(range(0, round(line["duration_s"] * 24), 24))
        assert line["tokens_before"] == line["frames"] * 3 * 4


@pytest.mark.parametrize(
    ("benchmark", "categories", "average"),
    [
        ("mlvu", {"anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning"}, "macro"),
        ("videomme", {"short", "medium", "long"}, "micro"),
    ],
)
def test_other_benchmarks(benchmark, categories, average, onevision, tmp_path):
    data = WRITERS[benchmark](tmp_path / "data", 3)
    flags = ("--tasks", benchmark, "--model", onevision, "--data", data, "--sampling", "uniform:4")
    assert run(*flags, "--output", tmp_path / "out") == 0
    results, lines = results_of(tmp_path / "out"), lines_of(tmp_path / "out")
    scores = results["scores"]
    assert set(scores["categories"]) == categories
    assert scores["overall"] == scores[average] == pytest.approx(*results["harness_scores"].values())
    assert 0 < scores["overall"] < 100
    assert len(lines) == 27
    assert {line["frames"] for line in lines} == {4}
    assert results["run"]["sampling"] == "uniform:4"


@pytest.mark.parametrize(
    "benchmark", ["mvbench", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlvu", "videomme"))]
)
def test_demo(benchmark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in ((), ("--overwrite",)):
        assert run("--tasks", benchmark, "--demo", "--limit", 1, *flags) == 0
    output = tmp_path / "outputs" / "demo" / benchmark
    tokens = []
    for setting in SETTINGS:
        results = results_of(output / folder(setting.spec))
        assert results["samples"] == len(TASKS)
        tokens.append(results["visual_tokens"]["after_per_sample"])
    every, newline = UNITS * 36, 1
    dense, quarter, less, random = (count - newline for count in tokens)
    assert (dense, random) == (every, every / 4)
    assert 0 <= quarter - 0.25 * every < UNITS, "VidCom² rounds every frame's budget up"
    assert 0 <= less - 0.15 * every < UNITS
    assert "% of dense" in (output / "table.md").read_text()


def test_the_demo_deletes_only_what_is_its_own(tmp_path, capsys):
    theirs = tmp_path / "data" / "theirs.txt"
    theirs.parent.mkdir()
    theirs.touch()
    assert run("--tasks", "mvbench", "--demo", "--limit", 1, "--output", tmp_path) == 1
    assert f"--output {tmp_path} holds data, not known to be a demo's" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [theirs.parent, theirs]


def test_a_second_demo_waits_for_its_turn(tmp_path, capsys):
    State(parts={"data": ""}).write(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "of_the_first.mp4").touch()
    with reserved(tmp_path):  # the first one is at work
        assert run("--tasks", "mvbench", "--demo", "--limit", 1, "--output", tmp_path) == 1
    assert f"error: another run writes into {tmp_path}: wait until it is done" in capsys.readouterr().err
    assert (tmp_path / "data" / "of_the_first.mp4").exists()


def test_limit(onevision, mvbench, tasks, tmp_path):
    flags = ("--tasks", tasks, "--model", onevision, "--data", mvbench, "--output", tmp_path / "out", "--limit", 2)
    assert run(*flags) == 0
    assert [line["doc_id"] for line in lines_of(tmp_path / "out")] == [0, 1] * 3


def test_unreadable_videos_are_listed_and_count_as_wrong(onevision, mvbench, tasks, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(mvbench, data)
    task = "mvbench_action_count"
    questions = json.loads((data / "json" / "action_count.json").read_text())
    missing, corrupt = (MVBENCH.local_video(task, data, doc) for doc in questions[:2])
    missing.unlink()
    corrupt.write_bytes(b"not a video" * 100)
    output = tmp_path / "out"
    flags = ("--tasks", tasks, "--model", onevision, "--data", data, "--output", output)
    assert run(*flags) == FAILED_QUESTIONS

    results = results_of(output)
    assert [(f["task"], f["doc_id"], f["video"]) for f in results["failures"]] == [
        (task, 0, str(missing)),
        (task, 1, str(corrupt)),
    ]
    assert all(f["video"] in f["error"] for f in results["failures"])
    scores = results["scores"]["categories"]["action_count"]
    assert (scores["samples"], scores["failed"]) == (3, 2)
    failed = lines_of(output)[:2]
    assert [(line["answer"], line["parsed"], line["score"]) for line in failed] == [(None, None, 0.0)] * 2
    assert capsys.readouterr().out.count("FAILED") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", "mvbench_nothing"), "no benchmark"),
        (("--tasks", "mvbench", "--compressor", "vidcom3"), "'vidcom3' is unknown"),
        (("--tasks", "mvbench", "--retention", "1.5"), "retention=1.5"),
        (("--tasks", "mvbench", "--retention", "0"), "retention=0.0"),
        (("--tasks", "mvbench", "--compressor", "vidcom2@many"), "retention='many'"),
        (("--tasks", "mvbench", "--model", "/nonexistent/model"), "--model /nonexistent/model: no such directory"),
        (("--tasks", "mvbench", "--model", Path(__file__).parent), "config.json"),
        (("--tasks", "mvbench", "--decoder", "ffmpeg"), "'ffmpeg'"),
        (("--tasks", "mvbench", "--preprocess", "quick"), "--preprocess 'quick'"),
        (("--tasks", "mvbench", "--limit", "0"), "--limit 0"),
        (("--tasks", "mvbench", "--attn", "linear"), "attn_implementation='linear'"),
        (("--tasks", "mvbench", "--dtype", "int8"), "torch_dtype='int8'"),
        (("--tasks", "mvbench", "--sampling", "all"), "bad frame sampling 'all'"),
        (("--tasks", "videomme", "--data", "/nonexistent"), "--data /nonexistent is not a directory"),
        (("--tasks", "mvbench", "--data", "/proc"), "json/ and its videos"),
        (("--tasks", "mvbench", "--num-gpus", "0"), "--num-gpus 0 must be at least 1"),
        (("--tasks", "mvbench", "--retention", "0.5", "--compressor", "none"), "none, which compresses nothing"),
        (("--tasks", "mvbench", "--retention", "0.5", "--compressor", "vidcom2@0.25"), "tell two retentions"),
        (("--tasks", "mvbench", "--compressor", "vidcom2@"), "no retention behind @"),
        (("--tasks", "mvbench", "--compressor", "none@0.5"), "none compresses nothing"),
        (("--tasks", "mvbench", "--model", "gpt2"), "--model gpt2: no such directory"),
        (("--tasks", "mvbench", "--zero3-config", "a.json"), "--zero3-config a.json is for --engine deepspeed"),
        (("--tasks", "mvbench", "--engine", "foo"), "--engine (ENGINE) 'foo' is unknown"),
        (("--tasks", "mvbench", "--output", Path(__file__)), "--output"),
        (("--tasks", "mvbench", "--demo", "--limit", "0"), "--limit 0"),
        (
            ("--tasks", "mvbench", "--demo", "--model", "gpt2"),
            "--model gpt2 is no demo model: with --demo, write",
        ),
        (("--tasks", "mvbench", "--demo", "--model", "llava-video", "--attn", "eager"), "leave out --attn"),
    ],
)
def test_bad_flags_fail_before_anything_is_loaded(flags, message, tmp_path, capsys, onevision):
    assert run("--model", onevision, "--output", tmp_path, *flags) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "retention", "env", "expected"),
    [
        (None, None, {}, "vidcom2@0.25"),
        (None, None, {"COMPRESSOR": "random", "R_RATIO": "0.5"}, "random@0.5"),
        (None, 0.1, {"COMPRESSOR": "random", "R_RATIO": "0.5"}, "random@0.1"),
        ("vidcom2@0.5", None, {"COMPRESSOR": "random", "R_RATIO": "0.15"}, "vidcom2@0.5"),
        ("vidcom2:retention=0.5", None, {"R_RATIO": "0.15"}, "vidcom2@0.5"),
        ("vidcom2", None, {"R_RATIO": "0.15"}, "vidcom2@0.15"),
        ("vidcom2@0.5", 0.5, {}, "vidcom2@0.5"),
        ("none", None, {"R_RATIO": "0.15"}, "none"),
        (None, None, {"COMPRESSOR": "none", "R_RATIO": ""}, "none"),
    ],
)
def test_flags_win_over_the_environment(spec, retention, env, expected):
    assert chosen_compressor(spec, retention, env).spec == expected


@pytest.mark.parametrize(
    "env",
    [
        {"MODEL": "/nonsense", "COMPRESSOR": "vidcom3"},
        {"R_RATIO": "0.5"},
        {"DATA": "/data/MVBench", "DECODER": "decord"},
        {"ENGINE": "deepspeed", "PARSER": "legacy", "ATTN": "eager", "NUM_GPUS": "2"},
    ],
)
def test_the_demo_takes_no_settings_from_the_environment_either(env, tmp_path, monkeypatch, capsys):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert run("--tasks", "mvbench", "--demo", "--limit", 1, "--output", tmp_path / "demo") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --demo has its own model, videos and settings: leave out ")
    assert all(f"{name} in the environment" in error for name in env)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"R_RATIO": "text"}, "R_RATIO=text is no number"),
        ({"COMPRESSOR": "vidcom2@0.5", "R_RATIO": "0.15"}, "vidcom2@0.5 and R_RATIO=0.15 tell two retentions"),
    ],
)
def test_bad_environment(env, message):
    with pytest.raises(ValueError, match=message):
        chosen_compressor(None, None, env)


def test_questions_of_another_benchmark(onevision, tmp_path, capsys):
    data = WRITERS["mlvu"](tmp_path / "data", 1)
    (data / "videomme").mkdir()
    shutil.copy(data / "test.json", data / "videomme" / "test.json")
    assert run("--tasks", "videomme", "--model", onevision, "--data", data, "--output", tmp_path / "out") == 1
    error, *_, last = capsys.readouterr().err[-10_000:].partition("error: ")[2].splitlines()
    assert error == f"videomme: {data / 'videomme' / 'test.json'}: question 0: it has no videoID"
    assert "doctor" in last


def test_tasks_without_questions_are_counted(onevision, mvbench, tmp_path, capsys):
    data = shutil.copytree(mvbench, tmp_path / "data")
    for task in ("action_count", "action_antonym"):
        (data / "json" / f"{task}.json").unlink(missing_ok=True)
    assert run("--tasks", "mvbench", "--model", onevision, "--data", data, "--output", tmp_path / "out") == 1
    missing = len(MVBENCH_FOLDERS) - len(list((data / "json").iterdir()))
    assert f"(so it is for {missing} of 20 tasks); python -m eval doctor" in capsys.readouterr().err


def test_interrupted(onevision, mvbench, tmp_path, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("eval.run.setup.InProcess.answer", interrupt)
        assert run(*flags) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted; ")
    with monkeypatch.context() as patch:
        patch.setattr("eval.run.config.RunConfig.check", interrupt)
        assert run(*flags) == 130
    assert run(*flags) == 0


def test_two_runs_into_one_output(onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    with reserved(tmp_path):
        assert run(*flags) == 1
    assert f"another run writes into {tmp_path}" in capsys.readouterr().err
    assert run(*flags) == 0
    assert results_of(tmp_path)["samples"] == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_what_turns_out_to_be_unsuitable(processes, onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--data", mvbench, "--output", tmp_path / "out")
    flags = (*flags, "--num-gpus", processes)
    assert run("--model", onevision, "--compressor", "fastv@0.25:k=1", *flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: on --model {onevision}, fastv cannot reach retention=0.25 on the 2 layers")
    broken = shutil.copytree(onevision, tmp_path / "llava-broken")
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run("--model", broken, *flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --model {broken} cannot be loaded: ")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_that_computes_no_numbers(processes, onevision, mvbench, tmp_path, capfd):
    broken = shutil.copytree(onevision, tmp_path / "llava-broken")
    for file in broken.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: torch.full_like(one, torch.nan) for name, one in weights.items()}, file, {"format": "pt"})
    flags = ("--tasks", "mvbench_action_count", "--model", broken, "--data", mvbench, "--num-gpus", processes)
    assert run(*flags, "--output", tmp_path / "out") == 1
    error = " ".join(capfd.readouterr().err.split())
    assert re.search(r"mvbench_action_count question \d: the model computes NaN or infinity: its weights are", error)
    assert f"error: --model {broken} answers none of 3 questions: the model computes NaN" in error
    assert not (tmp_path / "out" / "results.json").exists()
    if processes == 1:
        assert run(*flags, "--output", tmp_path / "one", "--limit", 1) == FAILED_QUESTIONS


def test_finished_results_are_not_overwritten(onevision, mvbench, tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    assert run(*flags) == 1
    assert "holds finished results" in capsys.readouterr().err
    assert run(*flags, "--overwrite") == 0
    assert results_of(tmp_path)["samples"] == 3
