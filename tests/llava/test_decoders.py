"""PyAV and torchcodec against frames decoded one after the other, and against decord."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from llava.decoders import DECODERS, PyavVideo, require
from llava.video import FrameSampling, VideoError, read_video
from tests.odd_videos import BROKEN, FINE, encode, noisy_frames


def installed(decoder: str) -> bool:
    try:
        require(decoder)
    except ImportError:
        return False
    return True


OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason=f"without {name}"))
    for name in DECODERS
    if name != "decord"
]


def one_by_one(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("name", FINE)
def test_frames_count_and_rate_are_decords(name: str, decoder: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    if (name, decoder) == ("ten_bits.mp4", "torchcodec"):
        pytest.skip("which rounds ten bits to eight in another way")
    FINE[name](tmp_path / name)
    for sampling in (FrameSampling("uniform", 9), FrameSampling("fps", 64, 6.0)):
        reference, other = (read_video(tmp_path / name, sampling, which) for which in ("decord", decoder))
        assert (other.total_frames, other.fps) == (reference.total_frames, pytest.approx(reference.fps))
        assert other.times == pytest.approx(reference.times)
        assert other.frames.shape == reference.frames.shape
        # Another release of the same library converts colours; neighbouring frames differ by far more.
        assert np.abs(other.frames.astype(int) - reference.frames).max() <= 2


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_errors(name: str, decoder: str, tmp_path: Path) -> None:
    if name == "narrow.mp4":
        pytest.skip("which only decord cannot read")
    BROKEN[name][0](tmp_path / name)
    with pytest.raises(VideoError) as raised:
        read_video(tmp_path / name, FrameSampling("uniform", 8), decoder)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(raised.value)


def test_what_decord_cannot_read(tmp_path: Path) -> None:
    BROKEN["narrow.mp4"][0](tmp_path / "narrow.mp4")
    video = read_video(tmp_path / "narrow.mp4", FrameSampling("uniform", 12), "pyav")
    np.testing.assert_array_equal(video.frames, one_by_one(tmp_path / "narrow.mp4"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("keys", [1, 7, 250])
def test_pyav_finds_any_frames(keys: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    encode(path, noisy_frames(50), keys=keys)
    frames, video = one_by_one(path), PyavVideo(str(path))
    assert len(video) == len(frames) == 50
    rng = np.random.default_rng(keys)
    for indices in ([49], [0, 0, 1, 49], sorted(rng.integers(0, 50, 9).tolist()), list(range(50))):
        np.testing.assert_array_equal(video.frames(indices), frames[indices])


def test_pyav_refuses_what_it_cannot_place(tmp_path: Path) -> None:
    encode(tmp_path / "raw.h264", noisy_frames(10))
    with pytest.raises(VideoError, match="cannot be read by pyav: it has frames without time stamps"):
        read_video(tmp_path / "raw.h264", FrameSampling("uniform", 2), "pyav")


def test_pyav_refuses_frames_that_cannot_be_decoded(tmp_path: Path) -> None:
    """As they are in a recording that was joined half way: what they are made from came before."""
    encode(tmp_path / "whole.mp4", noisy_frames(40), keys=20)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "joined.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number > 0:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(VideoError, match="frame 0 cannot be decoded"):
        read_video(tmp_path / "joined.mp4", FrameSampling("uniform", 4), "pyav")


def test_unknown_decoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoder 'opencv' is unknown; there are decord, torchcodec, pyav"):
        read_video(tmp_path / "any.mp4", FrameSampling("uniform", 2), "opencv")


@pytest.mark.parametrize(("decoder", "package"), [("torchcodec", "torchcodec"), ("pyav", "av")])
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
