from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from eval.cli import function, parse
from eval.speed import decode, preprocess
from eval.speed.made_videos import FPS, SEGMENT, join, parse_sizes, pictures, write_segment
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from llava.video import READERS, FrameSampling, require
from llava.video.raw_readers import DecordVideo, PyavVideo
from tests.eval.speed.widths import TERMINAL, table_width


def prepare(*arguments: str):
    parsed = parse(["bench", *arguments])
    return function(parsed.start)(parsed)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def segments(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("segments")
    return [write_segment(folder / f"{i}.mp4", pictures((32, 16), SEGMENT * FPS, i, 4)) for i in range(3)]


def test_joined_videos_are_the_segments_in_turn(segments, tmp_path):
    path = join(tmp_path / "joined.mp4", segments, 4 * SEGMENT)
    first, second, third = (decoded(segment) for segment in segments)
    assert not np.array_equal(first, second)
    assert len(first) == SEGMENT * FPS
    np.testing.assert_array_equal(decoded(path), np.concatenate([first, second, third, first]))
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == FPS
    assert len(PyavVideo(str(path))) == len(DecordVideo(str(path))) == 4 * SEGMENT * FPS


def test_decode(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    file = tmp_path / "new" / "decode.json"
    flags = ("--seconds", "10,20", "--size", "32x16", "--frames", "5", "--repeats", "2")
    assert prepare("decode", *flags, "--json", str(file))() == 0
    printed = capsys.readouterr().out
    assert "torchcodec: not measured. reading videos with torchcodec needs torchcodec" in printed
    assert table_width(printed, decode.NOTES[0]) <= TERMINAL
    report = json.loads(file.read_text())
    assert report["provenance"]["versions"]["decord"]
    assert (report["size"], report["frames"], report["repeats"]) == ("32x16", 5, 2)
    assert list(report["not_installed"]) == ["torchcodec"]
    assert [video["seconds"] for video in report["videos"]] == [10, 20]
    for video in report["videos"]:
        assert list(video["decoders"]) == ["exact", "decord"]
        for line in video["decoders"].values():
            assert len(line["milliseconds"]) == 2
            assert line["frames_per_second"] == pytest.approx(5000 / np.mean(line["milliseconds"]))
            assert (line["same"], line["max"], line["mean"]) == (5, 0, 0)
            assert len(line["cpu_milliseconds"]) == 2
            assert line["peak_mib"] >= 0
        assert video["decoders"]["decord"]["cpu_of_decord"] == 1
    assert str(tmp_path) not in file.read_text()


def test_other_frames_are_told(segments, tmp_path, monkeypatch):
    class Late(DecordVideo):
        def frames(self, indices):
            return super().frames([0, *indices[:-1]])

    monkeypatch.setitem(READERS, "exact", Late)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    sampling = FrameSampling("uniform", max_frames=5)
    lines = decode.measure_decoders(segments[0], sampling, 2)
    assert lines["decord"]["same"] == 5
    assert lines["exact"]["same"] == 1  # the first
    frames = decoded(segments[0])[sampling.indices(250, 25.0)].astype(int)
    shifted = np.abs(frames - frames[[0, 0, 1, 2, 3]])
    assert lines["exact"]["max"] == pytest.approx(shifted.max(), abs=2)
    assert lines["exact"]["mean"] == pytest.approx(shifted.mean(), abs=0.5)


def test_preprocess(tmp_path: Path, capsys):
    file = tmp_path / "preprocess.json"
    flags = ("--sizes", "32x18, 19x40", "--frames", "3", "--tower", "28", "--repeats", "2", "--device", "cpu")
    assert prepare("preprocess", *flags, "--json", str(file))() == 0
    printed = capsys.readouterr().out
    assert "32x18 exact" in printed
    assert table_width(printed, preprocess.NOTES[0]) <= TERMINAL
    report = json.loads(file.read_text())
    assert (report["device"], report["frames"], report["tower"]) == ("cpu", 3, 28)
    assert [size["size"] for size in report["sizes"]] == ["32x18", "19x40"]
    for size in report["sizes"]:
        assert list(size["lines"]) == ["exact", "fast", "torch"]
        assert (size["lines"]["fast"]["max"], size["lines"]["fast"]["differ_percent"]) == (0, 0)


def test_other_pixels_are_told(monkeypatch):
    def brighter(processor, frames):
        return processor.preprocess(frames.numpy(), return_tensors="pt")["pixel_values"] + 2 * 3 / 255

    monkeypatch.setattr(preprocess, "preprocess_on_device", brighter)
    processor = SigLipImageProcessor(size=(8, 8))
    lines = preprocess.measure_preprocessing(processor, pictures((16, 12), 2, 0, 4), 2, torch.device("cpu"))
    assert (lines["fast"]["max"], lines["fast"]["differ_percent"]) == (3, 100)


def test_pictures_move_and_differ():
    frames = pictures((40, 24), 3, 0, 4)
    assert frames.shape == (3, 24, 40, 3)
    assert len({frame.tobytes() for frame in (*frames, *pictures((40, 24), 3, 1, 4))}) == 6
    assert frames.std(axis=(1, 2)).min() > 10


@pytest.mark.parametrize("text", ["", "32", "0x4", "4x4x4", "4x4,", "4 x 4", "-1x4", "4x4.0"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match=r"--size: .* is not width x height, such as 640x360"):
        parse_sizes("--size", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decode", "--size", "33x16"), "--size 33x16: H.264 needs an even"),
        (("decode", "--seconds", "10,x"), "--seconds '10,x' are not multiples of 10"),
        (("decode", "--seconds", "15"), "not multiples of 10"),
        (("decode", "--seconds", "0"), "not multiples of 10"),
        (("decode", "--frames", "0"), "--frames 0 must be at least 1"),
        (("decode", "--repeats", "1"), "--repeats 1 must be at least 2"),
        (("decode", "--grain", "-1"), "--grain -1 is not between 0 and 64 levels"),
        (("decode", "--grain", "2", "--source", "clip.mp4"), "--grain has no effect with --source"),
        (("preprocess", "--sizes", "640"), "--sizes: '640'"),
        (("preprocess", "--frames", "0"), "--frames 0 must be at least 1"),
        (("preprocess", "--tower", "0"), "--tower 0 must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(*arguments)


def test_every_decoder_is_known_or_missed():
    assert set(decode.not_installed()) <= set(decode.COMPARED) <= set(READERS)
    for name in set(decode.COMPARED) - set(decode.not_installed()):
        require(name)
