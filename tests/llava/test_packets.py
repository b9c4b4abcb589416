"""What a file says of its frames: sample tables against FFmpeg's full reading, key frames, undisplayed frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llava.video.bitstream import is_seek_point
from llava.video.mp4 import MAX_SAMPLES, sample_table
from llava.video.packets import _from_file, opened, read_packets
from tests.llava.conftest import Made
from tests.numbered import CASES

TABLED = [name for name in CASES if name.endswith((".mp4", ".mov", ".3gp"))]


@pytest.mark.parametrize("name", TABLED)
def test_sample_tables_say_what_ffmpeg_says(name: str, made: Made) -> None:
    file = str(made(name))
    with opened(file) as (container, stream):
        table = sample_table(file, stream.id, stream.time_base)
        pts, key, hidden, _ = _from_file(container, stream)
    left_to_ffmpeg = any(word in CASES[name].special for word in ("edit list", "fragments"))
    assert (table is None) == left_to_ffmpeg
    if table is None:
        return
    assert not hidden.any()
    np.testing.assert_array_equal(table.pts - table.pts[0], pts - pts[0])
    assert table.key[0]
    assert not (table.key & ~key).any()  # FFmpeg may mark more


@pytest.mark.parametrize("damage", [b"", b"moov", bytes(range(256)), b"\0\0\0\x08moov", b"\xff" * 64])
def test_headers_that_are_none_have_no_table(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(damage)
    assert sample_table(str(tmp_path / "bad.mp4"), 1, Fraction(1, 12800)) is None


def test_damaged_tables_are_left_to_ffmpeg(made: Made, tmp_path: Path) -> None:
    """Whichever byte of the header changes, there is some table or none, but no error and no huge memory use."""
    data, file = made("h264.mp4").read_bytes(), tmp_path / "bad.mp4"
    begin = data.index(b"moov")
    rng = np.random.default_rng(0)
    for position in rng.integers(begin, len(data), 400).tolist():
        file.write_bytes(data[:position] + rng.bytes(1) + data[position + 1 :])
        table = sample_table(str(file), 1, Fraction(1, 12288))
        assert table is None or len(table.pts) == len(table.key) <= MAX_SAMPLES


@pytest.mark.parametrize(("name", "good"), [("h264.mp4", True), ("open.mp4", True), ("refresh.mp4", False)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_key_pictures_that_decoding_may_begin_with(name: str, good: bool, suffix: str, made: Made) -> None:
    """With intra refresh, marks say where a viewer may join, but only the first frame is a key frame."""
    file = str(made(name.replace("mp4", suffix)))
    with opened(file) as (container, stream):
        setup = bytes(stream.codec_context.extradata or b"")
        keys = [bytes(packet) for packet in container.demux(stream) if packet.size and packet.is_keyframe]
    if "refresh" in name and len(keys) == 1:
        pytest.skip("FFmpeg does not report its marks as key frames here")
    assert len(keys) > 1
    assert is_seek_point("h264", setup, keys[0])
    assert [is_seek_point("h264", setup, key) for key in keys[1:]] == [good] * (len(keys) - 1)


def test_recovery_points_that_are_not_exact_are_no_entries() -> None:
    """Supplemental enhancement information (ITU-T H.264, 7.3.2.3, D.1.8) behind start codes."""

    def packet(body: bytes) -> bytes:
        return b"\0\0\1\x06" + b"\x05\x01\xff" + b"\x06" + bytes([len(body)]) + body + b"\x80\0\0\1\x41\xff"

    assert is_seek_point("h264", b"", packet(b"\xc4"))  # 1: at once; 1: exact
    assert not is_seek_point("h264", b"", packet(b"\x84"))  # 0: approximate
    assert not is_seek_point("h264", b"", packet(b"\x24\x80"))  # 00100: after 3 frames
    assert is_seek_point("h264", b"", b"\0\0\1\x65\x88")  # an IDR picture
    assert not is_seek_point("h264", b"", b"")


def test_hidden_pictures_are_not_counted(made: Made) -> None:
    for name in ("vp8_hidden.webm", "vp9_hidden.mkv"):
        packets = read_packets(str(made(name)))
        assert len(packets.shown) == len(CASES[name].shown)
    assert read_packets(str(made("vp8_hidden.webm"))).undisplayed.any()
