"""Losses that a container's counters and lengths show, and whole files that look odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.video import FrameSampling, VideoError, read_video
from llava.video.damage import why_damaged
from tests.llava.conftest import Made
from tests.numbered import CASES, Encoding

FORMATS = {
    "mp4": "mov,mp4,m4a,3gp,3g2,mj2",
    "mov": "mov,mp4,m4a,3gp,3g2,mj2",
    "3gp": "mov,mp4,m4a,3gp,3g2,mj2",
    "mkv": "matroska,webm",
    "webm": "matroska,webm",
    "flv": "flv",
    "avi": "avi",
    "ts": "mpegts",
    "m2ts": "mpegts",
    "wmv": "asf",
}
VIDEO = 256
"""Packet id of the video in transport streams that FFmpeg writes."""


@pytest.mark.parametrize("name", [name for name in CASES if name.rpartition(".")[2] in FORMATS])
def test_whole_files_are_not_damaged(name: str, made: Made) -> None:
    suffix = name.rpartition(".")[2]
    stream = {"m2ts": 0x1011, "wmv": 1}.get(suffix, VIDEO)
    assert why_damaged(str(made(name)), FORMATS[suffix], stream) is None


@pytest.mark.parametrize(
    "name", ["h264.mkv", "vp9.webm", "h264.flv", "late.flv", "mpeg4.avi", "fragments.mp4", "h264.mov", "wmv2.wmv"]
)
def test_files_that_were_cut_off(name: str, made: Made, tmp_path: Path) -> None:
    data = made(name).read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError, match=r"cut off|damaged|no pictures|no frames"):
            read_video(tmp_path / name, FrameSampling("uniform", max_frames=4))


def test_a_packet_without_a_picture(made: Made, tmp_path: Path) -> None:
    """FFmpeg skips a frame that it cannot decode, and the next one would get its number."""
    data = bytearray(made("mjpeg.avi").read_bytes())
    chunk = data.index(b"00dc", len(data) // 2)
    data[chunk + 8 : chunk + 200] = bytes(192)
    (tmp_path / "zeros.avi").write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged"):
        read_video(tmp_path / "zeros.avi", FrameSampling("uniform", max_frames=9))


def test_a_lost_fragment(tmp_path: Path) -> None:
    Encoding(keys=10, container={"movflags": "frag_keyframe+empty_moov"})(tmp_path / "whole.mp4")
    data = (tmp_path / "whole.mp4").read_bytes()
    begins = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    assert len(begins) > 5
    (tmp_path / "lost.mp4").write_bytes(data[: begins[4]] + data[begins[5] :])
    with pytest.raises(VideoError, match="it is damaged: fragment 6 follows fragment 4"):
        read_video(tmp_path / "lost.mp4", FrameSampling("uniform", max_frames=4))


def test_transport_stream_packets_lost_from_one_table_to_another(made: Made, tmp_path: Path) -> None:
    """This looks like joined files, except for the counters."""
    data = made("h264.ts").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    tables = [at for at, packet in enumerate(packets) if packet[1] & 31 == packet[2] == 0]
    assert len(tables) > 4
    for first, last in ((1, 2), (1, 3), (2, 4)):
        lost = packets[: tables[first]] + packets[tables[last] :]
        (tmp_path / "lost.ts").write_bytes(b"".join(lost))
        with pytest.raises(VideoError, match="it is damaged: packets are missing before byte"):
            read_video(tmp_path / "lost.ts", FrameSampling("uniform", max_frames=4))


def ogg(count: int, serial: int, last: bool = False) -> bytes:
    """Return a page with 5 bytes of data (RFC 3533). Its checksum is not checked."""
    head = b"OggS\0" + bytes([4 * last]) + bytes(8) + serial.to_bytes(4, "little") + count.to_bytes(4, "little")
    return head + bytes(4) + b"\x01\x05" + b"video"


def test_ogg_pages(tmp_path: Path) -> None:
    pages = [ogg(0, 7), ogg(0, 9), ogg(1, 7), ogg(1, 9, last=True), ogg(2, 7, last=True)]
    file = tmp_path / "pages.ogv"

    def why(pages: list[bytes]) -> str | None:
        file.write_bytes(b"".join(pages))
        return why_damaged(str(file), "ogg", 0)

    assert why(pages) is None
    assert why(pages[:2] + pages[3:]) == "it is damaged: pages are missing before byte 99"
    assert why(pages[:4]) == "it was cut off: one of its streams has no last page"
    assert why([*pages[:4], pages[4][:-2]]) == "it was cut off: one of its streams has no last page"
    assert why([*pages[:2], b"x", *pages[2:]]) == "it is damaged: what is at byte 66 does not belong there"
