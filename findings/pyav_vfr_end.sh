#!/usr/bin/env bash
# PyAV's libx264 with B-frames and a variable frame rate writes an MP4 that says it ends before its last frame is shown.
#
# Date: 2026-11-29.
# Versions: PyAV 15.1.0 and PyAV 18.1.0, NumPy 2.2.6.
#
# What happens:
#   The script encodes 8 frames with libx264. They are shown at 0, 0.5, 0.75, 1.3, 2.0, 2.5, 2.51 and 4.0 s.
#   Every frame has its duration, the last one 0.5 s, and the time base is a millisecond.
#   With the encoder's default, which has B-frames, the MP4 file says that it is 3.29 s long (15.1.0). Its last frame is shown at 4.0 s.
#   PyAV decodes all 8 frames of it, at the right times.
#   Without B-frames the same frames give a file whose length is beyond its last frame.
#   So does the default in Matroska.
#
# Why it matters: Harnesses divide the frames by the length to get a frame rate, and name times in the prompt by it.
#   Here that is 2.43 frames per second for 1.99, and the model is told that a video of 4.5 s lasts 3.29 s.
#
# What you can do: Set codec_context.max_b_frames = 0 where frames have times of their own.
#   Compare a file's length with the time of its last frame.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > check.py <<'PY'
from fractions import Fraction
import av, numpy as np

SHOWN, END = [0, 500, 750, 1300, 2000, 2500, 2510, 4000], 4500
print("PyAV", av.__version__, "| NumPy", np.__version__, "| libavcodec", av.library_versions["libavcodec"])

def written(name, b_frames):
    with av.open(name, "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        for i, (start, end) in enumerate(zip(SHOWN, SHOWN[1:] + [END])):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * i, np.uint8), format="rgb24")
            frame.pts, frame.duration, frame.time_base = start, end - start, Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with av.open(name) as source:
        times = [round(frame.time, 3) for frame in source.decode(video=0)]
        print(f"{name}: says {source.duration / 1e6:.2f} s, frames at {times}")
        assert times == [start / 1000 for start in SHOWN]
        return source.duration / 1e6

default = written("default.mp4", None)
assert default < 3.5
assert written("two.mp4", 2) < 3.5
assert written("none.mp4", 0) > 4.0
assert written("default.mkv", None) > 4.0
if av.__version__ == "15.1.0":
    assert abs(default - 3.29) < 0.02
PY
for version in 15.1.0 18.1.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check av=="$version" numpy==2.2.6
  venv/bin/python check.py
done
echo confirmed
