"""The doctor on MiniBench's files: whole, damaged in every way, and checked by processes that hang and die."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from eval.benchmarks import BENCHMARKS
from eval.benchmarks.edition import FILE
from eval.benchmarks.mvbench import MVBENCH, MVBENCH_FOLDERS
from eval.cli import parse
from eval.demo.encode import write_video
from eval.demo.minibench import WRITERS
from eval.demo.world import TASKS
from eval.doctor import download
from eval.doctor.command import PROBLEMS_FOUND, prepare_doctor
from eval.doctor.videos import Finding, check_videos
from eval.models.doubts import of_libraries
from eval.run.questions import check_options

MVBENCH_TASKS = ",".join(f"mvbench_{task}" for task in TASKS)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("doctor")
    return {name: write(root / name, 2 if name == "mvbench" else 1) for name, write in WRITERS.items()}


@pytest.fixture
def data(benchmarks: dict[str, Path], tmp_path: Path) -> Path:
    """MVBench, to be damaged."""
    return Path(shutil.copytree(benchmarks["mvbench"], tmp_path / "data"))


def prepare(*flags: object) -> Callable[[], int]:
    return prepare_doctor(parse(["doctor", *map(str, flags)]))


def diagnose(tmp_path: Path, *flags: object) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    status = prepare(*flags, "--json", tmp_path / "report.json")()
    return status, json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize("benchmark", WRITERS)
def test_whole_data_is_fine(benchmark, benchmarks, tmp_path, capsys):
    data = benchmarks[benchmark]
    tasks = MVBENCH_TASKS if benchmark == "mvbench" else benchmark
    status, report = diagnose(tmp_path, "--tasks", tasks, "--data", data, "--deep")
    assert (status, report["problems"], report["notes"], report["remedy"]) == (0, [], of_libraries(), [])
    videos = len(list(data.rglob("*.mp4")))
    assert videos == len(TASKS) * (2 if benchmark == "mvbench" else 1)
    assert report["total"] == {
        "questions": videos,
        "videos": videos,
        "ok": videos,
        "missing": 0,
        "broken": 0,
        "misread": 0,
    }
    assert list(report["tasks"]) == (tasks.split(",") if benchmark == "mvbench" else list(BENCHMARKS[benchmark].tasks))
    title = json.loads((data / FILE).read_text())["title"]
    assert report["title"] == title
    printed = capsys.readouterr().out
    assert title in printed
    assert f"all questions and videos in {data} are fine" in printed


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_behind_the_index(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (24, 48, 64, 3), dtype=np.uint8)
    write_video(path, frames, 24, {"movflags": "faststart"})
    cut(path)


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux([*stream.encode(silence), *stream.encode(None)])


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[Callable[[Path], object], str, str]] = [
    (Path.unlink, "missing", "no such file"),
    (cut, "broken", "cannot be read"),
    (cut_behind_the_index, "broken", "cannot be read"),
    (lambda path: path.write_bytes(b""), "broken", "the file is empty"),
    (sound, "broken", "cannot be read"),
    (no_frames, "broken", "no frames|cannot be read"),
    (lambda path: path.write_text("404: Not Found, désolé\n"), "broken", "is text"),
    (lambda path: path.write_text("\n<!DOCTYPE html><title>Log in</title>"), "broken", "web page"),
    (lambda path: path.write_text(LFS), "broken", "git lfs pull"),
    (lambda path: path.write_bytes(bytes(range(256)) * 9), "broken", "cannot be read"),
    (directory, "broken", "not a file"),
]


def test_every_damage_is_found_and_nothing_else(data, tmp_path, capsys):
    videos = sorted(data.rglob("*.mp4"))
    for video, (damage, _, _) in zip(videos, DAMAGE, strict=False):
        damage(video)
    write_video(videos[-1], np.zeros((1, 48, 64, 3), np.uint8), 24)  # one frame is enough

    status, report = diagnose(tmp_path, "--tasks", MVBENCH_TASKS, "--data", data)
    assert status == PROBLEMS_FOUND
    problems = {problem["file"]: problem for problem in report["problems"]}
    assert set(problems) == {str(video) for video in videos[: len(DAMAGE)]}
    for video, (_, kind, cause) in zip(videos, DAMAGE, strict=False):
        problem = problems[str(video)]
        assert problem["kind"] == kind
        assert any(word in problem["cause"] for word in cause.split("|")), problem
        assert problem["task"] == f"mvbench_{video.stem.rpartition('_')[0]}"
    broken = len(DAMAGE) - 1
    assert report["total"] == {
        "questions": 18,
        "videos": 18,
        "ok": 17 - broken,
        "missing": 1,
        "broken": broken,
        "misread": 0,
    }
    for column, total in report["total"].items():
        assert sum(counts[column] for counts in report["tasks"].values()) == total

    printed = capsys.readouterr().out
    assert all(f"{p['file']}: {p['cause']}" in printed for p in report["problems"])
    assert f"hf download --repo-type dataset OpenGVLab/MVBench --revision video --local-dir {data}\n" in printed
    assert f"unpack every zip and tar of it into {data} itself" in printed
    assert "`<folder>/<file>`" in printed
    assert f"mvbench_scene_transition: {data}/video/scene_qa/video\n" in printed


def hang_or_die(path: Path) -> Finding:
    if path.stem == "hangs":
        time.sleep(600)
    if path.stem == "dies":
        os._exit(7)
    if path.stem == "crashes":
        os.abort()
    if path.stem == "raises":
        raise MemoryError("too large")
    return Finding("ok", cause=path.stem)


def test_a_process_that_hangs_or_dies_costs_its_video_only():
    names = ["a", "hangs", "b", "dies", "c", "crashes", "d", "raises", "e"]
    begin = time.monotonic()
    findings = dict(check_videos([Path(name) for name in names], hang_or_die, workers=2, timeout=3))
    assert time.monotonic() - begin < 300, "it was waited for"
    assert {path.name for path in findings} == set(names)
    for name in "abcde":
        assert findings[Path(name)] == Finding("ok", cause=name)
    assert findings[Path("hangs")] == Finding("broken", "does not decode within 3 s")
    assert "exit status 7" in findings[Path("dies")].cause
    assert "SIGABRT" in findings[Path("crashes")].cause
    assert "exit status 1" in findings[Path("raises")].cause


def test_processes_end_with_a_caller_that_stops_early():
    checks = check_videos([Path("hangs"), Path("a")], hang_or_die, workers=2, timeout=600)
    assert next(checks)[0] == Path("a")
    checks.close()
    assert not multiprocessing.active_children()


def test_checksums_notice_what_decoders_do_not(data, tmp_path, capsys):
    sums = tmp_path / "sums.txt"
    flags = ("--data", data, "--checksums", sums)
    one, both = "mvbench_action_count", "mvbench_action_count,mvbench_state_change"
    folder = data / "video" / MVBENCH_FOLDERS["action_count"]  # state_change's too
    (folder / "state_change_1.mp4").unlink()

    assert diagnose(tmp_path, "--tasks", one, *flags)[0] == 0
    assert "0 videos compared" in capsys.readouterr().out
    videos = [folder / f"action_count_{n}.mp4" for n in (0, 1)]
    expected = [f"{hashlib.sha256(v.read_bytes()).hexdigest()}  {v.relative_to(data)}" for v in videos]
    assert sums.read_text().splitlines() == expected
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", sums], cwd=data, check=True, capture_output=True)

    changed = bytearray(videos[1].read_bytes())
    changed[changed.index(b"x264 - core")] ^= 1  # the encoder's note about itself
    videos[1].write_bytes(changed)
    assert diagnose(tmp_path, "--tasks", both, "--data", data)[1]["total"]["broken"] == 0  # unnoticed
    status, report = diagnose(tmp_path, "--tasks", both, *flags)
    assert "2 videos compared" in capsys.readouterr().out
    assert status == PROBLEMS_FOUND
    assert {(p["kind"], Path(p["file"]).name) for p in report["problems"]} == {
        ("broken", "action_count_1.mp4"),
        ("missing", "state_change_1.mp4"),
    }
    assert expected[1].split()[0] in next(p["cause"] for p in report["problems"] if p["kind"] == "broken")
    # Known sums stay; only sound videos are added.
    *known, added = sums.read_text().splitlines()
    assert known == expected
    assert added.endswith("/state_change_0.mp4")


def test_questions_that_would_stop_a_run_after_hours(data, tmp_path):
    """All in one task, besides files that are not there or not what they should be."""
    file = data / "json" / "action_count.json"
    docs = json.loads(file.read_text())
    docs += [
        {**docs[0], "answer": "a hundred"},
        {**docs[0], "candidates": docs[0]["candidates"][:1], "answer": docs[0]["candidates"][0]},
        {**docs[1], "answer": docs[1]["candidates"][0]},
    ]
    file.write_text(json.dumps(docs))
    (data / "json" / "state_change.json").unlink()
    (data / "json" / "moving_direction.json").write_text(LFS)
    tasks = [f"mvbench_{task}" for task in ("action_count", "state_change", "moving_direction", "scene_transition")]

    status, report = diagnose(tmp_path, "--tasks", ",".join(tasks), "--data", data)
    assert status == PROBLEMS_FOUND
    assert {p["kind"] for p in report["problems"]} == {"questions"}
    found = [(p["task"], p["file"], p["cause"]) for p in report["problems"]]
    expected = [
        (tasks[0], str(file), "question 2: its answer 'a hundred' is none of its candidates ["),
        (tasks[0], str(file), "question 3: it has only the option A"),
        (tasks[1], str(data), "state_change.json is missing"),
        (tasks[2], str(data / "json" / "moving_direction.json"), "git lfs pull"),
    ]
    assert len(found) == len(expected), found
    for (task, at, cause), (expected_task, expected_at, part) in zip(found, expected, strict=True):
        assert (task, at) == (expected_task, expected_at)
        assert part in cause
    assert report["tasks"]["mvbench_action_count"]["questions"] == 5
    assert report["total"]["ok"] == report["total"]["videos"] == 4
    note = "mvbench_action_count: questions that repeat another about the same video: 2"
    assert report["notes"] == [*of_libraries(), note]


def test_questions_that_are_no_json(data, tmp_path):
    (data / "json" / "action_count.json").write_text('[{"video": "a.mp4", ')
    _, report = diagnose(tmp_path, "--tasks", "mvbench_action_count", "--data", data)
    (problem,) = report["problems"]
    assert problem["kind"] == "questions"
    assert problem["cause"].startswith("is neither a JSON list of questions nor a JSON object in each line (")


def test_questions_that_datasets_cannot_read(data, tmp_path, monkeypatch):
    import tenacity.nap

    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)  # lmms-eval tries five times
    file = data / "json" / "action_count.json"
    docs = json.loads(file.read_text())
    file.write_text(json.dumps([docs[0], {**docs[1], "start": 10**30}]))
    _, report = diagnose(tmp_path, "--tasks", "mvbench_action_count", "--data", data)
    (problem,) = report["problems"]
    assert "cannot be read (" in problem["cause"]
    assert "Retry" not in problem["cause"], "the cause is behind it"


def test_options_are_read_from_the_prompt():
    assert check_options("Which?\n(A) red\n(B) blue\nBest option: (", "B") == ""
    assert check_options("Which?\nA. red\nB. blue\n", "A") == ""
    assert "'C' is none of its options A, B" in check_options("Which?\nA. red\nB. blue\n", "C")
    assert "only the option A" in check_options("Which?\n(A) red\n", "A")
    assert check_options("Which of red and blue?", "A") == ""


def test_the_hub_is_where_lmms_eval_says():
    import lmms_eval
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    for benchmark in BENCHMARKS.values():
        folder = Path(str(lmms_eval.__file__)).parent / "tasks" / benchmark.folder
        index = TaskManager(include_path=str(folder), include_defaults=False).task_index
        for task in benchmark.tasks:
            declared = load_yaml_config(index[task]["yaml_path"], mode="simple")
            command, layout, *places = download.download_steps(benchmark, (task,), Path("my data"))
            assert f"dataset {benchmark.hub or declared['dataset_path']} " in command
            assert ("--revision video " in command) == (declared["dataset_kwargs"].get("revision") == "video")
            assert command.endswith("--local-dir 'my data'")
            assert "`" in layout or "DATA" in layout
            assert bool(places) == (benchmark is MVBENCH)
            assert all(f"my data/{MVBENCH_FOLDERS[benchmark.short_name(task)]}" in place for place in places)
            assert any("ROSE Lab" in place for place in places) == (task == "mvbench_fine_grained_pose")
    assert set(download.NOT_ON_THE_HUB) <= set(MVBENCH.tasks)


def test_without_local_data_it_says_how_to_get_them():
    with pytest.raises(ValueError, match=r"(?s)--data.*OpenGVLab/MVBench --revision video --local-dir DIR"):
        prepare("--tasks", "mvbench")


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--tasks", "nonsense"], "nonsense"),
        (["--data", "/nonexistent"], "--data /nonexistent"),
        (["--workers", 0], "--workers"),
        (["--timeout", 0], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--json", "."], r"--json \. is a directory"),
        (["--checksums", "/nonexistent/a.txt"], "/nonexistent"),
    ],
)
def test_bad_arguments(flags, error, benchmarks):
    with pytest.raises((ValueError, OSError), match=error):
        prepare("--tasks", "mvbench", "--data", benchmarks["mvbench"], *flags)


def test_a_checksum_file_of_another_format_is_no_baseline(benchmarks, tmp_path):
    (tmp_path / "sums").write_text("a.mp4 deadbeef\n")
    with pytest.raises(ValueError, match=r"sums line 1 is 'a\.mp4 deadbeef'"):
        prepare("--tasks", "mvbench", "--data", benchmarks["mvbench"], "--checksums", tmp_path / "sums")
