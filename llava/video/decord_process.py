"""A script that runs decord in its own process, where a hang or a crash harms nothing else.

Arguments: a video file, and the whole seconds after which the process ends itself. It writes the number of frames and
the average rate as one line of JSON, reads one line with a JSON list of frame numbers, and writes these frames, uint8
RGB [T, H, W, 3], in numpy's format.
"""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this file's folder: its modules must not hide others of the same name

import json
import signal

import numpy as np
from decord import VideoReader, cpu

signal.alarm(int(sys.argv[2]))  # also ends it if the parent process is gone
reader = VideoReader(sys.argv[1], ctx=cpu(0), num_threads=1)
print(json.dumps([len(reader), float(reader.get_avg_fps())]), flush=True)
indices = json.loads(sys.stdin.readline())
np.save(sys.stdout.buffer, reader.get_batch(indices).asnumpy())
