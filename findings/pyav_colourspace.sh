#!/usr/bin/env bash
# PyAV 15.1.0 converts BT.709 video to RGB as if it were BT.601; PyAV 18.1.0 honours the tag.
#
# Date: 2026-11-27.
# Versions: PyAV 15.1.0 and PyAV 18.1.0, NumPy 2.2.6.
#
# What happens:
#   The script makes patches of six plain colours, and computes their Y, U and V by the formula of BT.709.
#   It writes them as 8-bit yuv420p H.264 that is tagged BT.709 with limited range.
#   Both versions of PyAV see the tag: frame.colorspace is 1.
#   With PyAV 15.1.0, to_ndarray(format="rgb24") gives a colour that is more than 20 levels (of 255) wrong.
#   The six colours are within 4 levels of what the formula of BT.601 gives.
#   Naming src_colorspace="ITU709" alone changes nothing.
#   Naming dst_colorspace="DEFAULT", with src_colorspace or without, gives the right colours, within 4 levels.
#   With PyAV 18.1.0, to_ndarray(format="rgb24") gives the right colours by itself, within 4 levels.
#
# Why it matters: The same file and the same line of code give a model different colours in two environments.
#
# What you can do: Pin the version of PyAV, and report it with the score.
#   With PyAV 15.1.0, name dst_colorspace="DEFAULT".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
import os
import av, numpy as np

SIZE = 32
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 200), (220, 200, 40), (190, 50, 190), (40, 190, 190)]
print("PyAV", av.__version__, "| NumPy", np.__version__, "| libswscale", av.library_versions["libswscale"])

def to_yuv(rgb, kr, kb):
    r, g, b = (value / 255 for value in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    return 16 + 219 * y, 128 + 224 * (b - y) / (2 - 2 * kb), 128 + 224 * (r - y) / (2 - 2 * kr)

def to_rgb(yuv, kr, kb):
    y, u, v = (yuv[0] - 16) / 219, (yuv[1] - 128) / 224, (yuv[2] - 128) / 224
    r, b = y + (2 - 2 * kr) * v, y + (2 - 2 * kb) * u
    return [min(max(255 * value, 0), 255) for value in (r, (y - kr * r - kb * b) / (1 - kr - kb), b)]

BT709, BT601 = (0.2126, 0.0722), (0.299, 0.114)
if not os.path.exists("a.mp4"):
    with av.open("a.mp4", "w") as target:
        stream = target.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = SIZE * len(COLOURS), SIZE, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = 1
        codec.thread_count = 1
        yuv = [[round(value) for value in to_yuv(colour, *BT709)] for colour in COLOURS]
        lines = [np.repeat([value[plane] for value in yuv], SIZE // (2 if plane else 1)) for plane in range(3)]
        planes = [np.tile(line, (SIZE // (2 if plane else 1), 1)) for plane, line in enumerate(lines)]
        image = np.concatenate([plane.reshape(-1, SIZE * len(COLOURS)) for plane in planes]).astype(np.uint8)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(image, format="yuv420p")
            frame.colorspace = frame.color_range = 1
            frame.pts = i
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))

with av.open("a.mp4") as source:
    frame = next(source.decode(video=0))
assert frame.colorspace == 1 and frame.color_range == 1
as_601 = np.array([to_rgb(to_yuv(colour, *BT709), *BT601) for colour in COLOURS])

def centres(**names):
    return frame.to_ndarray(format="rgb24", **names)[SIZE // 2, SIZE // 2 :: SIZE].astype(float)

def off(colours, right=np.array(COLOURS)):
    return round(float(abs(colours - right).max()))

plain = centres()
named = centres(src_colorspace="ITU709")
target_only = centres(dst_colorspace="DEFAULT")
both = centres(src_colorspace="ITU709", dst_colorspace="DEFAULT")
print("off by at most: plain", off(plain), "| src named", off(named), "| src and dst named", off(both))
print("plain, away from the formula of BT.601:", off(plain, as_601))
assert (named == plain).all() and (target_only == both).all() and off(both) <= 4
if av.__version__ == "15.1.0":
    assert 20 < off(plain) and off(plain, as_601) <= 4
else:
    assert off(plain) <= 4
PY
for version in 15.1.0 18.1.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check av=="$version" numpy==2.2.6
  venv/bin/python check.py
done
echo confirmed
