"""Frames that are sampled more than once are decoded, held and compared once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from eval.demo.encode import write_video
from llava.video import FrameSampling, open_video, read_video, sample_video
from llava.video.against_decord import against_decord, count_different
from llava.video.exact import ExactVideo

HEIGHT, WIDTH = 720, 1280
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of 2.6 MiB each."""
    path = tmp_path_factory.mktemp("short") / "two.mp4"
    frames = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    frames[1] = 200
    write_video(path, frames, 4)
    return path


@pytest.mark.parametrize("decoder", ["exact", "pyav"])
def test_each_is_held_once(decoder: str, short: Path) -> None:
    tracemalloc.start()
    try:
        video = read_video(short, FrameSampling("uniform", max_frames=64), decoder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert video.distinct.shape == (2, HEIGHT, WIDTH, 3)
    assert peak < 40 * MEBIBYTE  # 64 frames are 169
    assert video.indices == [0] * 63 + [1] == video.rows
    assert video.times == [0.0] * 63 + [0.25]
    assert video.frames.shape == (64, HEIGHT, WIDTH, 3)
    assert [int(frame.mean().round(-1)) for frame in video.frames] == [0] * 63 + [200]


def test_where_decord_errs_each_sampled_one_counts(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = FrameSampling("uniform", max_frames=8)
    asked: list[list[int]] = []

    def theirs(file: str, choose, timeout: float):
        asked.append(choose(2, 4.0))
        return [0] * 7 + [1], np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)  # the second one is wrong

    monkeypatch.setattr("llava.video.against_decord.why_in_doubt", lambda video: "for this test")
    monkeypatch.setattr("llava.video.against_decord.find_spec", lambda name: True)
    monkeypatch.setattr("llava.video.against_decord._read_with_decord", theirs)
    with open_video(short) as video:
        assert isinstance(video, ExactVideo)
        sampled = sample_video(video, sampling)
        against = against_decord(str(short), video, sampling.indices, sampled.distinct, sampled.rows)
    assert (against.differ, against.why) == (1, "compared, as for this test")
    assert asked == [[0] * 7 + [1]]


def test_counting_by_rows() -> None:
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    ours, theirs = np.stack([black, white]), np.stack([black, white, black])
    assert count_different(ours, theirs, [0, 0, 0, 1], [0, 2, 1, 1]) == 1
    assert count_different(ours, theirs, [0, 0, 1], [0, 0]) == 3


def test_decord_reads_each_once(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    monkeypatch.setattr("llava.video.against_decord.why_in_doubt", lambda video: "for this test")
    sampling = FrameSampling("uniform", max_frames=8)
    with open_video(short) as video:
        sampled = sample_video(video, sampling)
        assert against_decord(str(short), video, sampling.indices, sampled.distinct, sampled.rows).differ == 0
        wrong = sampled.distinct[::-1]
        assert against_decord(str(short), video, sampling.indices, wrong, sampled.rows).differ == 8
