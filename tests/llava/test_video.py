"""Sampling against lmms-eval's formulas, decoding against PyAV, and unreadable files."""

from __future__ import annotations

import pickle
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.demo.encode import write_video
from llava.video import FrameSampling, VideoError, open_video, read_video
from tests.odd_videos import BROKEN, FASTSTART, FINE, noisy_frames


def pyav_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 frames at 24 fps: 3 seconds."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, noisy_frames(72), 24)
    return path


@pytest.fixture(scope="module")
def faststart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "faststart.mp4"
    write_video(path, noisy_frames(72), 24, FASTSTART)
    return path


def llava_vid(
    total: int, avg_fps: float, max_frames: int, fps: int, force_sample: bool
) -> tuple[list[int], list[float]]:
    """lmms-eval 0.7.3, models/simple/llava_vid.py, LlavaVid.load_video."""
    stride = round(avg_fps / fps)
    frame_idx = list(range(0, total, stride))
    frame_time = [i / stride for i in frame_idx]
    if len(frame_idx) > max_frames or force_sample:
        frame_idx = np.linspace(0, total - 1, max_frames, dtype=int).tolist()
        frame_time = [i / avg_fps for i in frame_idx]
    return frame_idx, frame_time


rates = st.sampled_from([1.0, 7.5, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 59.94, 12.5, 0.6])
totals = st.integers(1, 5000)


@given(totals, rates, st.integers(1, 128))
def test_uniform_is_llava_onevisions_and_llava_vids_forced_sampling(total: int, avg_fps: float, count: int) -> None:
    sampling = FrameSampling("uniform", max_frames=count)
    assert sampling.indices(total, avg_fps) == np.linspace(0, total - 1, count, dtype=int).tolist()
    forced = llava_vid(total, avg_fps, count, fps=1, force_sample=True)
    assert sampling.indices_and_times(total, avg_fps) == forced


@given(totals, rates, st.integers(1, 128))
def test_one_frame_per_second_is_llava_vids_to_the_bit(total: int, avg_fps: float, count: int) -> None:
    expected = llava_vid(total, avg_fps, count, fps=1, force_sample=False)
    assert FrameSampling("fps", fps=1.0, max_frames=count).indices_and_times(total, avg_fps) == expected


@given(totals, st.sampled_from([24.0, 25.0, 29.97]), st.integers(1, 128), st.integers(2, 8))
def test_other_rates_take_llava_vids_frames_but_true_times(total: int, avg_fps: float, count: int, fps: int) -> None:
    indices, times = FrameSampling("fps", fps=fps, max_frames=count).indices_and_times(total, avg_fps)
    assert indices == llava_vid(total, avg_fps, count, fps, force_sample=False)[0]
    assert len(times) == len(indices)
    # Within the rounding of the stride: 25 / 8 = 3.125 is taken as 3.
    np.testing.assert_allclose(times, np.array(indices) / avg_fps, rtol=0.2)


@given(totals, rates, st.sampled_from([0.2, 0.5, 1.0, 2.0, 4.0]), st.integers(1, 32), st.integers(0, 96))
def test_bounds_of_a_rate(total: int, avg_fps: float, fps: float, least: int, more: int) -> None:
    """From `min` to `max` frames whatever the video; between them the rate as without a bound; beyond them uniform."""
    sampling = FrameSampling("fps", fps=fps, max_frames=least + more, min_frames=least)
    indices, times = sampling.indices_and_times(total, avg_fps)
    assert least <= len(indices) <= least + more
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < total
    every = max(1, round(avg_fps / fps))
    strided = list(range(0, total, every))
    if least <= len(strided) <= least + more:
        assert indices == strided
    else:
        count = least if len(strided) < least else least + more
        assert indices == FrameSampling("uniform", max_frames=count).indices(total, avg_fps)
    # The times are those of the frames, but at 1 per second a stride is a second, as in llava_vid: within half a frame
    # per second.
    np.testing.assert_allclose(times, np.array(indices) / avg_fps, rtol=1e-9 if fps != 1 else 0.5 / avg_fps + 0.05)


def test_what_earlier_versions_wrote_is_read() -> None:
    assert FrameSampling.parse("fps:1.0:max64") == FrameSampling.parse("fps:1,max=64")
    assert str(FrameSampling.parse("fps:0.5:max8")) == "fps:0.5,max=8"


def test_ten_seconds_and_an_hour_by_rate() -> None:
    sampling = FrameSampling.parse("fps:2,max=64,min=8")
    indices, times = sampling.indices_and_times(250, 25.0)  # ten seconds: 12 frames apart, 2.08 per second
    assert (len(indices), times[1], times[-1]) == (21, 0.48, 9.6)
    indices, times = sampling.indices_and_times(90000, 25.0)  # an hour
    assert (len(indices), indices[-1]) == (64, 89999)
    assert times[-1] == pytest.approx(3599.96)
    indices, times = sampling.indices_and_times(50, 25.0)  # two seconds: five frames would be too few
    assert (len(indices), times[-1]) == (8, 1.96)
    assert sampling.indices_and_times(3600, 1.0)[1][-1] == 3599.0  # an hour of one frame per second
    assert sampling.indices(12, 0.5) == list(range(12))  # a video slower than the rate: every frame


def test_short_videos_repeat_frames_and_long_ones_fall_back_to_uniform() -> None:
    assert FrameSampling("uniform", max_frames=6).indices(3, 24.0) == [0, 0, 0, 1, 1, 2]
    assert FrameSampling("fps", fps=1.0, max_frames=4).indices(96, 24.0) == [0, 24, 48, 72]  # 4 of at most 4
    assert FrameSampling("fps", fps=1.0, max_frames=4).indices(97, 24.0) == [0, 32, 64, 96]  # a fifth would be too many


@pytest.mark.parametrize("avg_fps", [0.4, 0.5])  # Python rounds a half to even: 0
def test_a_frame_rate_below_the_wanted_one_is_an_error(avg_fps: float) -> None:
    with pytest.raises(ValueError, match=f"avg_fps {avg_fps}"):
        FrameSampling("fps", fps=1.0, max_frames=64).indices(100, avg_fps)


@pytest.mark.parametrize("kind", ["uniform:8", "fps:1.0:max8"])
@pytest.mark.parametrize(("total", "avg_fps"), [(0, 24.0), (10, 0.0), (10, float("nan")), (10, float("inf"))])
def test_impossible_videos_are_errors(kind: str, total: int, avg_fps: float) -> None:
    with pytest.raises(ValueError, match=r"no frames|avg_fps"):
        FrameSampling.parse(kind).indices(total, avg_fps)


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (FrameSampling("uniform", max_frames=32), "uniform:32"),
        (FrameSampling("fps", fps=1.0, max_frames=64), "fps:1,max=64"),
        (FrameSampling("fps", fps=1, max_frames=64), "fps:1,max=64"),
        (FrameSampling("fps", fps=0.1, max_frames=8), "fps:0.1,max=8"),
        (FrameSampling("fps", fps=2, max_frames=64, min_frames=8), "fps:2,max=64,min=8"),
    ],
)
def test_text_form(sampling: FrameSampling, text: str) -> None:
    assert str(sampling) == text
    assert FrameSampling.parse(text) == sampling


@pytest.mark.parametrize(
    "text",
    [
        "",
        "random:8",
        "uniform",
        "uniform:",
        "uniform:x",
        "uniform:0",
        "uniform:-3",
        "uniform:1.5",
        "uniform:8:max4",
        "fps:1.0",
        "fps:1.0:64",
        "fps:0:max8",
        "fps:nan:max8",
        "fps:-1:max8",
        "fps:1.0:max0",
        "fps:one:max8",
        "fps:1",
        "fps:1,min=8",
        "fps:1,max=8,min=9",
        "fps:1,max=8,min=0",
        "fps:1,min=4,max=8",
        "fps:1,max=8,",
        "uniform:8,min=2",
    ],
)
def test_bad_text_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="bad frame sampling") as raised:
        FrameSampling.parse(text)
    assert repr(text) in str(raised.value)


def test_a_number_that_does_not_say_what_it_counts_is_an_error() -> None:
    """FrameSampling("fps", 1) once meant one frame of the whole video, not one per second."""
    with pytest.raises(TypeError):
        FrameSampling("fps", 1)  # type: ignore[misc, call-arg]
    with pytest.raises(TypeError, match="max_frames"):
        FrameSampling("fps", fps=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_frames": 2.5}, "max_frames must be a whole number, not 2.5"),
        ({"max_frames": "16"}, "not '16'"),
        ({"max_frames": 8, "fps": 2.0}, "fps=2.0 is for the kind 'fps'"),
        ({"kind": "fps", "max_frames": 8}, "such as fps=1.0, not None"),
        ({"kind": "fps", "max_frames": 8, "fps": "1"}, "not '1'"),
        ({"max_frames": 8, "min_frames": 2}, "min_frames=2 is for the kind 'fps'"),
        ({"kind": "fps", "fps": 1.0, "max_frames": 8, "min_frames": 9}, "from 1 to max_frames=8, not 9"),
    ],
)
def test_a_sampling_that_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        FrameSampling(**{"kind": "uniform", **settings})


@pytest.mark.parametrize("wrong", [16, "uniform:16", None])
def test_what_is_no_sampling_is_not_the_files_fault(clip: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f'FrameSampling("uniform", max_frames=16), not {wrong!r}')):
        read_video(clip, wrong)


@pytest.mark.parametrize("error", [AttributeError, TypeError, NameError, AssertionError])
def test_a_programming_error_is_not_the_files_fault(clip: Path, error: type[Exception]) -> None:
    with pytest.raises(error), open_video(clip):
        raise error("of whoever reads")


def test_a_codec_that_nobody_knows_is_the_files_fault(clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    assert content.count(b"avc1") >= 1
    (tmp_path / "unknown.mp4").write_bytes(content.replace(b"avc1", b"zzz1"))
    for decoder in ("exact", "pyav", "decord"):
        with pytest.raises(VideoError, match=r"unknown\.mp4: cannot be read"):
            read_video(tmp_path / "unknown.mp4", FrameSampling("uniform", max_frames=4), decoder)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        FrameSampling("random", max_frames=8)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["uniform:8", "uniform:100", "fps:1.0:max64", "fps:8.0:max64", "fps:8.0:max5"])
@pytest.mark.parametrize("layout", ["clip", "faststart"])
def test_frames_are_pyavs(layout: str, text: str, request: pytest.FixtureRequest) -> None:
    path, sampling = request.getfixturevalue(layout), FrameSampling.parse(text)
    video = read_video(path, sampling)
    indices = sampling.indices(72, 24.0)
    assert (video.total_frames, video.fps, video.duration) == (72, 24.0, 3.0)
    assert video.times == [index / 24.0 for index in indices]
    assert video.frames.dtype == np.uint8
    expected = pyav_frames(path)[indices]
    assert video.frames.shape == expected.shape
    # Two releases of FFmpeg convert the same YUV to RGB. Neighbouring frames differ by far more.
    assert np.abs(video.frames.astype(int) - expected).max() <= 2


def test_channels_are_rgb(tmp_path: Path) -> None:
    frames = np.full((10, 32, 32, 3), (200, 60, 10), dtype=np.uint8)
    write_video(tmp_path / "red.mp4", frames, 10)
    colour = read_video(tmp_path / "red.mp4", FrameSampling("uniform", max_frames=2)).frames.mean((0, 1, 2))
    np.testing.assert_allclose(colour, [200, 60, 10], atol=6)


def test_a_fractional_frame_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "ntsc.mp4", noisy_frames(60), Fraction(30000, 1001))
    video = read_video(str(tmp_path / "ntsc.mp4"), FrameSampling("fps", fps=1.0, max_frames=8))
    assert video.fps == pytest.approx(30000 / 1001)
    assert video.duration == pytest.approx(2.002)
    assert video.times == [0.0, 1.0]  # frame 30, which lmms-eval takes to be at 1 s


def test_a_single_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", noisy_frames(1), 24)
    video = read_video(tmp_path / "one.mp4", FrameSampling("uniform", max_frames=4))
    assert video.frames.shape == (4, 48, 64, 3)
    assert video.times == [0.0] * 4


def test_too_slow_a_video_names_the_file_and_its_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", noisy_frames(4), Fraction(1, 4))
    assert len(read_video(tmp_path / "slow.mp4", FrameSampling("uniform", max_frames=4)).frames) == 4
    with pytest.raises(VideoError, match=r"slow\.mp4: .*avg_fps 0\.25 is too low"):
        read_video(tmp_path / "slow.mp4", FrameSampling("fps", fps=1.0, max_frames=64))


def cut(path: Path, percent: int) -> bytes:
    data = path.read_bytes()
    return data[: len(data) * percent // 100]


def overwritten(path: Path) -> bytes:
    """Zero the second quarter of the data. The index stays whole."""
    data = bytearray(path.read_bytes())
    quarter = len(data) // 4
    data[quarter : 2 * quarter] = bytes(quarter)
    return bytes(data)


@pytest.mark.parametrize("layout", ["clip", "faststart"])
@pytest.mark.parametrize("damage", ["cut at 5", "cut at 50", "cut at 90", "cut at 99", "overwritten"])
def test_damaged_files(layout: str, damage: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole = request.getfixturevalue(layout)
    bad = tmp_path / "damaged.mp4"
    bad.write_bytes(overwritten(whole) if damage == "overwritten" else cut(whole, int(damage.split()[-1])))
    with pytest.raises(VideoError, match="cannot be read") as raised:
        read_video(bad, FrameSampling("uniform", max_frames=32))
    assert str(raised.value).startswith(f"{bad}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (bytes(5000), "cannot be read"),
        (np.random.default_rng(0).bytes(5000), "cannot be read"),
        (b"The quick brown fox.\n" * 300, "cannot be read"),
    ],
    ids=["empty", "zeros", "random", "text"],
)
def test_files_that_are_not_videos(content: bytes, cause: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(content)
    with pytest.raises(VideoError, match=cause) as raised:
        read_video(bad, FrameSampling("uniform", max_frames=8))
    assert str(bad) in str(raised.value)


@pytest.mark.parametrize("name", FINE)
def test_unusual_videos(name: str, tmp_path: Path) -> None:
    FINE[name](tmp_path / name)
    video = read_video(tmp_path / name, FrameSampling("uniform", max_frames=7))
    expected = pyav_frames(tmp_path / name)
    assert video.total_frames == len(expected)
    if name.startswith("turned"):  # PyAV does not apply the display matrix
        clockwise = int(name.removeprefix("turned_").removesuffix(".mp4"))
        expected = np.rot90(expected, -clockwise // 90, axes=(1, 2))
        assert video.frames.shape[1:] == ((64, 128, 3) if clockwise == 180 else (128, 64, 3))
    expected = expected[np.linspace(0, len(expected) - 1, 7, dtype=int)]
    assert video.frames.shape == expected.shape
    difference = np.abs(video.frames.astype(int) - expected)
    # From FFmpeg 8 on, PyAV's own conversion gives ten-bit video sharper edges between colours.
    assert (difference.max() <= 2) if name != "ten_bits.mp4" else (difference.mean() <= 2)


def test_at_a_variable_rate_frames_are_counted_and_times_are_as_if_it_were_constant(tmp_path: Path) -> None:
    FINE["variable_rate.mp4"](tmp_path / "variable.mp4")
    video = read_video(tmp_path / "variable.mp4", FrameSampling("uniform", max_frames=5))
    # 24 frames are in the first second, 6 in the three after it: by the clock, three of five would be of the latter.
    assert video.total_frames == 30
    assert 30 / 4 <= video.fps <= 30 / 3.5  # how long the last frame stays is not said
    assert video.times == [index / video.fps for index in (0, 7, 14, 21, 29)]
    expected = pyav_frames(tmp_path / "variable.mp4")[[0, 7, 14, 21, 29]]
    assert np.abs(video.frames.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name: str, tmp_path: Path) -> None:
    make, cause = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(VideoError) as raised:
        read_video(tmp_path / name, FrameSampling("uniform", max_frames=8))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert cause in message
    assert "\n" not in message


def test_a_video_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "no such file")))
    assert (str(error), error.path) == ("a.mp4: no such file", "a.mp4")


def test_the_default_reader_does_not_need_decord(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert read_video(clip, FrameSampling("uniform", max_frames=8)).reader == "pyav, from key pictures"
    with pytest.raises(ImportError, match="pip install decord"):
        read_video(clip, FrameSampling("uniform", max_frames=8), "decord")
