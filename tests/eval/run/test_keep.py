"""--keep: seconds of which more is kept, from the command line to each answer's record."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.models.base import Unanswerable
from eval.results.load import read_results
from eval.run.flags import FAILED_QUESTIONS
from llava.video import FrameSampling, read_video
from tests.eval.qwen_tiny import make_qwen
from tests.eval.reports.test_see import call
from tests.eval.run.test_main_job import lines_of, results_of
from tests.eval.run.test_resume import evaluate
from tests.llava.test_video import noisy_frames
from vidcom2 import Dense, Keep, Record, VidCom2

FRAMES = 8
SHORT = {"max_new_tokens": 2}
HALF = VidCom2(0.5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Two seconds, and half a second, at 24 frames per second."""
    root = tmp_path_factory.mktemp("clips")
    for name, count in (("long", 48), ("short", 12)):
        write_video(root / f"{name}.mp4", noisy_frames(count), 24)
    return {name: root / f"{name}.mp4" for name in ("long", "short")}


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def engine(request, tmp_path_factory) -> Any:
    if request.param == "llava":
        model = request.getfixturevalue("onevision")
    else:
        model = make_qwen(tmp_path_factory.mktemp("qwen"), request.param)
    protocol = protocol_for(str(model)).sampled(FrameSampling("uniform", max_frames=FRAMES))
    return load_engine(str(model), protocol, "cpu", "float32")


def keeping(engine: Any, spans: str | None) -> Any:
    """The engine with --keep."""
    other = copy.copy(engine)
    other.protocol = dataclasses.replace(engine.protocol, keep=None if spans is None else Keep.parse(spans))
    return other


def answered(engine: Any, video: Path, method: Any = HALF) -> Record:
    (record,) = engine.answer(engine.see(engine.read(str(video))), "Which?", SHORT, method).records
    return record


def steps_of(engine: Any, video: Path) -> list[list[float]]:
    """The seconds of each frame that has tokens of its own, from the file alone."""
    if hasattr(engine, "processor"):
        shown, pair = [i / 24 for i in engine.read(str(video)).metadata["frames_indices"]], 2
    else:
        shown, pair = read_video(video, FrameSampling("uniform", max_frames=FRAMES)).times, 1
    return [shown[i : i + pair] for i in range(0, len(shown), pair)]


def test_frames_of_the_span_keep_what_is_said(engine, clips):
    spans = "0.5s-0.9s:full"
    record = answered(keeping(engine, spans), clips["long"])
    inside = [any(0.5 <= t <= 0.9 for t in step) for step in steps_of(engine, clips["long"])]
    m, t = record.frames_before[0], len(record.frames_before)
    assert 0 < sum(inside) < t
    assert record.by_hand == tuple(m if one else None for one in inside)
    assert all(kept == m for kept, one in zip(record.frames_after, inside, strict=True) if one)
    assert sum(record.frames_after) == round(0.5 * t * m)
    assert record.frames_after != answered(engine, clips["long"]).frames_after


def test_a_span_that_this_video_lacks_changes_nothing(engine, clips):
    plain = answered(engine, clips["short"])
    assert answered(keeping(engine, "1.2s-1.9s:full"), clips["short"]) == plain
    assert plain.by_hand == ()


def test_a_dense_run_is_as_it_was(engine, clips):
    assert answered(keeping(engine, "0s-1s:full"), clips["long"], Dense()) == answered(engine, clips["long"], Dense())


def test_videos_of_a_batch_have_budgets_of_their_own(engine, clips):
    other = keeping(engine, "0.5s-0.9s:full")
    seen = [other.see(other.read(str(clips[name]))) for name in ("long", "short", "long")]
    together = other.answer_all([(one, "Which?") for one in seen], SHORT, VidCom2(0.5))
    alone = [other.answer(one, "Which?", SHORT, VidCom2(0.5)) for one in seen]
    assert [(one.text, one.records) for one in together] == [(one.text, one.records) for one in alone]


def test_a_video_that_cannot_keep_so_much_has_no_answer(engine, clips):
    other = keeping(engine, "0s-1s:full")
    seen = [other.see(other.read(str(clips[name]))) for name in ("short", "long")]
    short, long = other.answer_all([(one, "Which?") for one in seen], SHORT, VidCom2(0.7))
    assert isinstance(short, Unanswerable)
    assert "tokens are asked for by hand" in str(short)
    assert "compress nothing (retention=1), or ask for less" in str(short)
    assert long.records[0].by_hand.count(None) > 0


def test_min_per_frame_of_a_spec_that_a_video_cannot_have_has_no_answer(engine, clips):
    seen = engine.see(engine.read(str(clips["long"])))
    (answer,) = engine.answer_all([(seen, "Which?")], SHORT, VidCom2(0.1, min_per_frame=50))
    assert isinstance(answer, Unanswerable)


def test_a_run_records_what_was_kept_and_resumes_under_no_other(onevision, mvbench, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--compressor", "vidcom2@0.5", "--keep", "0s-0.1s:full", "--keep", "1s-1s:10%")
    assert evaluate(onevision, mvbench, out, *flags) == 0
    results, lines = results_of(out), lines_of(out)
    assert results["run"]["keep"] == "0s-0.1s:full,1s-1s:10%"
    assert all(line["by_hand"]["0"] == line["tokens_before"] // 4 for line in lines)
    frames = sum(len(line["by_hand"]) for line in lines)
    tokens = sum(sum(line["by_hand"].values()) for line in lines)
    assert results["by_hand"] == {"questions": len(lines), "frames": frames, "tokens": tokens}
    assert read_results(out).by_hand.tokens == tokens
    assert f"{frames} frames of {len(lines)} questions kept {tokens} tokens by hand" in capsys.readouterr().out

    assert evaluate(onevision, mvbench, out, *flags) == 0  # the same again
    for other in ((), ("--keep", "0s-0.2s:full,1s-1s:10%")):
        assert evaluate(onevision, mvbench, out, "--compressor", "vidcom2@0.5", *other) == 1
        assert "keep was '0s-0.1s:full,1s-1s:10%', is" in capsys.readouterr().err


def test_a_benchmark_without_such_seconds_is_told_loudly(onevision, mvbench, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(onevision, mvbench, out, "--compressor", "vidcom2@0.5", "--keep", "900s-901s:full") == 0
    assert "NO FRAME lies there in the videos of 3 other questions" in capsys.readouterr().out
    assert results_of(out)["by_hand"]["questions"] == 0


def test_questions_about_videos_that_cannot_keep_so_much_fail(onevision, mvbench, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--compressor", "vidcom2@0.1", "--keep", "0s-900s:full")
    assert evaluate(onevision, mvbench, out, *flags) == FAILED_QUESTIONS
    assert all("tokens are asked for by hand" in line["error"] for line in lines_of(out))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--compressor", "none"), "--keep 1s-2s:full has no effect on none, which keeps every token"),
        (("--compressor", "fastv@0.75"), "--keep 1s-2s:full: fastv takes no budgets by hand"),
        (("--compressor", "holitom"), "--keep 1s-2s:full: holitom takes no budgets by hand"),
        (("--compressor", "visionzip.released"), "visionzip.released has fixed budgets"),
        (("--compressor", "vidcom2@1"), "retention=1 keeps every token"),
        (("--compressor", "vidcom2@0.5:budgets=(1,)"), "has budgets already"),
        (("--batch-size", "4"), "--batch-size 4 has no effect with --keep"),
        (("--engine", "deepspeed"), "--keep can be impossible for a single video"),
        (("--engine", "vllm"), "--keep 1s-2s:full is not for --engine vllm"),
        (("--keep", "2s-1s:full"), "'2s-1s:full' ends before it begins"),
    ],
)
def test_what_cannot_keep_seconds_is_refused(flags, said, onevision, mvbench, tmp_path, capsys):
    assert evaluate(onevision, mvbench, tmp_path / "out", "--keep", "1s-2s:full", *flags) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_figure_shows_the_kept_seconds(onevision, clips, tmp_path, capsys):
    flags = ("--model", onevision, "--frames", FRAMES, "--compressor", "vidcom2@0.5")
    assert call(clips["long"], *flags, "--keep", "0.5s-0.9s:full", "--output", tmp_path / "yes") == 0
    capsys.readouterr()
    assert call(clips["long"], *flags, "--keep", "30s-40s:full", "--output", tmp_path / "no") == 1
    said = capsys.readouterr().err
    assert "--keep 30s-40s:full: none of the 8 frames taken from" in said
    assert "from 0s to 1.95833s" in said
    with pytest.raises(ValueError, match="fastv takes no budgets"):
        call(clips["long"], "--compressor", "fastv", "--keep", "1s-2s:full", "--output", tmp_path / "fastv")
