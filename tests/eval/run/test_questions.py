"""Questions that cannot be asked or scored are found before the first answer, by the run as by the doctor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import BENCHMARKS
from eval.cli import main, parse
from eval.demo.minibench import WRITERS
from eval.doctor.command import PROBLEMS_FOUND, prepare_doctor
from eval.doctor.videos import Finding
from eval.run.lmms import load_tasks
from eval.run.questions import LISTED, NoQuestions, require_scorable
from tests.eval.run.test_main_job import lines_of
from tests.fixtures.mvbench import make_mvbench

NAMES = {"mvbench": "mvbench_action_count"}
"""The task of a benchmark that has more than one."""


@pytest.fixture(scope="module")
def minis(tmp_path_factory) -> dict[str, Path]:
    written = {name: write(tmp_path_factory.mktemp(name), 1) for name, write in WRITERS.items() if name not in NAMES}
    return {"mvbench": make_mvbench(tmp_path_factory.mktemp("mvbench"), ["action_count"]), **written}


@pytest.fixture
def copies(minis, tmp_path) -> Callable[[str], tuple[Path, Path]]:
    """Of a benchmark: its directory, without videos, and the file of its task's questions."""

    def copy(name: str) -> tuple[Path, Path]:
        data = shutil.copytree(minis[name], tmp_path / name, ignore=shutil.ignore_patterns("*.mp4"))
        (file,) = BENCHMARKS[name].local(task_of(name), data)["dataset_kwargs"]["data_files"].values()
        return data, Path(file if isinstance(file, str) else file[0])

    return copy


def task_of(name: str) -> str:
    return NAMES.get(name) or BENCHMARKS[name].tasks[0]


def complaints(name: str, data: Path) -> list[str]:
    """What a run says before the first answer."""
    benchmark = BENCHMARKS[name]
    try:
        tasks = load_tasks(benchmark, (task_of(name),), data, "llava_onevision")
        doubts = require_scorable(benchmark, tasks, data)
    except NoQuestions as error:
        return str(error).splitlines()
    return [str(doubt) for doubt in doubts]


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_said_of_good_questions(name, minis):
    assert complaints(name, minis[name]) == []


MISSING = object()


@pytest.mark.parametrize(
    ("name", "field", "value", "cause"),
    [
        ("mvbench", "video", None, "it has no video"),
        ("mvbench", "video", MISSING, "it has no video"),
        ("mvbench", "video", 7, "its video 7 is not text"),
        ("mvbench", "video", "", "its video '' is empty"),
        ("mvbench", "video", "/etc/a.mp4", "its video '/etc/a.mp4' is no path below the folder of videos"),
        ("mvbench", "video", "../a.mp4", "its video '../a.mp4' is no path below the folder of videos"),
        ("mvbench", "video", "a\0.mp4", "its video 'a\\x00.mp4' has a zero byte"),
        ("mvbench", "video", "a" * 300 + ".mp4", f"its video '{'a' * 76}... is too long for a file's name"),
        ("mvbench", "video", "a/" * 3000 + "a.mp4", "is too long for a file's name"),
        ("mvbench", "video", ".", "its video '.' is no path below the folder of videos"),
        ("mvbench", "question", None, "it has no question"),
        ("mvbench", "question", " ", "its question ' ' is empty"),
        (
            "mvbench",
            "question",
            "\ud800",
            "its question '\\ud800' has half a character (a surrogate), which is no text",
        ),
        ("mvbench", "candidates", None, "it has no candidates"),
        ("mvbench", "candidates", [], "its candidates [] is a list of 0; 1 to 26 options can have letters"),
        ("mvbench", "candidates", ["a"] * 31, "is a list of 31; 1 to 26 options can have letters"),
        ("mvbench", "candidates", "red, blue", "its candidates 'red, blue' is no list of texts"),
        ("mvbench", "candidates", ["1", 2], "its candidates ['1', 2] is no list of texts"),
        ("mvbench", "answer", None, "it has no answer"),
        ("mvbench", "answer", 3, "its answer 3 is not text"),
        ("mvbench", "answer", "a hundred", "its answer 'a hundred' is none of its candidates ["),
        ("mlvu", "task_type", "bogus", "its task_type 'bogus': cannot be asked and scored (KeyError: 'bogus')"),
        ("mlvu", "task_type", None, "it has no task_type"),
        (
            "videomme",
            "duration",
            "eternal",
            "its duration 'eternal' is none that lmms-eval scores: short, medium, long",
        ),
        ("videomme", "task_type", "Guessing", "its task_type 'Guessing' is none that lmms-eval scores: "),
        ("longvideobench", "correct_choice", "B", "its correct_choice 'B' is no whole number"),
        ("egoschema", "option", ["A. red"], "cannot be asked and scored (IndexError: "),
        ("egoschema", "answer", "B", "its answer 'B': cannot be asked and scored (ValueError: "),
        ("perceptiontest", "answer_id", None, "it has no answer_id"),
        ("perceptiontest", "answer_id", "x", "its answer_id 'x': cannot be asked and scored ("),
    ],
)
def test_a_bad_question_is_named(name, field, value, cause, copies):
    data, file = copies(name)
    docs = json.loads(file.read_text())
    if value is MISSING:
        del docs[1][field]
    else:
        docs[1][field] = value
    file.write_text(json.dumps(docs))
    said, *rest = complaints(name, data)
    assert said.startswith(f"{task_of(name)}: {file}: question 1: ")
    assert cause in said
    assert rest == ["python -m eval doctor, with that --data, says more"]


@pytest.mark.parametrize(
    ("name", "field", "value", "letter"),
    [("videomme", "answer", "E", "E"), ("longvideobench", "correct_choice", 20, "U"), ("mlvu", "answer", "x", "x")],
)
def test_an_answer_that_is_never_right_is_a_doubt(name, field, value, letter, copies):
    data, file = copies(name)
    docs = json.loads(file.read_text())
    docs[1][field] = value
    file.write_text(json.dumps(docs))
    (said,) = complaints(name, data)
    assert said.startswith(f"{task_of(name)}: {file}: question 1: its answer '{letter}' is none of its options A, B, C")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "holds no questions"),
        (b"[]", "holds no questions"),
        (b"7", "question 0: 7 is no JSON object"),
        (b"[7, null]", "question 0: 7 is no JSON object"),
        (b'[["video"]]', "question 0: ['video'] is no JSON object"),
        (b'"text"', "question 0: 'text' is no JSON object"),
        (b'{"video": "a.mp4"}', "question 0: it has no question"),
        (b'{\n"video": "a.mp4"}', "is neither a JSON list of questions nor a JSON object in each line ("),
        (b'[{"video": ', "is neither a JSON list of questions nor a JSON object in each line ("),
        (b"[" * 100_000, "is neither a JSON list of questions nor a JSON object in each line ("),
        (b'[{"video": "\xff"}]', "is not UTF-8 text ("),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    ],
)
def test_the_shape_of_a_file_is_looked_at_before_it_is_read_otherwise(content, cause, copies, monkeypatch):
    data, file = copies("mvbench")
    file.write_bytes(content)
    monkeypatch.setattr("lmms_eval.tasks.TaskManager.load_config", None)
    said, *_ = complaints("mvbench", data)
    assert said.startswith(f"mvbench_action_count: {file}: {cause}")


def test_questions_in_lines_are_questions(copies):
    data, file = copies("mvbench")
    file.write_text("".join(json.dumps(doc) + "\n" for doc in json.loads(file.read_text())))
    assert complaints("mvbench", data) == []


def test_many_bad_questions_are_counted(copies):
    data, file = copies("mvbench")
    docs = [{**doc, "answer": None} for doc in json.loads(file.read_text())] * LISTED
    file.write_text(json.dumps(docs))
    said = complaints("mvbench", data)
    assert len(said) == LISTED + 2
    assert said[LISTED] == f"and {len(docs) - LISTED} more"


def bad(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [docs[0], {**docs[1], "answer": "a hundred"}, docs[0]]


def run_flags(model: Path, data: Path) -> list[str]:
    return ["run", "--device", "cpu", "--tasks", "mvbench_action_count", "--model", str(model), "--data", str(data)]


def test_a_run_refuses_them_before_the_first_answer_and_loses_nothing(onevision, mvbench, tmp_path, capsys):
    data = shutil.copytree(mvbench, tmp_path / "data")
    output = tmp_path / "out"
    flags = run_flags(onevision, data)
    flags += ["--output", str(output), "--sampling", "uniform:2"]
    assert main(flags) == 0
    results = (output / "results.json").read_bytes()
    file = data / "json" / "action_count.json"
    file.write_text(json.dumps(bad(json.loads(file.read_text()))))
    assert main([*flags, "--overwrite"]) == 1
    error = capsys.readouterr().err.partition("error: ")[2]
    assert error.startswith(
        f"mvbench_action_count: {file}: question 1: its answer 'a hundred' is none of its candidates"
    )
    assert (output / "results.json").read_bytes() == results
    assert not list(output.glob("answers*"))


def test_a_question_that_says_image_is_answered(onevision, mvbench, tmp_path):
    data = shutil.copytree(mvbench, tmp_path / "data")
    file = data / "json" / "action_count.json"
    docs = json.loads(file.read_text())
    docs[1]["question"] = "What does <image> stand for?"
    file.write_text(json.dumps(docs))
    flags = run_flags(onevision, data)
    assert main([*flags, "--output", str(tmp_path / "out"), "--sampling", "uniform:2"]) == 0
    prompts = [line["prompt"] for line in lines_of(tmp_path / "out")]
    assert [prompt.count("<image>") for prompt in prompts] == [1, 2, 1]
    assert "What does <image> stand for?" in prompts[1]


def test_the_doctor_sees_the_same(copies, monkeypatch, capsys):
    data, file = copies("videomme")
    docs = json.loads(file.read_text())
    docs[1]["duration"] = "eternal"
    docs[2]["answer"] = "E"
    file.write_text(json.dumps(docs))
    monkeypatch.setattr("eval.doctor.command.check_videos", lambda files, *_: ((file, Finding("ok")) for file in files))
    arguments = parse(["doctor", "--tasks", "videomme", "--data", str(data)])
    assert prepare_doctor(arguments)() == PROBLEMS_FOUND
    printed = capsys.readouterr().out
    assert f"QUESTIONS {complaints('videomme', data)[0]}" in printed
    assert "question 2: its answer 'E' is none of its options A, B, C, D" in printed
