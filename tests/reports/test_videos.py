"""Public reports on video files: decoders that never return, wrong frames, folders of pictures, very short clips.

docs/known-reports.md says what the reporters saw.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from eval.benchmarks.mvbench import MVBENCH_FOLDERS
from eval.cli import main
from eval.demo.encode import write_video
from eval.doctor.videos import check_video
from eval.models import llava
from eval.models.base import Engine
from eval.models.llava import Read, Reader
from eval.run.flags import FAILED_QUESTIONS
from llava.video import FrameSampling, VideoError, read_video
from tests.numbered import CASES, number
from tests.odd_videos import noisy_frames
from tests.reports.conftest import LLAVA, QWEN
from vidcom2 import compressor

EXPECTED_ROWS = {"onevision": 16, "video": 9}
"""Tokens of a frame of the tiny LLaVA checkpoints: 7 x 7 patches, pooled to 4 x 4 and 3 x 3."""


def ask(folder: Path, task: str, videos: list[str], checkpoint: Path, *flags: object) -> tuple[int, Path]:
    """Run a task with a question about each video. Returns the exit status and the output directory."""
    docs = [{"video": name, "question": "What?", "candidates": ["this", "that"], "answer": "this"} for name in videos]
    (folder / "json").mkdir()
    (folder / "json" / f"{task}.json").write_text(json.dumps(docs))
    output = folder / "out"
    command = ["run", "--device", "cpu", "--tasks", f"mvbench_{task}", "--model", checkpoint, "--data", folder]
    return main([*map(str, [*command, "--output", output, *flags])]), output


def folder_of(root: Path, task: str) -> Path:
    folder = root / "video" / MVBENCH_FOLDERS[task]
    folder.mkdir(parents=True)
    return folder


# ---- 5: dmlc/decord 373, 375, 269 and decord2 8


@dataclass(frozen=True)
class NeverReturns(Reader):
    """A reader whose decoder does not come back from one file. It only sleeps."""

    def __call__(self, video_file: str) -> Read:
        if "damaged" in video_file:
            time.sleep(3600)
        return super().__call__(video_file)


def test_decord_373_a_decoder_that_never_returns_costs_its_question_only(checkpoint_of, tmp_path, monkeypatch, capsys):
    """On a CPU, too, and with no flag but a shorter time limit."""
    monkeypatch.setattr(llava, "Reader", NeverReturns)
    folder = folder_of(tmp_path, "action_count")
    names = ["first.mp4", "damaged.mp4", "last.mp4"]
    for name in names:
        write_video(folder / name, noisy_frames(8), 8)
    begun = time.monotonic()
    flags = ("--sampling", "uniform:2", "--timeout", 5)
    status, output = ask(tmp_path, "action_count", names, checkpoint_of("onevision"), *flags)
    assert status == FAILED_QUESTIONS
    assert time.monotonic() - begun < 300
    first, damaged, last = (json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines())
    assert damaged["error"] == f"{folder / 'damaged.mp4'}: is not read within 5 s"
    assert (damaged["answer"], damaged["score"]) == (None, 0.0)
    assert None not in (first["answer"], last["answer"])
    results = json.loads((output / "results.json").read_text())
    assert [failure["doc_id"] for failure in results["failures"]] == [1]
    assert "damaged.mp4" in capsys.readouterr().out


# ---- 6: dmlc/decord 365, 91, 54, 195, 252, 124


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "vp8.webm", "vp8_hidden.webm", "variable.mp4"])
def test_decord_365_each_frame_is_pyavs_in_any_file(name, tmp_path):
    """All frames by seeking, in four unlike subsets, against those that PyAV decodes from the start."""
    path, shown = tmp_path / name, CASES[name].shown
    CASES[name].make(path)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [number(frame) for frame in decoded] == list(shown)
    for count in (len(shown), 16, 7, 2):
        video = read_video(path, FrameSampling("uniform", max_frames=count))
        assert (video.total_frames, len(video.frames)) == (len(shown), count)
        for index, frame in zip(video.indices, video.frames, strict=True):
            assert number(frame) == shown[index]
            assert np.abs(frame.astype(int) - decoded[index]).mean() < 3  # another conversion of the same colours


def test_decord_365_the_doctor_names_what_raw_decord_gets_wrong(tmp_path):
    pytest.importorskip("decord")
    path = tmp_path / "vp8_hidden.webm"
    CASES[path.name].make(path)
    wrong = check_video(path, 3, False, FrameSampling("uniform", max_frames=16), 60)
    assert wrong.state == "ok"
    assert wrong.misread
    plain = tmp_path / "h264_no_b.mp4"
    CASES[plain.name].make(plain)
    assert not check_video(plain, 3, False, FrameSampling("uniform", max_frames=16), 60).misread


# ---- 7: xuyang-liu16/DyCoke 15, lmms-eval 403, 205, 298, FlashVID 1


def test_dycoke_15_a_folder_of_pictures_is_named_and_never_answered_blind(checkpoint_of, tmp_path, capsys):
    """As in older copies of MVBench's episodic_reasoning. A video made of it as the message says is read."""
    folder = folder_of(tmp_path, "episodic_reasoning")
    pictures = folder / "clip.mp4"
    pictures.mkdir()
    for i in range(12):
        with av.open(str(pictures / f"{i + 1:05d}.jpg"), "w", format="image2") as target:
            stream = target.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            frame = av.VideoFrame.from_ndarray(noisy_frames(12)[i], format="rgb24")
            target.mux([*stream.encode(frame), *stream.encode(None)])
    write_video(folder / "whole.mp4", noisy_frames(12), 3)
    names = ["clip.mp4", "missing.mp4", "whole.mp4"]
    flags = ("--sampling", "uniform:4", "--workers", 0)
    status, output = ask(tmp_path, "episodic_reasoning", names, checkpoint_of("onevision"), *flags)
    assert status == FAILED_QUESTIONS
    clip, missing, whole = (json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines())
    assert clip["error"].startswith(f"{pictures}: not a file, but a folder of 12 pictures")
    assert "ffmpeg -framerate 3" in clip["error"]
    assert missing["error"].endswith("no such file")
    assert [line["answer"] is None for line in (clip, missing, whole)] == [True, True, False]
    assert "folder of 12 pictures" in capsys.readouterr().out.replace("\n", " ")
    assert "folder of 12 pictures" in check_video(pictures, 3, False, FrameSampling("uniform", max_frames=2), 60).cause
    video = read_video(folder / "whole.mp4", FrameSampling("uniform", max_frames=4))
    assert (video.fps, video.duration, video.shown_at) == (3, 4, pytest.approx([0, 1, 7 / 3, 11 / 3]))


# ---- 13: lmms-eval 874, 1433, 1019, 964, 910, 868, 495, sglang-omni 358


@pytest.mark.parametrize("kind", [*LLAVA, *QWEN])
def test_lmms_eval_874_clips_shorter_than_the_sampling(kind, engine_of, tmp_path):
    """One frame is enough. More are asked than there are: LLaVA repeats frames, Qwen takes fewer, an even number."""
    engine: Engine = engine_of(kind)
    for length, even in ((1, 2), (2, 2), (3, 2), (5, 4)):
        path = tmp_path / f"{length}.mp4"
        write_video(path, noisy_frames(length), 8)
        seen = engine.see(engine.read(str(path)))
        for spec in ("none", "vidcom2@0.25"):
            answer = engine.answer(seen, "What?", {"max_new_tokens": 2, "do_sample": False}, compressor(spec))
            (record,) = answer.records
            assert answer.frames == {"onevision": 6, "video": 1}.get(kind, even)
            if kind in LLAVA:
                assert record.frames_before == (EXPECTED_ROWS[kind],) * answer.frames
            assert len(record.frames_before) == (answer.frames if kind in LLAVA else even // 2)
            assert (record.tokens_after == record.tokens_before) == (spec == "none")
            assert min(record.frames_after) >= 1


@pytest.mark.parametrize("kind", ["onevision", "qwen2_5_vl"])
def test_lmms_eval_1433_a_video_without_frames_is_named(kind, engine_of, tmp_path):
    """Its track says it has no pictures, as a file of a benchmark did, whose count of frames was 0."""
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"none\.mp4: .*it has no pictures"):
        engine_of(kind).read(str(path))


def test_lmms_eval_874_more_frames_than_there_are(tmp_path):
    CASES["two.mkv"].make(tmp_path / "two.mkv")
    video = read_video(tmp_path / "two.mkv", FrameSampling("uniform", max_frames=32))
    assert (video.indices, len(video.distinct)) == ([0] * 31 + [1], 2)
