"""The default reader gives, for every file and any indices, the frames that decoding from the start gives."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from eval.speed.made_videos import FPS, SEGMENT, join, write_segment
from eval.speed.memory import peak_of_reading
from llava.video import FrameSampling, VideoError, open_video, read_video
from llava.video.conversion import upright
from llava.video.exact import ExactVideo
from tests.llava.conftest import Made
from tests.numbered import CASES, GAP, VARIABLE, number
from tests.odd_videos import FINE


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_that_a_player_shows(name: str, made: Made) -> None:
    case, file = CASES[name], str(made(name))
    count = len(case.shown)
    rng = np.random.default_rng(count)
    even = np.linspace(0, count - 1, 16, dtype=int).tolist()
    anywhere = np.sort(rng.integers(0, count, 9)).tolist()
    with open_video(file) as video:
        for indices in (even, anywhere, [count - 1], list(range(count))):
            chosen, frames = video.sample(lambda total, fps, indices=indices: indices)
            assert chosen == indices
            assert frames.shape[1:] == (*case.size, 3)
            assert [number(frame) for frame in frames] == [case.shown[index] for index in indices]
        assert len(video) == count
        every = frames
        for index in (0, int(rng.integers(0, count)), count - 1):
            np.testing.assert_array_equal(video.frames([index])[0], every[index])
        assert video.times([0]) == [0.0]
        assert np.diff(video.times(range(count))).min(initial=1) > 0


@pytest.mark.parametrize("name", CASES)
def test_seeking_gives_what_decoding_from_the_start_gives(name: str, made: Made) -> None:
    """Bit for bit, whether unneeded frames are skipped or not."""
    file = str(made(name))
    seeking, straight = ExactVideo(file), ExactVideo(file)
    if not seeking.seeks:
        pytest.skip(f"read from the start: {seeking.why}")
    straight._set_mode(False, "for this test")
    everything = list(range(len(CASES[name].shown)))
    expected = straight.frames(everything)
    for indices in (everything[::7], everything[len(everything) // 2 :][:1], everything[-1:]):
        np.testing.assert_array_equal(seeking.frames(indices), expected[indices])
    assert seeking.seeks, seeking.why


def test_times_are_those_of_the_frames_shown(made: Made) -> None:
    for name, ticks in (("variable.mp4", VARIABLE), ("gap.mp4", GAP), ("variable.mkv", VARIABLE)):
        video = read_video(made(name), FrameSampling("uniform", max_frames=10))
        assert video.shown_at == pytest.approx([(ticks[i] - ticks[0]) / 240 for i in video.indices], abs=0.002)
        assert video.times == [index / video.fps for index in video.indices]
    video = read_video(made("cut_head.mp4"), FrameSampling("uniform", max_frames=5))
    assert video.shown_at == pytest.approx([index / 24 for index in video.indices], abs=0.001)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({10: None}, {}),
        ({36: None}, {36: (GAP[35] + GAP[37]) / 2}),  # the end of the gap is lost with it
        ({34: None, 35: None, 36: None}, {34: 330 + 220, 35: 330 + 440, 36: 330 + 660}),
        ({20: 5}, {}),
        ({20: 190}, {}),
        ({20: 9999}, {}),
    ],
)
def test_one_time_stamp_that_is_wrong_or_missing(
    changed: dict[int, int | None], expected: dict[int, float], made: Made
) -> None:
    """The other frames keep their times."""
    video = ExactVideo(str(made("gap.mp4")))
    ticks = dict(enumerate(GAP)) | expected
    stamps = [1000 + tick for tick in GAP]
    video.packets = replace(video.packets, time_base=Fraction(1, 240))
    given = [changed.get(number, 1000 + tick) for number, tick in enumerate(GAP)]
    assert video._seconds(stamps) == pytest.approx([tick / 240 for tick in GAP])
    assert video._seconds(given) == pytest.approx([ticks[number] / 240 for number in range(len(GAP))])


def test_time_stamps_missing_at_the_ends(made: Made) -> None:
    """There frames come at the average rate."""
    video = ExactVideo(str(made("variable.mp4")))
    video.fps = 10.0
    video.packets = replace(video.packets, time_base=Fraction(1, 240))
    assert video._seconds([None, None, 24, 72, None, 120, None]) == pytest.approx([0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7])
    assert video._seconds([None, None, None]) == pytest.approx([0, 0.1, 0.2])
    assert video._seconds([2, 1, 4, 3, 6, 5]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])  # times of decoding


def test_more_or_fewer_pictures_than_packets(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only decoding gives the number of frames, frames are chosen by that number."""
    file, count = str(made("h264.ts")), len(CASES["h264.ts"].shown)
    expected = read_video(file, FrameSampling("uniform", max_frames=9))
    for guess in (count - 5, count + 5):
        video = ExactVideo(file)
        video.packets.__dict__["shown"] = np.arange(guess)
        asked: list[int] = []
        indices, frames = video.sample(lambda total, fps, asked=asked: asked.append(total) or [0, total - 1])  # type: ignore[func-returns-value]
        assert (asked, indices) == ([guess, count], [0, count - 1])
        np.testing.assert_array_equal(frames, expected.frames[[0, -1]])
        assert len(video) == count


def test_what_the_packets_do_not_announce_is_read_from_the_start(made: Made) -> None:
    file = str(made("h264.mkv"))
    expected = ExactVideo(file).frames([3, 30, 60])
    video = ExactVideo(file)
    video.packets.pts[25:] += 1  # from the second group on
    np.testing.assert_array_equal(video.frames([3, 30, 60]), expected)
    assert (video.seeks, video.name) == (False, "pyav, from the start")


def test_a_frame_beyond_the_end(made: Made) -> None:
    for name in ("h264.ts", "h264.mp4"):
        with pytest.raises(VideoError, match=r"72"), open_video(made(name)) as video:
            video.frames([72])


def test_a_stream_may_be_cut_anywhere(made: Made, tmp_path: Path) -> None:
    data = made("h264.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[: int(len(data) * 0.6)])
    video = read_video(tmp_path / "cut.ts", FrameSampling("uniform", max_frames=4))
    assert 20 < video.total_frames < 72
    *before, last = (number(frame) for frame in video.frames)
    assert before == video.indices[:-1]
    assert last - video.indices[-1] in (0, 1, 2)  # frames that are shown before it may follow it in the file


def test_streams_that_were_joined(made: Made, tmp_path: Path) -> None:
    """As `cat a.ts b.ts` does: the counters start again, and nothing is missing."""
    data = made("h264.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    video = read_video(tmp_path / "joined.ts", FrameSampling("uniform", max_frames=17))
    assert video.total_frames == 144
    assert [number(frame) for frame in video.frames] == [index % 72 for index in video.indices]


@pytest.mark.parametrize("lost", [1, 188, 700])
@pytest.mark.parametrize(
    "name", ["h264.ts", "h264.m2ts", "h264.mkv", "vp9.webm", "h264.flv", "h264.avi", "mpeg2.mpg", "wmv2.wmv"]
)
def test_what_is_lost_in_the_middle_is_not_passed_over(name: str, lost: int, made: Made, tmp_path: Path) -> None:
    """FFmpeg goes on after the loss, and the frames there would have wrong numbers."""
    data = made(name).read_bytes()
    middle = len(data) * 3 // 5
    (tmp_path / name).write_bytes(data[:middle] + data[middle + lost :])
    try:
        video = read_video(tmp_path / name, FrameSampling("uniform", max_frames=36))
    except VideoError:
        return
    assert [number(frame) for frame in video.frames] == video.indices  # the loss is inside one frame


@pytest.mark.parametrize("name", ["h264.ts", "h264.mkv", "h264.mp4"])
def test_damage_in_the_middle_is_an_error(name: str, made: Made, tmp_path: Path) -> None:
    """The decoder's substitute for a damaged frame is never returned."""
    data = bytearray(made(name).read_bytes())
    middle = len(data) // 2
    data[middle - 300 : middle + 300] = np.random.default_rng(0).bytes(600)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged|time stamps|cut off"):
        read_video(tmp_path / name, FrameSampling("uniform", max_frames=36))


@pytest.mark.parametrize(
    "a_b_c_d", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)]
)
def test_upright_is_the_display_matrix_point_by_point(a_b_c_d: tuple[int, int, int, int]) -> None:
    picture = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    a, b, c, d = a_b_c_d
    shown = {}
    for y in range(3):
        for x in range(5):
            shown[a * x + c * y, b * x + d * y] = picture[y, x]
    left, top = (min(point[axis] for point in shown) for axis in (0, 1))
    made = upright(picture, tuple(v << 16 for v in a_b_c_d))  # type: ignore[arg-type]
    assert made.shape[0] * made.shape[1] == 15
    for (x, y), colour in shown.items():
        np.testing.assert_array_equal(made[y - top, x - left], colour)


def test_other_angles_are_an_error() -> None:
    with pytest.raises(ValueError, match="other than quarters"):
        upright(np.zeros((4, 4, 3), np.uint8), (46341, 46341, -46341, 46341))


@pytest.mark.parametrize("name", ["narrow.mp4", "grey.mp4", "one_frame.mp4"])
def test_odd_videos(name: str, tmp_path: Path) -> None:
    FINE[name](tmp_path / name)
    assert read_video(tmp_path / name, FrameSampling("uniform", max_frames=3)).frames.dtype == np.uint8


def test_memory_does_not_grow_with_the_videos_length(tmp_path: Path) -> None:
    """Reading 32 frames of an hour takes their size and at most 64 MiB."""
    size = (640, 360)
    segments = [write_segment(tmp_path / f"{i}.mp4", still(size, i)) for i in range(2)]
    hour = join(tmp_path / "hour.mp4", segments, 3600)
    frames = 32 * size[0] * size[1] * 3 / 2**20
    assert frames <= peak_of_reading(hour, FrameSampling("uniform", max_frames=32), "exact") <= frames + 64


def still(size: tuple[int, int], number: int) -> np.ndarray:
    """Return frames that are quick to encode."""
    return np.broadcast_to(np.uint8(100 + 50 * number), (SEGMENT * FPS, size[1], size[0], 3))
