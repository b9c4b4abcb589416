"""Frames through an evaluation: the right ones by default, decord's as other harnesses get them, both counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.benchmarks.mvbench import MVBENCH_FOLDERS
from eval.cli import main
from eval.doctor.videos import misread_by_decord
from eval.models.llava import LLAVA_PROTOCOLS
from eval.models.qwen import QwenEngine
from eval.models.qwen_protocol import QWEN_PROTOCOLS, Reader
from llava.video import FrameSampling, open_video, read_video
from llava.video.exact import ExactVideo
from tests.eval.doctor.test_doctor import diagnose
from tests.eval.qwen_tiny import make_qwen
from tests.eval.run.test_main_job import lines_of, results_of, run
from tests.numbered import CASES, VARIABLE

pytest.importorskip("decord")

TASK = "action_count"
MISREAD = ("mpeg4.avi", "h264.ts", "cut_head.mp4")
SOUND = ("h264.mp4", "vp9.webm")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVBench with questions about videos of which decord misreads some."""
    root = tmp_path_factory.mktemp("mvbench")
    folder = root / "video" / MVBENCH_FOLDERS[TASK]
    folder.mkdir(parents=True)
    for name in (*MISREAD, *SOUND):
        CASES[name].make(folder / name)
    docs = [
        {"video": name, "question": "What is it?", "candidates": ["this", "that"], "answer": "this"}
        for name in (*MISREAD, *SOUND, SOUND[0])
    ]
    (root / "json").mkdir()
    (root / "json" / f"{TASK}.json").write_text(json.dumps(docs))
    return root


def test_samples_say_how_videos_were_read_and_results_count_them(files, onevision, tmp_path, capsys, monkeypatch):
    flags = ("--tasks", f"mvbench_{TASK}", "--model", onevision, "--data", files, "--sampling", "uniform:6")
    assert run(*flags, "--output", tmp_path / "exact") == 0
    printed = capsys.readouterr().out
    for line in lines_of(tmp_path / "exact"):
        name, reading = Path(line["video"]).name, line["reading"]
        assert bool(reading["decord_differs"]) == (name in MISREAD)
        assert reading["reader"] == ("pyav, from the start" if name in MISREAD[:2] else "pyav, from key pictures")
    assert results_of(tmp_path / "exact")["videos"] == {
        "read": 5,
        "readers": {"pyav, from the start": 2, "pyav, from key pictures": 3},
        "decord_differs": 3,
        "decord_unknown": 0,
    }
    assert results_of(tmp_path / "exact")["run"]["decoder"] == "exact"
    note = "videos read: 5, 2 by pyav, from the start, 3 by pyav, from key pictures; raw decord would have given other "
    assert note + "frames for 3" in printed.replace("\n", " ")

    monkeypatch.setenv("DECODER", "decord")
    assert run(*flags, "--output", tmp_path / "decord") == 0
    assert results_of(tmp_path / "decord")["run"]["decoder"] == "decord"
    assert results_of(tmp_path / "decord")["videos"] == {
        "read": 5,
        "readers": {"raw decord": 5},
        "decord_differs": 0,
        "decord_unknown": 5,
    }


def test_an_unknown_decoder_in_the_environment_is_one_error(files, onevision, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DECODER", "opencv")
    flags = ("--tasks", f"mvbench_{TASK}", "--model", str(onevision), "--data", str(files))
    assert main(["run", "--device", "cpu", *flags, "--output", str(tmp_path / "out")]) == 1
    assert "decoder 'opencv' is unknown; there are exact, decord" in capsys.readouterr().err


def test_the_doctor_lists_what_decord_misreads(files, tmp_path, capsys):
    status, report = diagnose(tmp_path, "--tasks", f"mvbench_{TASK}", "--data", files, "--sampling", "uniform:16")
    assert (status, report["problems"]) == (0, [])
    assert {Path(video).name for video in report["misread"]} == set(MISREAD)
    assert (report["total"]["ok"], report["total"]["misread"]) == (5, 3)
    printed = capsys.readouterr().out
    for name in MISREAD:
        line = next(line for line in printed.splitlines() if line.startswith("MISREAD") and name in line)
        counted = int(line.split(" of 16 frames differ")[0].split()[-1])
        file = next(video for video in report["misread"] if video.endswith(name))
        theirs = read_video(file, FrameSampling("uniform", max_frames=16), "decord").frames
        ours = read_video(file, FrameSampling("uniform", max_frames=16)).frames
        differ = [a.shape != b.shape or np.abs(a.astype(int) - b).max() > 40 for a, b in zip(ours, theirs, strict=True)]
        assert counted == sum(differ)
    assert "misread: 3 videos are fine, but raw decord gives other frames of them" in printed


def test_the_doctor_does_not_ask_decord_where_it_is_right(files, monkeypatch):
    monkeypatch.setattr("eval.doctor.videos.against_decord", lambda *args: pytest.fail("it was asked"))
    video = next(files.rglob("h264.mp4"))
    with open_video(video) as opened:
        assert isinstance(opened, ExactVideo)
        opened.frames([0, 9])
        assert misread_by_decord(video, opened, FrameSampling("uniform", max_frames=16), 9.0) == ""


@pytest.mark.parametrize("name", [*MISREAD, *SOUND])
def test_raw_decord_gives_llava_what_lmms_evals_wrappers_read(name, files):
    from lmms_eval.models.simple.llava_onevision import Llava_OneVision
    from lmms_eval.models.simple.llava_vid import LlavaVid

    file = str(next(files.rglob(name)))
    onevision, vid = (LLAVA_PROTOCOLS[kind].read_by("decord") for kind in ("llava_onevision", "llava_vid"))
    video = read_video(file, onevision.sampling, onevision.decoder)
    np.testing.assert_array_equal(video.frames, Llava_OneVision.load_video(None, file, 32))
    frames, times, seconds = LlavaVid.load_video(None, file, 64, 1)
    video = read_video(file, vid.sampling, vid.decoder)
    np.testing.assert_array_equal(video.frames, frames)
    assert (",".join(f"{second:.2f}s" for second in video.times), video.duration) == (times, seconds)


@pytest.mark.parametrize("kind", QWEN_PROTOCOLS)
@pytest.mark.parametrize("name", [*MISREAD, *SOUND])
def test_qwen_reads_what_qwen_vl_utils_reads(name, kind, files):
    """By raw decord on all files, by the default reader on those that decord reads rightly: tensors and notes."""
    from qwen_vl_utils import vision_process

    file = str(next(files.rglob(name)))
    protocol = QWEN_PROTOCOLS[kind].sampled(FrameSampling("uniform", max_frames=8))
    with open_video(file, "decord") as video:
        asked = protocol.message(file, "", len(video))[-1]["content"][0]
    theirs, notes = vision_process.fetch_video(asked, image_patch_size=protocol.patch, return_video_metadata=True)
    if protocol.simple:
        theirs = theirs[np.unique(np.linspace(0, len(theirs) - 1, protocol.frames, dtype=int))]
    for decoder in ("decord", "exact") if name in SOUND else ("decord",):
        read = Reader(protocol.read_by(decoder))(file)
        assert torch.equal(read.frames, theirs)
        assert {**read.metadata, "video_backend": "decord"} == notes
    if name in MISREAD:
        right = Reader(protocol)(file)
        assert right.frames.shape != theirs.shape or not torch.equal(right.frames, theirs)
        assert right.total == len(CASES[name].shown)
        assert right.reading.decord_differs


def test_time_stamps_of_qwen3_are_those_of_the_frames_shown(tmp_path):
    """At a variable rate: each pair of frames gets the middle of the two, as a player shows them."""
    CASES["variable.mp4"].make(tmp_path / "variable.mp4")
    checkpoint = str(make_qwen(tmp_path, "qwen3_vl"))
    protocol = QWEN_PROTOCOLS["qwen3_vl"].sampled(FrameSampling("uniform", max_frames=8))
    engine = QwenEngine(checkpoint, protocol, "cpu", "float32")
    read = engine.read(str(tmp_path / "variable.mp4"))
    shown = [VARIABLE[i] / 240 for i in torch.linspace(0, 71, 8).round().long().tolist()]
    _, inputs = engine._prepare(engine.see(read), "When?")
    text = engine.processor.batch_decode(inputs["input_ids"])[0]
    pairs = zip(shown[::2], shown[1::2], strict=True)
    assert [f"<{(a + b) / 2:.1f} seconds>" in text for a, b in pairs] == [True] * 4
    assert read.metadata["total_num_frames"] == 72
