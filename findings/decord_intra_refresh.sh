#!/usr/bin/env bash
# decord's get_batch gives later frames than asked for from H.264 with intra refresh.
#
# Date: 2026-11-27.
# Versions: decord 0.6.0 and its fork decord2 3.4.0, PyAV 15.1.0, NumPy 2.2.6.
#
# What happens:
#   The script writes 72 frames of H.264 with x264's intra refresh, without B-frames, with a gop size of 15, in MP4.
#   Each frame carries its number as bright blocks.
#   Only the first picture is an I picture: the others are P pictures.
#   decord's get_key_indices names frames 0, 15, 30, 45 and 60.
#   PyAV decodes the file from the start and gives frames 0 to 71 in order.
#   decord reads vr[0], vr[1], and so on, and gives the same frames in order.
#   decord's get_batch with 16 evenly spaced indices gives 9 other frames than asked for.
#   Seven of the 9 frames are 8 frames too late: index 33 gives frame 41.
#   Indices 61, 66 and 71 all give frame 69.
#   The largest difference between one of the 9 frames and the frame asked for is more than 100 levels (of 255).
#   Each of the 9 frames equals, in every pixel, the frame of which it carries the number.
#   decord raises no error.
#   decord2 does the same in all these points.
#
# Why it matters: An evaluation that takes evenly spaced frames shows the model other moments than it asked for.
#   Frames read one after the other and frames read by get_batch then give different inputs.
#
# What you can do: Read such files one frame after the other and keep the frames that you need.
#   Or decode them by PyAV from the start.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
from fractions import Fraction
import av, decord, numpy as np

WIDTH, HEIGHT, LENGTH = 160, 96, 72
print("decord", decord.__version__, "| PyAV", av.__version__, "| NumPy", np.__version__)

def number(image):
    return sum(1 << bit for bit in range(8) if image[54:66, bit * 20 + 5 : bit * 20 + 15].mean() > 150)

with av.open("a.mp4", "w") as target:
    stream = target.add_stream("libx264", rate=24)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    stream.options = {"x264-params": "intra-refresh=1:bframes=0:scenecut=0"}
    stream.codec_context.gop_size, stream.codec_context.max_b_frames, stream.codec_context.thread_count = 15, 0, 1
    for i in range(LENGTH):
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        for bit in range(8):
            if i >> bit & 1:
                image[48:72, bit * 20 + 2 : bit * 20 + 18] = 230
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 24)
        target.mux(stream.encode(frame))
    target.mux(stream.encode(None))

with av.open("a.mp4") as source:
    frames = list(source.decode(video=0))
assert [int(frame.pict_type) for frame in frames] == [1] + [2] * 71  # I, then P
assert [number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(LENGTH))
reader = decord.VideoReader("a.mp4")
print("get_key_indices", reader.get_key_indices())
assert list(reader.get_key_indices()) == [0, 15, 30, 45, 60]
in_order = [reader[i].asnumpy().astype(int) for i in range(LENGTH)]
assert [number(image) for image in in_order] == list(range(LENGTH))
asked = np.linspace(0, LENGTH - 1, 16).astype(int).tolist()
images = decord.VideoReader("a.mp4").get_batch(asked).asnumpy()
given = [number(image) for image in images]
away = [int(abs(image - in_order[i]).max()) for i, image in zip(asked, images)]
print("asked", asked, "given", given, "largest difference from the frame asked for", away, sep="\n")
late = [g - a for a, g in zip(asked, given)]
print("other than asked:", sum(d != 0 for d in late), "of 16")
assert late.count(0) == 7 and late.count(8) == 7
found = dict(zip(asked, given))
assert found[33] == 41 and found[61] == found[66] == found[71] == 69
assert max(away) > 100
assert all((image == in_order[g]).all() for image, g in zip(images, given))
PY
for reader in decord==0.6.0 decord2==3.4.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check "$reader" av==15.1.0 numpy==2.2.6
  echo "== $reader"
  venv/bin/python check.py
done
echo confirmed
