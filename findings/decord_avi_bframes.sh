#!/usr/bin/env bash
# decord gives other frames than asked for from an AVI file with B-frames.
#
# Date: 2026-11-27.
# Versions: decord 0.6.0, PyAV 15.1.0, NumPy 2.2.6.
#
# What happens:
#   The script writes 240 frames as MPEG-4 with B-frames (max_b_frames 2, a key frame every 60 frames) into an AVI file.
#   Each frame carries its number as bright blocks.
#   PyAV decodes the file from the start and gives frames 0 to 239 in order.
#   decord reads vr[0], vr[1], and so on, and gives the same frames in order.
#   decord's get_batch with 16 evenly spaced indices gives 11 other frames than asked for.
#   For index 63 it gives frame 5, for index 175 frame 117, and for index 191 frame 193.
#   The 16 frames are not in ascending order.
#   decord raises no error.
#   An AVI file of the same pictures without B-frames gives all 16 frames right.
#
# Why it matters: An evaluation that takes evenly spaced frames by get_batch shows the model this wrong order.
#   A question about what happened first can then get another answer.
#
# What you can do: Read AVI files one frame after the other and keep the frames that you need.
#   Or decode them by PyAV from the start.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check decord==0.6.0 av==15.1.0 numpy==2.2.6
venv/bin/python - <<'PY'
from fractions import Fraction
import av, decord, numpy as np

WIDTH, HEIGHT, LENGTH = 160, 96, 240
print("decord", decord.__version__, "| PyAV", av.__version__, "| NumPy", np.__version__)

def picture(number):
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            image[48:72, bit * 20 + 2 : bit * 20 + 18] = 230
    return image

def number(image):
    return sum(1 << bit for bit in range(8) if image[54:66, bit * 20 + 5 : bit * 20 + 15].mean() > 150)

def write(path, b_frames):
    with av.open(path, "w") as target:
        stream = target.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        codec = stream.codec_context
        codec.gop_size, codec.max_b_frames, codec.thread_count = 60, b_frames, 1
        for i in range(LENGTH):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))

asked = np.linspace(0, LENGTH - 1, 16).astype(int).tolist()
print("asked", asked)

def batch(path):
    return [number(image) for image in decord.VideoReader(path).get_batch(asked).asnumpy()]

for path, b_frames in (("b.avi", 2), ("plain.avi", 0)):
    write(path, b_frames)
    with av.open(path) as source:
        assert [number(f.to_ndarray(format="rgb24")) for f in source.decode(video=0)] == list(range(LENGTH)), path
    reader = decord.VideoReader(path)
    assert [number(reader[i].asnumpy()) for i in range(len(reader))] == list(range(LENGTH)), path
    given = batch(path)
    wrong = sum(a != g for a, g in zip(asked, given))
    print(path, "get_batch gives", given, "| other than asked:", wrong, "of 16")
    assert wrong == (11 if path == "b.avi" else 0), path
    if path == "b.avi":
        found = dict(zip(asked, given))
        assert (found[63], found[175], found[191]) == (5, 117, 193)
        assert given != sorted(given)
print("confirmed")
PY
