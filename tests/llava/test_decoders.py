"""The default reader against decord on whole files, and the raw readers decord, torchcodec and PyAV."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from llava.video import READERS, FrameSampling, VideoError, read_video, require
from llava.video.raw_readers import PyavVideo
from tests.llava.conftest import Made
from tests.odd_videos import BROKEN, DECORD_CANNOT, FINE, encode, noisy_frames

OLD_PYAV = int(av.__version__.split(".")[0]) < 16


def installed(decoder: str) -> bool:
    try:
        require(decoder)
    except ImportError:
        return False
    return True


OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason=f"without {name}"))
    for name in ("exact", "torchcodec")
]


def one_by_one(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("name", [name for name in FINE if name not in DECORD_CANNOT])
def test_frames_count_and_rate_are_decords(name: str, decoder: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    if (name, decoder) == ("ten_bits.mp4", "torchcodec"):
        pytest.skip("torchcodec rounds ten bits to eight differently")
    FINE[name](tmp_path / name)
    for sampling in (FrameSampling("uniform", max_frames=9), FrameSampling("fps", fps=6.0, max_frames=64)):
        reference, other = (read_video(tmp_path / name, sampling, which) for which in ("decord", decoder))
        assert (other.total_frames, other.fps) == (reference.total_frames, pytest.approx(reference.fps))
        assert other.times == pytest.approx(reference.times)
        assert other.frames.shape == reference.frames.shape
        if decoder == "exact" and (OLD_PYAV or name != "ten_bits.mp4"):
            np.testing.assert_array_equal(other.frames, reference.frames)
        elif name != "ten_bits.mp4":  # FFmpeg 8 converts ten bits with sharper edges between colours
            # Another release of FFmpeg converts the colours. Neighbouring frames differ by far more.
            assert np.abs(other.frames.astype(int) - reference.frames).max() <= 2


@pytest.mark.parametrize("name", DECORD_CANNOT)
def test_what_decord_cannot_read(name: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    FINE[name](tmp_path / name)
    with pytest.raises(VideoError, match="decord cannot handle frames of this width; exact can"):
        read_video(tmp_path / name, FrameSampling("uniform", max_frames=8), "decord")
    video = read_video(tmp_path / name, FrameSampling("uniform", max_frames=12))
    assert np.abs(video.frames.astype(int) - one_by_one(tmp_path / name)).max() <= 2


@pytest.mark.parametrize("decoder", [param for param in OTHERS if param.values[0] != "exact"] + ["decord", "pyav"])
@pytest.mark.parametrize("name", ["text.mp4", "cut.mp4", "cut_behind_index.mp4", "no_frames.mp4", "sound_only.mp4"])
def test_broken_files_are_errors(name: str, decoder: str, tmp_path: Path) -> None:
    if not installed(decoder):
        pytest.skip(f"without {decoder}")
    BROKEN[name][0](tmp_path / name)
    with pytest.raises(VideoError) as raised:
        read_video(tmp_path / name, FrameSampling("uniform", max_frames=8), decoder)
    assert str(raised.value).startswith(f"{tmp_path / name}: cannot be read by {decoder}: ")
    assert "\n" not in str(raised.value)


def test_raw_pyav_counts_from_the_start_and_leaves_frames_as_they_are(tmp_path: Path) -> None:
    FINE["turned_90.mp4"](tmp_path / "turned.mp4")
    expected, video = one_by_one(tmp_path / "turned.mp4"), PyavVideo(str(tmp_path / "turned.mp4"))
    assert len(video) == len(expected) == 12
    np.testing.assert_array_equal(video.frames([0, 0, 5, 11]), expected[[0, 0, 5, 11]])
    read = read_video(tmp_path / "turned.mp4", FrameSampling("uniform", max_frames=3), "pyav")
    assert (read.reader, read.why, read.indices) == ("raw pyav", "asked for", [0, 5, 11])


def test_raw_pyav_counts_what_the_header_does_not_say(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mkv", noisy_frames(20))
    assert len(PyavVideo(str(tmp_path / "clip.mkv"))) == 20


def test_unknown_decoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoder 'opencv' is unknown; there are exact, decord, torchcodec, pyav"):
        read_video(tmp_path / "any.mp4", FrameSampling("uniform", max_frames=2), "opencv")
    assert list(READERS) == ["exact", "decord", "torchcodec", "pyav"]


@pytest.mark.parametrize(
    ("decoder", "package"), [("torchcodec", "torchcodec"), ("pyav", "av"), ("exact", "av"), ("decord", "decord")]
)
def test_a_missing_decoder_says_what_to_install(decoder: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        require(decoder)


def test_torchcodec_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(*_: Any, **__: Any) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")

    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = starts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    with pytest.raises(ImportError, match="FFmpeg's shared libraries"):
        require("torchcodec")


@pytest.mark.skipif(not installed("decord"), reason="without decord")
def test_what_decord_has_no_decoder_for(made: Made) -> None:
    """The error names the reader that has one."""
    sampling = FrameSampling("uniform", max_frames=2)
    with pytest.raises(VideoError, match=r"decord does not know its codec, such as AV1; exact reads all that FFmpeg"):
        read_video(made("av1.mp4"), sampling, "decord")
    assert len(read_video(made("av1.mp4"), sampling).frames) == 2
