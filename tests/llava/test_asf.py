"""ASF: FFmpeg skips what is missing, and the frames behind it then get wrong numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llava.video import FrameSampling, VideoError, read_video
from llava.video.asf_damage import DATA, FILE, SIMPLE_INDEX
from llava.video.damage import why_damaged
from tests.numbered import LENGTH, Encoding, number

SIZE = 400
"""Bytes of a packet."""
Why = Callable[[bytes], str | None]
WMV2 = Encoding("wmv2", b_frames=0, container={"packet_size": str(SIZE)})


class Asf:
    """A file in parts: header, packets, index."""

    def __init__(self, data: bytes):
        self.properties, self.object = data.index(FILE), data.index(DATA)
        begin = self.object + 50
        count = int.from_bytes(data[begin - 10 : begin - 2], "little")
        self.header, self.index = data[:begin], data[begin + count * SIZE :]
        self.packets = [data[begin + at * SIZE :][:SIZE] for at in range(count)]

    def joined(self, packets: Sequence[bytes], said: int | None = None, recorded: bool = False) -> bytes:
        """Return a file of these packets. Its header says that it has `said`; None for the true number."""
        header = bytearray(self.header)
        said = len(packets) if said is None else said
        header[-10:-2] = said.to_bytes(8, "little")
        header[self.object + 16 : self.object + 24] = (50 + said * SIZE).to_bytes(8, "little")
        header[self.properties + 88] |= recorded
        return bytes(header) + b"".join(packets)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Asf:
    path = tmp_path_factory.mktemp("asf") / "whole.wmv"
    WMV2(path)
    asf = Asf(path.read_bytes())
    assert len(asf.packets) > 10
    return asf


@pytest.fixture
def why(tmp_path: Path) -> Why:
    def judge(data: bytes) -> str | None:
        (tmp_path / "judged.asf").write_bytes(data)
        return why_damaged(str(tmp_path / "judged.asf"), "asf", 1)

    return judge


@pytest.mark.parametrize(
    "encoding",
    [
        WMV2,
        Encoding("wmv1", b_frames=0),
        Encoding("wmv2", b_frames=0, container={"packet_size": "100"}),
        Encoding("wmv2", b_frames=0, container={"packet_size": "64000"}),
        Encoding("wmv2", b_frames=0, sound=True),
        Encoding("msmpeg4", b_frames=0, length=300),  # object numbers start again after 256
        Encoding(),
    ],
)
def test_whole_files(encoding: Encoding, tmp_path: Path) -> None:
    encoding(tmp_path / "whole.asf")
    assert why_damaged(str(tmp_path / "whole.asf"), "asf", 1) is None
    video = read_video(tmp_path / "whole.asf", FrameSampling("uniform", max_frames=12))
    assert video.total_frames == encoding.length
    assert [number(frame) for frame in video.frames] == [index % 256 for index in video.indices]


def test_recordings(whole: Asf, tmp_path: Path) -> None:
    """Their header does not say how long they are. They may end after any packet, with or without an index."""
    file = tmp_path / "recorded.wmv"
    for end in (whole.index, b""):
        file.write_bytes(whole.joined(whole.packets, said=0, recorded=True) + end)
        assert read_video(file, FrameSampling("uniform", max_frames=4)).total_frames == LENGTH
    assert whole.index.startswith(SIMPLE_INDEX)
    file.write_bytes(whole.joined(whole.packets[:10], said=0, recorded=True))
    video = read_video(file, FrameSampling("uniform", max_frames=12))
    assert 20 < video.total_frames < LENGTH
    assert [number(frame) for frame in video.frames] == video.indices
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(VideoError, match="it was cut off, in the packet that begins at byte"):
        read_video(file, FrameSampling("uniform", max_frames=4))


@pytest.mark.parametrize("lost", [1, 9, 18])
def test_a_lost_packet(whole: Asf, lost: int, tmp_path: Path) -> None:
    file = tmp_path / "lost.wmv"
    left = whole.packets[:lost] + whole.packets[lost + 1 :]
    file.write_bytes(whole.joined(left) + whole.index)
    with pytest.raises(VideoError, match="it is damaged: pictures are missing before byte"):
        read_video(file, FrameSampling("uniform", max_frames=4))
    file.write_bytes(whole.joined(left, said=len(left) + 1))
    with pytest.raises(VideoError, match=r"it is damaged: pictures are missing|it was cut off: it has"):
        read_video(file, FrameSampling("uniform", max_frames=4))


def test_the_lost_end(whole: Asf, why: Why) -> None:
    data, count = whole.joined(whole.packets), len(whole.packets)
    assert why(data) is None
    assert why(data[: -2 * SIZE]) == f"it was cut off: it has {count - 2} packets, its header says {count}"
    assert why(data[:-1]) == f"it was cut off, in the packet that begins at byte {len(data) - SIZE}"


def test_what_is_not_a_packet(whole: Asf, why: Why) -> None:
    data, begin = whole.joined(whole.packets), len(whole.header)
    position = begin + 5 * SIZE
    strange = f"it is damaged: what is at byte {position} does not belong there"
    for noise in (bytes(SIZE), b"x" * SIZE, whole.packets[5][:20] + bytes(SIZE - 20), whole.index[:SIZE]):
        noise += bytes(SIZE - len(noise))
        assert why(data[:position] + noise + data[position + SIZE :]) == strange
    assert why(data[:position] + b"x" + data[position:-1]) == strange
    for part in (FILE, DATA):
        assert why(data.replace(part, bytes(16))) == "it is damaged: its header does not say where its packets are"


def payload(number: int, size: int, offset: int, body: bytes, stream: int = 1) -> bytes:
    """Return a piece of an object of `size` bytes (section 5.2.3.3)."""
    replicated = b"\x08" + size.to_bytes(4, "little") + bytes(4)
    place = bytes([128 | stream, number]) + offset.to_bytes(4, "little")
    return place + replicated + len(body).to_bytes(2, "little") + body


def packet(*payloads: bytes) -> bytes:
    body = bytes([128 | len(payloads)]) + b"".join(payloads)
    padding = SIZE - 13 - len(body)
    return b"\x82\0\0\x11\x5d" + padding.to_bytes(2, "little") + bytes(6) + body + bytes(padding)


@pytest.mark.parametrize(
    ("packets", "lost"),
    [
        ([packet(payload(254, 3, 0, b"abc")), packet(payload(255, 9, 0, b"abc"), payload(255, 9, 3, b"defghi"))], None),
        ([packet(payload(255, 3, 0, b"abc"), payload(0, 2, 0, b"ab"), payload(1, 0, 0, b""))], None),
        ([packet(payload(7, 9, 6, b"abc"), payload(8, 2, 0, b"ab"))], None),  # recorded from the middle of a picture on
        ([packet(payload(7, 2, 0, b"ab"), payload(9, 2, 0, b"ab", stream=2), payload(8, 2, 0, b"ab"))], None),
        ([packet(payload(7, 2, 0, b"ab"), payload(9, 2, 0, b"ab"))], 1),
        ([packet(payload(7, 2, 0, b"ab")), packet(payload(7, 2, 0, b"ab"))], 2),
        ([packet(payload(7, 9, 0, b"abc"), payload(8, 2, 0, b"ab"))], 1),
        ([packet(payload(7, 9, 0, b"abc"), payload(7, 9, 4, b"efghi"))], 1),
        ([packet(payload(7, 9, 0, b"abc"), payload(7, 8, 3, b"defgh"))], 1),
        ([packet(payload(7, 2, 0, b"abc"))], 1),
        # One byte of replicated data: whole objects, each behind its length.
        ([packet(b"\x81\x07\0\0\0\0\x01\x05\x07\0\x02ab\x03abc", payload(9, 2, 0, b"ab"))], None),
        ([packet(b"\x81\x07\0\0\0\0\x01\x05\x07\0\x02ab\x03abc", payload(10, 2, 0, b"ab"))], 1),
    ],
)
def test_objects(packets: list[bytes], lost: int | None, whole: Asf, why: Why) -> None:
    expected = None
    if lost is not None:
        expected = f"it is damaged: pictures are missing before byte {len(whole.header) + lost * SIZE}"
    assert why(whole.joined(packets)) == expected


def test_the_end_of_the_last_picture(whole: Asf, why: Why) -> None:
    begun = [packet(payload(7, 2, 0, b"ab"), payload(8, 9, 0, b"abc"))]
    assert why(whole.joined(begun)) == "it was cut off: its last picture is not complete"
    assert why(whole.joined(begun, said=0, recorded=True)) is None
