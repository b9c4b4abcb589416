#!/usr/bin/env bash
# The same 10-bit video gives other RGB pixels at colour edges in PyAV 15.1.0, 16.1.0 and 18.1.0.
#
# Date: 2026-11-27.
# Versions: PyAV 15.1.0 (libavcodec 61), 16.1.0 (libavcodec 62) and 18.1.0 (libavcodec 62), NumPy 2.2.6.
#
# What happens:
#   The script writes patches of six plain colours as H.264, once as yuv420p10le and once as yuv420p.
#   Each patch is 32 pixels wide and high.
#   All three versions decode exactly the same Y, U and V.
#   The 10-bit frames differ after to_ndarray(format="rgb24").
#   From 15.1.0 to 16.1.0 they differ by more than 20 levels (of 255) near the edges of the patches.
#   From 15.1.0 to 18.1.0 they differ by more than 50 levels there, and from 16.1.0 to 18.1.0 by more than 30.
#   Four pixels or more from an edge they differ by at most 3 levels.
#   The 8-bit frames are exactly the same in all three versions.
#
# Why it matters: The same 10-bit file and the same line of code give a model different pixels.
#   A comparison of two environments can then show a difference that the model did not make.
#
# What you can do: Pin the version of PyAV, and report it with the score.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > convert.py <<'PY'
import os
import av, numpy as np

SIZE, ACROSS, DOWN = 32, 6, 4
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 200), (220, 200, 40), (190, 50, 190), (40, 190, 190)]
print("PyAV", av.__version__, "| NumPy", np.__version__, "| libavcodec", av.library_versions["libavcodec"])
assert av.library_versions["libavcodec"][0] == (61 if av.__version__ == "15.1.0" else 62)
for form in ("yuv420p10le", "yuv420p"):
    path = form + ".mp4"
    if not os.path.exists(path):
        patches = np.array([[COLOURS[(2 * x + 3 * y + x // 3) % 6] for x in range(ACROSS)] for y in range(DOWN)], np.uint8)
        image = patches.repeat(SIZE, 0).repeat(SIZE, 1)
        with av.open(path, "w") as target:
            stream = target.add_stream("libx264", rate=24, options={"crf": "4"})
            stream.width, stream.height, stream.pix_fmt = SIZE * ACROSS, SIZE * DOWN, form
            stream.codec_context.thread_count = 1
            for i in range(3):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = i
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    with av.open(path) as source:
        frame = next(source.decode(video=0))
    assert frame.format.name == form
    np.save(f"{form}-{av.__version__}-rgb.npy", frame.to_ndarray(format="rgb24").astype(int))
    np.save(f"{form}-{av.__version__}-yuv.npy", np.concatenate([np.frombuffer(p, np.uint8) for p in frame.planes]))
PY
for version in 15.1.0 16.1.0 18.1.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check av=="$version" numpy==2.2.6
  venv/bin/python convert.py
done
venv/bin/python - <<'PY'
import numpy as np

place = np.arange(32)
inside_line = (place >= 4) & (place < 28)
inside = np.tile(np.outer(inside_line, inside_line), (4, 6))
for form in ("yuv420p10le", "yuv420p"):
    for old, new, least in (("15.1.0", "16.1.0", 20), ("15.1.0", "18.1.0", 50), ("16.1.0", "18.1.0", 30)):
        a, b = (np.load(f"{form}-{version}-rgb.npy") for version in (old, new))
        assert np.array_equal(*(np.load(f"{form}-{version}-yuv.npy") for version in (old, new)))
        difference = abs(a - b).max(-1)
        edges, insides = int(difference.max()), int(difference[inside].max())
        print(form, old, new, "largest difference", edges, "| 4 pixels or more from an edge", insides)
        assert (edges > least and insides <= 3) if form == "yuv420p10le" else edges == 0
PY
echo confirmed
