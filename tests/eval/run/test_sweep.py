"""Many compressors in one pass: equal to separate runs, and to a run that was killed and started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.cli import main
from eval.models.llava import LlavaEngine
from eval.models.qwen import QwenEngine
from eval.models.qwen_protocol import QWEN_PROTOCOLS
from eval.results.schema import CategoryScore, RunSettings, Scores, Seconds, Summary, VisualTokens
from eval.results.side_by_side import markdown, side_by_side
from eval.run.flags import FAILED_QUESTIONS
from eval.run.sweep import split_specs
from tests.eval.qwen_tiny import make_qwen
from tests.eval.run.test_main_job import lines_of, results_of

SPECS = ("none", "vidcom2@0.25", "fastv+fca@0.6:k=1", "random@0.15:seed=3")


def evaluate(command: str, *flags: object) -> int:
    return main([command, "--device", "cpu", "--workers", "0", *map(str, flags)])


def same(a: Path, b: Path) -> bool:
    """Do two runs' lines agree in everything but time?"""
    mine, theirs = ([{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(run)] for run in (a, b))
    return bool(mine) and mine == theirs


SLOW = [pytest.param("qwen2_5_vl", marks=pytest.mark.slow)]
"""Its engine is Qwen2-VL's, its video processor Qwen3-VL's, and these are tried in any case."""


@pytest.mark.parametrize(
    "kind", ["onevision", "llava_video", "qwen2_vl", *SLOW, pytest.param("qwen3_vl", marks=pytest.mark.slow)]
)
def test_one_pass_equals_separate_runs(kind, request, mvbench, tasks, tmp_path):
    model = make_qwen(tmp_path, kind) if kind in QWEN_PROTOCOLS else request.getfixturevalue(kind)
    flags = ("--tasks", tasks, "--model", model, "--data", mvbench, "--limit", 2)
    if kind == "qwen3_vl":  # it enlarges small frames, and would take 32 of them
        flags = (*flags, "--sampling", "uniform:8")
    assert evaluate("sweep", *flags, "--compressors", ",".join(SPECS), "--output", tmp_path / "sweep") == 0
    for spec in SPECS:
        together, alone = (tmp_path / name / spec.replace(":", "_") for name in ("sweep", "alone"))
        assert evaluate("run", *flags, "--compressor", spec, "--output", alone) == 0
        assert same(together, alone)
        assert results_of(together)["scores"] == results_of(alone)["scores"]
        assert results_of(together)["run"] == results_of(alone)["run"]
        assert all(line["seconds"]["vision"] > 0 for line in lines_of(together))
    tokens = {spec: results_of(tmp_path / "alone" / spec.replace(":", "_"))["visual_tokens"]["after"] for spec in SPECS}
    assert len(set(tokens.values())) == len(SPECS)


def test_videos_are_seen_once_and_finished_settings_stay(onevision, mvbench, tasks, tmp_path, monkeypatch, capsys):
    calls: Counter[str] = Counter()
    for name in ("see", "answer_all"):
        original = getattr(LlavaEngine, name)

        def spy(self: Any, *args: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(self, *args)

        monkeypatch.setattr(LlavaEngine, name, spy)
    flags = ("--tasks", tasks, "--model", onevision, "--data", mvbench, "--limit", 2, "--output", tmp_path)
    assert evaluate("sweep", *flags, "--compressors", "none,vidcom2@0.25") == 0
    assert calls == {"see": 6, "answer_all": 12}
    assert evaluate("sweep", *flags, "--compressors", "none,random@0.5,vidcom2@0.25") == 0
    assert calls == {"see": 12, "answer_all": 18}
    assert evaluate("sweep", *flags, "--compressors", "none,vidcom2@0.25") == 0
    assert calls == {"see": 12, "answer_all": 18}
    assert capsys.readouterr().err.count("is finished already") == 4
    assert "| % of dense | 100.0 |" in (tmp_path / "table.md").read_text()


def test_finished_results_of_other_settings_are_not_taken_for_these(onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    assert evaluate("sweep", *flags, "--compressors", "none", "--sampling", "uniform:4") == 0
    assert evaluate("sweep", *flags, "--compressors", "none", "--sampling", "uniform:8") == 1
    assert "sampling was 'uniform:4', is 'uniform:8'" in capsys.readouterr().err
    assert evaluate("sweep", *flags, "--compressors", "none", "--sampling", "uniform:8", "--overwrite") == 0
    assert {line["frames"] for line in lines_of(tmp_path / "none")} == {8}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--tasks", "mvbench_action_count", "--limit", 2), "made with --limit 1, and now there is --limit 2: remove"),
        (("--tasks", "mvbench_action_count"), "made with --limit 1, and now there is no --limit: remove"),
        (
            ("--tasks", "mvbench_action_count,mvbench_moving_direction", "--limit", 1),
            "made with --tasks mvbench_action_count, and now there is --tasks mvbench_action_count,mvbench_mov",
        ),
    ],
)
def test_finished_results_over_other_questions_do_not_stand_beside_these(
    asked, message, onevision, mvbench, tmp_path, capsys
):
    flags = ("--model", onevision, "--data", mvbench, "--output", tmp_path, "--sampling", "uniform:2")
    first = ("--tasks", "mvbench_action_count", "--limit", 1, "--compressors", "none")
    assert evaluate("sweep", *flags, *first) == 0
    assert evaluate("sweep", *flags, *asked, "--compressors", "none,vidcom2@0.25") == 1
    assert f"error: {tmp_path / 'none'} was {message}" in capsys.readouterr().err
    assert not (tmp_path / "vidcom2@0.25").exists()
    assert evaluate("sweep", *flags, *asked, "--compressors", "none", "--overwrite") == 0


@pytest.mark.parametrize("more", [(), ("--retry-failed",)])
def test_damaged_results_are_named(more, onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    flags = (*flags, "--compressors", "none", "--limit", 1, "--sampling", "uniform:2")
    assert evaluate("sweep", *flags) == 0
    results = tmp_path / "none" / "results.json"
    results.write_bytes(results.read_bytes()[:100])
    assert evaluate("sweep", *flags, *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {results} is damaged (")
    assert error.endswith("): run again with --overwrite")
    assert evaluate("sweep", *flags, *more, "--overwrite") == 0


@pytest.mark.parametrize("kind", ["onevision", "qwen2_vl", *SLOW])
def test_reading_ahead_changes_nothing(kind, request, mvbench, tasks, tmp_path):
    model = make_qwen(tmp_path, kind) if kind in QWEN_PROTOCOLS else request.getfixturevalue(kind)
    data = shutil.copytree(mvbench, tmp_path / "data")
    sorted((data / "video").rglob("*.mp4"))[1].write_bytes(b"not a video")
    flags = ("--tasks", tasks, "--model", model, "--data", data)
    for workers in (0, 2):
        assert evaluate("run", *flags, "--workers", workers, "--output", tmp_path / str(workers)) == FAILED_QUESTIONS
    assert same(tmp_path / "0", tmp_path / "2")
    assert results_of(tmp_path / "0")["run"] == results_of(tmp_path / "2")["run"]
    assert all(line["seconds"]["decode"] > 0 for line in lines_of(tmp_path / "2") if not line["error"])


@pytest.mark.parametrize("kind", ["onevision", "qwen2_vl"])
def test_batches_give_the_same_answers(kind, request, mvbench, tasks, tmp_path, monkeypatch):
    model = make_qwen(tmp_path, kind) if kind in QWEN_PROTOCOLS else request.getfixturevalue(kind)
    data = shutil.copytree(mvbench, tmp_path / "data")
    sorted((data / "video").rglob("*.mp4"))[1].write_bytes(b"not a video")
    sizes: list[int] = []
    for engine in (LlavaEngine, QwenEngine):
        original = engine.answer_all

        def spy(self: Any, asked: Any, *args: Any, original: Any = original) -> Any:
            sizes.append(len(asked))
            return original(self, asked, *args)

        monkeypatch.setattr(engine, "answer_all", spy)
    flags = ("--tasks", tasks, "--model", model, "--data", data, "--compressors", "none,vidcom2@0.25")
    for size in (1, 4):
        sizes.clear()
        assert evaluate("sweep", *flags, "--batch-size", size, "--output", tmp_path / str(size)) == FAILED_QUESTIONS
        assert max(sizes) == size
        assert sum(sizes) == 2 * 8
    for spec in ("none", "vidcom2@0.25"):
        assert same(tmp_path / "1" / spec, tmp_path / "4" / spec)
        assert results_of(tmp_path / "4" / spec)["run"]["batch_size"] == 4


def test_failures_of_every_setting_are_told(onevision, mvbench, tmp_path, capsys):
    data = shutil.copytree(mvbench, tmp_path / "data")
    broken = sorted((data / "video").rglob("action_count*.mp4"))[0]
    broken.write_bytes(b"")
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", data, "--output", tmp_path / "out")
    assert evaluate("sweep", *flags, "--compressors", "none,vidcom2") == FAILED_QUESTIONS
    assert capsys.readouterr().out.count("FAILED") == 2
    for spec in ("none", "vidcom2@0.25"):
        assert [failure["video"] for failure in results_of(tmp_path / "out" / spec)["failures"]] == [str(broken)]


def test_a_method_that_cannot_serve_the_model_is_found_before_the_first_question(onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    assert evaluate("sweep", *flags, "--compressors", "none,fastv@0.6") == 1
    assert "k=2 leaves none of the 2 layers" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "none").glob("answers*"))


PROCESSES = {
    "two of ours": ["-m", "eval", "sweep", "--num-gpus", "2"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eval", "sweep"],
}


@pytest.mark.parametrize("processes", ["two of ours", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_where_it_was(processes, onevision, mvbench, tasks, tmp_path):
    """SIGKILL to the whole process group in the midst of a real run, which is then started again."""
    flags = ["--tasks", tasks, "--model", str(onevision), "--data", str(mvbench), "--compressors", "none,vidcom2@0.15"]
    command = [sys.executable, *PROCESSES[processes], "--device", "cpu", "--workers", "0", *flags]
    output = tmp_path / "killed"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--output", str(output)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 240
    while not any(file.read_text().count("\n") >= 2 for file in output.glob("*/answers.rank*.jsonl")):
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(output.glob("*/results.json"))
    # As if the kill had come in the middle of a line; and one answer is marked, to see that it is not made anew.
    (file, *_) = sorted(output.glob("none/answers.rank*.jsonl"))
    marked, *others = file.read_text().splitlines(keepends=True)
    line = {**json.loads(marked), "duration_s": 12345.0}
    file.write_text(json.dumps(line) + "\n" + "".join(others) + marked[:30])

    assert subprocess.run([*command, "--output", str(output)], env=environment).returncode == 0
    assert evaluate("sweep", *flags, "--output", tmp_path / "whole") == 0
    (again,) = [one for one in lines_of(output / "none") if one["duration_s"] == 12345.0]
    assert (again["task"], again["doc_id"]) == (line["task"], line["doc_id"])
    for spec in ("none", "vidcom2@0.15"):
        scored, whole = (
            [{k: v for k, v in one.items() if k not in ("seconds", "duration_s")} for one in lines_of(run / spec)]
            for run in (output, tmp_path / "whole")
        )
        assert scored == whole
        assert not list((output / spec).glob("answers*"))


@pytest.mark.slow  # tests/eval/run/test_pool.py has its quick forms
def test_a_process_that_dies_costs_nothing_but_itself(onevision, mvbench, tasks, tmp_path):
    """SIGSEGV to a process that answers, in the midst of a real run with two of them."""
    flags = ["--tasks", tasks, "--model", str(onevision), "--data", str(mvbench), "--compressors", "none,vidcom2@0.15"]
    command = [sys.executable, "-m", "eval", "sweep", "--device", "cpu", "--workers", "0", "--num-gpus", "2", *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    output = tmp_path / "hurt"
    process = subprocess.Popen([*command, "--output", str(output)], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not any(file.read_text() for file in output.glob("none/answers.rank0.jsonl")):
        assert process.poll() is None, "it finished before it could be hurt"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # it cannot end while this test looks for its workers
    (server,) = (pid for pid in children(process.pid) if "forkserver" in command_line(pid))
    hurt = next(pid for pid in children(server) if children(pid) == [])
    os.kill(hurt, signal.SIGSEGV)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[1].count("a process died (SIGSEGV)") == 1
    assert process.returncode == 0
    assert evaluate("sweep", *flags, "--output", tmp_path / "whole") == 0
    for spec in ("none", "vidcom2@0.15"):
        assert same(output / spec, tmp_path / "whole" / spec)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def test_an_interrupted_run_of_other_settings_is_not_continued(onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    assert evaluate("run", *flags) == 0
    (tmp_path / "results.json").unlink()  # what a kill leaves: settings, and answers
    (tmp_path / "answers.rank0.jsonl").write_text('{"task": "mvb')
    assert evaluate("run", *flags, "--retention", 0.5) == 1
    assert re.search(r"holds a run of other settings \(compressor was 'vidcom2@0.25', is", capsys.readouterr().err)
    assert evaluate("run", *flags, "--retention", 0.5, "--overwrite") == 0


def test_questions_that_failed_are_asked_again(onevision, mvbench, tmp_path):
    data = shutil.copytree(mvbench, tmp_path / "data")
    broken = sorted((data / "video").rglob("action_count*.mp4"))[0]
    whole = broken.read_bytes()
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", data, "--output", tmp_path / "out")
    broken.write_bytes(b"")
    assert evaluate("run", *flags) == FAILED_QUESTIONS
    failed = next(line for line in lines_of(tmp_path / "out") if line["error"])
    (tmp_path / "out" / "results.json").unlink()
    leftover = {key: failed[key] for key in ("task", "doc_id", "video", "prompt", "error", "frames", "duration_s")}
    leftover |= {"answer": "", "tokens_before": 0, "tokens_after": 0, "seconds": {}}
    (tmp_path / "out" / "answers.rank0.jsonl").write_text(json.dumps(leftover) + "\n")
    broken.write_bytes(whole)
    assert evaluate("run", *flags) == 0


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_failed_questions_of_finished_results_are_asked_again(
    command, onevision, mvbench, tmp_path, monkeypatch, capsys
):
    data = shutil.copytree(mvbench, tmp_path / "data")
    broken = sorted((data / "video").rglob("action_count*.mp4"))[0]
    whole = broken.read_bytes()
    output = tmp_path / "out"
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", data, "--output", output)
    if command == "sweep":
        flags, output = (*flags, "--compressors", "none,vidcom2@0.5"), output / "vidcom2@0.5"
    broken.write_bytes(b"")
    assert evaluate(command, *flags) == FAILED_QUESTIONS
    before = lines_of(output)
    assert sum(line["error"] is not None for line in before) == 1
    broken.write_bytes(whole)
    if command == "run":
        assert evaluate(command, *flags) == FAILED_QUESTIONS
        assert "--retry-failed asks the 1 failed questions again" in capsys.readouterr().err
    asked: list[Any] = []
    answer_all = LlavaEngine.answer_all
    monkeypatch.setattr(LlavaEngine, "answer_all", lambda *a: asked.extend(a[1]) or answer_all(*a))
    assert evaluate(command, *flags, "--retry-failed") == 0
    assert len(asked) == (2 if command == "sweep" else 1)
    after = lines_of(output)
    assert all(line["error"] is None for line in after)
    assert [line for line in after if line["doc_id"] != 0] == [line for line in before if line["doc_id"] != 0]
    assert not list(output.glob("answers*"))


def test_damaged_lines_of_answers_are_asked_again(onevision, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", tmp_path)
    assert evaluate("run", *flags) == 0
    whole = lines_of(tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "answers.rank0.jsonl").write_bytes(b"\0\0\0\n" + b'{"task": 1}\n' + b'{"task": "mv')
    assert evaluate("run", *flags) == 0
    told = capsys.readouterr().err
    assert "line 1 is damaged; that question is asked again" in told
    assert "line 2 is damaged" in told
    assert [line["answer"] for line in lines_of(tmp_path)] == [line["answer"] for line in whole]
    (tmp_path / "results.json").unlink()
    (tmp_path / "answers.jsonl").write_text("{")
    for damaged in ("", "[]"):
        (tmp_path / "settings.json").write_text(damaged)
        assert evaluate("run", *flags) == 1
        assert "settings.json is damaged" in capsys.readouterr().err


def test_specs_are_separated_by_commas():
    text = "dense, vidcom2,pdrop@0.15:layers=(2,7,14),fastv+fca@0.25:fca.tau=0.02"
    assert [one.spec for one in split_specs(text)] == [
        "none",
        "vidcom2@0.25",
        "pdrop@0.15:layers=(2, 7, 14)",
        "fastv+fca@0.25:fca.tau=0.02",
    ]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("dense,none", "has none twice"),
        ("vidcom2,vidcom2@0.25", "has vidcom2@0.25 twice"),
        (",", "names no compressor"),
        ("vidcom3", "'vidcom3' is unknown"),
    ],
)
def test_bad_specs(specs, message):
    with pytest.raises(ValueError, match=message):
        split_specs(specs)


def test_an_unwritable_output_is_found_before_anything_is_loaded(onevision, mvbench, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench)
    assert evaluate("run", *flags, "--output", tmp_path / "file" / "out") == 1
    assert "file" in capsys.readouterr().err


def result(overall: float, after: float, scores: dict[str, float]) -> Summary:
    categories = {name: CategoryScore(value, 1, 0, 0) for name, value in scores.items()}
    return Summary(
        benchmark="mvbench",
        scores=Scores(overall, overall, overall, categories),
        samples=2,
        visual_tokens=VisualTokens(514, 2 * after, after / 257, 257.0, after),
        seconds={"decode": Seconds(0, 0.0052, 0), "prefill": Seconds(0, 0.0171, 0)},
        failures=[],
        run=RunSettings({}),
    )


def test_settings_stand_side_by_side():
    rows = side_by_side(
        {
            "none": result(80.0, 257.0, {"action_count": 70.0, "state_change": 90.0}),
            "vidcom2@0.25": result(76.0, 72.5, {"action_count": 72.0, "state_change": 80.0}),
        }
    )
    assert rows == [
        ("", "dense", "vidcom2@0.25"),
        ("action_count", "70.0", "72.0"),
        ("state_change", "90.0", "80.0"),
        ("overall", "80.0", "76.0"),
        ("% of dense", "100.0", "95.0"),
        ("tokens before", "257.0", "257.0"),
        ("tokens after", "257.0", "72.5"),
        ("decode, ms", "5.2", "5.2"),
        ("prefill, ms", "17.1", "17.1"),
    ]
    assert "| % of dense | 100.0 | 95.0 |" in markdown("mvbench", rows)
