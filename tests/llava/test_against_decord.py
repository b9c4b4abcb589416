"""decord is right where it is proved right; elsewhere its wrong frames are counted."""

from __future__ import annotations

import av
import numpy as np
import pytest

from llava.video import FrameSampling, open_video, read_video
from llava.video.against_decord import AgainstDecord, against_decord, count_different, looks_alike, why_in_doubt
from llava.video.exact import ExactVideo
from tests.llava.conftest import Made
from tests.numbered import CASES, number

OLD_PYAV = int(av.__version__.split(".")[0]) < 16


@pytest.mark.parametrize("text", ["uniform:16", "fps:5.0:max64"])
@pytest.mark.parametrize("name", CASES)
def test_where_decord_is_proved_right_it_is(name: str, text: str, made: Made) -> None:
    pytest.importorskip("decord")
    file, sampling = str(made(name)), FrameSampling.parse(text)
    with open_video(file) as video:
        assert isinstance(video, ExactVideo)
        _, frames = video.sample(sampling.indices)
        if (doubt := why_in_doubt(video)) is not None:
            if text != "uniform:16":
                pytest.skip("asked once")
            against = against_decord(file, video, sampling.indices, frames)
            assert against.differ is not None
            assert doubt in against.why or "raw decord cannot read it" in against.why
            return
        assert against_decord(file, video, sampling.indices, frames).differ == 0
    theirs = read_video(file, sampling, "decord").frames
    if OLD_PYAV or name not in ("ten.mp4", "vp9_odd.webm"):  # FFmpeg 8 gives these sharper edges between colours
        np.testing.assert_array_equal(frames, theirs)
    assert count_different(frames, theirs) == 0


@pytest.mark.parametrize("name", ["h264.avi", "mpeg4.avi", "h264.ts", "mpeg2.mpg", "cut_head.mp4", "mirrored.mp4"])
def test_what_decord_misreads_is_counted(name: str, made: Made) -> None:
    """The count equals that of the numbers in its frames."""
    pytest.importorskip("decord")
    file, sampling = str(made(name)), FrameSampling("uniform", max_frames=16)
    with open_video(file) as video:
        indices, frames = video.sample(sampling.indices)
        against = against_decord(file, video, sampling.indices, frames)
    theirs = [number(frame) for frame in read_video(file, sampling, "decord").frames]
    wrong = sum(CASES[name].shown[index] != other for index, other in zip(indices, theirs, strict=True))
    assert against.differ == wrong > 0
    assert against.why.startswith("compared, as ")


def test_decord_that_fails_hangs_or_is_not_there(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    choose = FrameSampling("uniform", max_frames=4).indices

    def against(timeout: float = 60.0) -> AgainstDecord:
        with open_video(made("h264.ts")) as video:
            _, frames = video.sample(choose)
            return against_decord(str(made("h264.ts")), video, choose, frames, timeout=timeout)

    hurried = against(timeout=0.01)
    assert hurried.differ == 4
    assert hurried.why.startswith("raw decord cannot read it: ")
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/no such python")
        unstarted = against()
    assert unstarted.differ is None
    assert unstarted.why.startswith("not compared: decord's process does not start")
    monkeypatch.setattr("llava.video.against_decord.find_spec", lambda name: None)
    absent = against()
    assert absent.differ is None
    assert absent.why.startswith("not compared: decord is not installed")


def test_raw_readers_are_not_compared(made: Made) -> None:
    pytest.importorskip("decord")
    choose = FrameSampling("uniform", max_frames=4).indices
    with open_video(made("h264.ts"), "decord") as video:
        _, frames = video.sample(choose)
        against = against_decord(str(made("h264.ts")), video, choose, frames)
    assert (against.differ, against.why) == (None, "not compared: raw decord was asked for")


def test_looks_alike() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert looks_alike(frame, frame)
    noise = np.where(np.arange(70)[None, :, None] % 2, 3, -3)
    assert looks_alike(frame, np.clip(frame + noise, 0, 255).astype(np.uint8))
    other = frame.copy()
    other[48:, 64:, 1] = 255 - other[48:, 64:, 1]  # the last block, which is not whole
    assert not looks_alike(frame, other)
    assert count_different(np.stack([frame, frame]), np.stack([other, frame])) == 1
    assert count_different(np.stack([frame, frame]), frame[None]) == 2
