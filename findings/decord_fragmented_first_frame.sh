#!/usr/bin/env bash
# decord skips the first two frames of a video that does not begin at time 0.
#
# Date: 2026-11-27.
# Versions: decord 0.6.0 and its fork decord2 3.4.0, PyAV 15.1.0, NumPy 2.2.6.
#
# What happens:
#   The script writes 72 frames of H.264 with B-frames (max_b_frames 2) as FLV and as fragmented MP4.
#   The fragmented MP4 has the movflags frag_keyframe and empty_moov.
#   Each frame carries its number as bright blocks.
#   In both files the time stamp of the first picture is about 0.083 s, two frames after 0.
#   PyAV decodes both files from the start and gives frames 0 to 71 in order.
#   decord's get_batch with 16 evenly spaced indices gives frame 2 for index 0, and the other 15 frames right.
#   vr[0] of a new reader gives frame 2 as well.
#   decord reads vr[0], vr[1], and so on, and gives frame i + 2 for index i, up to index 69.
#   Indices 70 and 71 then give frame 71.
#   So get_batch and reading one after the other disagree about almost all frames.
#   decord raises no error.
#   Copying the packets into an ordinary MP4 file, without encoding again, makes all 72 frames right.
#   decord2 does the same in all these points.
#
# Why it matters: Neither way of reading gives frames 0 and 1.
#   Two evaluations that use decord in these two ways show the model different frames of the same file.
#
# What you can do: Copy the packets into an ordinary MP4 file first, or decode by PyAV from the start.
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

def write(path, options):
    with av.open(path, "w", container_options=options) as target:
        stream = target.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames, stream.codec_context.thread_count = 20, 2, 1
        for i in range(LENGTH):
            image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            for bit in range(8):
                if i >> bit & 1:
                    image[48:72, bit * 20 + 2 : bit * 20 + 18] = 230
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))

def one_by_one(path):
    reader = decord.VideoReader(path)
    return [number(reader[i].asnumpy()) for i in range(len(reader))]

asked = np.linspace(0, LENGTH - 1, 16).astype(int).tolist()
for path, options in (("a.flv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})):
    write(path, options)
    with av.open(path) as source:
        frames = list(source.decode(video=0))
    assert [number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(LENGTH))
    begin = float(frames[0].pts * frames[0].time_base)
    assert abs(begin - 2 / 24) < 0.001
    given = [number(image) for image in decord.VideoReader(path).get_batch(asked).asnumpy()]
    single = number(decord.VideoReader(path)[0].asnumpy())
    in_order = one_by_one(path)
    print(path, f"begins at {begin:.3f} s", "asked", asked, "get_batch", given, "vr[0]", single, sep="\n  ")
    print("  one after the other", in_order)
    assert given == [2, *asked[1:]] and single == 2
    assert in_order == [*range(2, 72), 71, 71]
    with av.open(path) as source, av.open("copy.mp4", "w") as target:
        new = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = new
                target.mux(packet)
    assert one_by_one("copy.mp4") == list(range(LENGTH))
PY
for reader in decord==0.6.0 decord2==3.4.0; do
  "${PYTHON:-python3}" -m venv --clear venv
  venv/bin/pip install --quiet --disable-pip-version-check "$reader" av==15.1.0 numpy==2.2.6
  echo "== $reader"
  venv/bin/python check.py
done
echo confirmed
