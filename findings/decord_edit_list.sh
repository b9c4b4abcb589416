#!/usr/bin/env bash
# decord counts the hidden frames of a cut MP4 file and gives other frames than asked for.
#
# Date: 2026-11-27.
# Versions: decord 0.6.0 and its fork decord2 3.4.0, PyAV 15.1.0, NumPy 2.2.6.
#
# What happens:
#   The script writes 240 frames of H.264 with B-frames (a key frame at least every 60 frames) into an MP4 file.
#   Each frame carries its number as bright blocks.
#   It then cuts the file at frame 80 without encoding again: it copies the packets from the key frame at 64.
#   The MP4 muxer writes an edit list, and frames 64 to 79 are stored but hidden.
#   PyAV decodes the cut file from the start and gives 160 frames, 80 to 239, in order.
#   decord says that the file has 176 frames.
#   decord reads vr[0], vr[1], and so on, and gives frames 80 to 239, and then frame 239 for the last 16 indices.
#   decord's get_batch with 16 evenly spaced indices below 160 gives 10 other frames than asked for.
#   Each of the 10 frames is 16 frames too early.
#   Index 53 gives frame 133, and index 63 gives frame 127, so the frames are not in order of time.
#   decord raises no error.
#   decord2 does the same in all these points.
#
# Why it matters: An evaluation that takes evenly spaced frames of such a clip shows the model a wrong order.
#   It also shows the model wrong moments, and counts more frames than a player shows.
#
# What you can do: Compare len(VideoReader) with the number of frames that PyAV decodes.
#   Decode such files by PyAV from the start.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
from fractions import Fraction
import av, decord, numpy as np

WIDTH, HEIGHT, LENGTH, CUT, KEY = 160, 96, 240, 80, 64
print("decord", decord.__version__, "| PyAV", av.__version__, "| NumPy", np.__version__)

def number(image):
    return sum(1 << bit for bit in range(8) if image[54:66, bit * 20 + 5 : bit * 20 + 15].mean() > 150)

with av.open("whole.mp4", "w") as target:
    stream = target.add_stream("libx264", rate=24)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    stream.codec_context.gop_size, stream.codec_context.max_b_frames, stream.codec_context.thread_count = 60, 2, 1
    for i in range(LENGTH):
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        for bit in range(8):
            if i >> bit & 1:
                image[48:72, bit * 20 + 2 : bit * 20 + 18] = 230
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 24)
        target.mux(stream.encode(frame))
    target.mux(stream.encode(None))

with av.open("whole.mp4") as source, av.open("cut.mp4", "w") as target:
    old = source.streams.video[0]
    new = target.add_stream_from_template(old)
    shift = round(CUT / 24 / old.time_base)
    packets = [packet for packet in source.demux(old) if packet.size]
    start = max(i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= shift)
    assert packets[start].pts == round(KEY / 24 / old.time_base)
    for packet in packets[start:]:
        packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, new
        target.mux(packet)

with av.open("cut.mp4") as source:
    shown = [number(frame.to_ndarray(format="rgb24")) for frame in source.decode(video=0)]
with av.open("cut.mp4") as source:
    assert sum(1 for packet in source.demux(video=0) if packet.size) == LENGTH - KEY
with open("cut.mp4", "rb") as file:
    assert b"elst" in file.read()
print("PyAV:", len(shown), "frames,", shown[0], "to", shown[-1])
assert shown == list(range(CUT, LENGTH))
reader = decord.VideoReader("cut.mp4")
print("decord: len", len(reader))
assert len(reader) == LENGTH - KEY == 176
assert [number(reader[i].asnumpy()) for i in range(176)] == shown + 16 * [239]
asked = np.linspace(0, len(shown) - 1, 16).astype(int).tolist()
given = [number(image) for image in decord.VideoReader("cut.mp4").get_batch(asked).asnumpy()]
errors = [g - shown[a] for a, g in zip(asked, given)]
print("asked", asked, "shown there", [shown[a] for a in asked], "given", given, sep="\n")
print("other than asked:", sum(e != 0 for e in errors), "of 16")
assert errors.count(-16) == 10 and errors.count(0) == 6
found = dict(zip(asked, given))
assert found[53] == 133 and found[63] == 127
PY
for reader in decord==0.6.0 decord2==3.4.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check "$reader" av==15.1.0 numpy==2.2.6
  echo "== $reader"
  venv/bin/python check.py
done
echo confirmed
